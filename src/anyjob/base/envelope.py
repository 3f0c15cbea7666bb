"""The envelope: one queued run of a job, as one JSON object that is the same on every broker."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Mapping
from datetime import datetime
from enum import IntEnum
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Raw, Struct
from msgspec.structs import replace

from anyjob.base.errors import EnvelopeError
from anyjob.base.forks import in_each_process

__all__ = [
    "ENVELOPE_VERSION",
    "JOB_ID",
    "MAX_COUNT",
    "MAX_ERROR_LENGTH",
    "MAX_HEADERS_SIZE",
    "QUEUE_NAME",
    "QUEUE_RULE",
    "RESERVED_HEADER_PREFIX",
    "UNREADABLE",
    "JobEnvelope",
    "JobIds",
    "JobPriority",
    "copy_id",
    "count_loss",
    "count_loss_in",
    "id_in",
    "own_id",
    "read_envelope",
    "write_envelope",
    "write_envelope_tightly",
]

ENVELOPE_VERSION: Final = 1
MAX_ERROR_LENGTH: Final = 500
MAX_HEADERS_SIZE: Final = 8 * 1024
RESERVED_HEADER_PREFIX: Final = "anyjob-"


class JobPriority(IntEnum):
    """How soon a waiting job runs: higher is sooner, on every backend. ABP's five levels."""

    LOW = 5
    BELOW_NORMAL = 10
    NORMAL = 15
    ABOVE_NORMAL = 20
    HIGH = 25


JOB_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
QUEUE_NAME: Final = re.compile(r"[a-z][a-z0-9_-]{0,62}")
QUEUE_RULE: Final = "a queue's name has a to z first, then a to z, 0 to 9, '_' and '-', and 63 characters at most."

_COPY: Final = "~"  # in no `JOB_ID`

JobName = Annotated[str, Meta(min_length=1, max_length=128)]
MAX_COUNT: Final = 1_000_000
"""A higher count of tries or losses is read as invalid: a hostile count must not defeat a budget."""
Count = Annotated[int, Meta(ge=0, le=MAX_COUNT)]
UtcDatetime = Annotated[datetime, Meta(tz=True)]


class JobEnvelope(Struct, frozen=True, gc=False, omit_defaults=True):
    """One queued run of a job. Immutable; `msgspec.structs.replace` makes the next one.

    `args` stays raw JSON until the job runs, so that listing, moving and cancelling never touch job code. Fields at
    their default are left out of the JSON; `v` never is. gc=False is safe (no field can form a cycle) and keeps a
    million waiting jobs out of every garbage collection.
    """

    v: int
    """Version of this format."""
    id: Annotated[str, Meta(max_length=64)]
    """Identity of the run; survives tries, moves and brokers. Time-ordered unless the caller gave it."""
    name: JobName
    """The job's stable name: the registry's key, never an import path."""
    args: Raw
    """The arguments' JSON."""
    queue: str
    """Logical queue."""
    priority: JobPriority
    created_at: UtcDatetime
    first_due_at: UtcDatetime
    """When the first try was due; the retry budget starts here. A requeue resets it, a deferral moves it."""
    due_at: UtcDatetime | None = None
    """Not before this; None is at once. Moves with each retry."""
    try_count: Count = 0
    """Failed tries so far."""
    last_try_at: UtcDatetime | None = None
    last_error: str | None = None
    """The error of the last try, cut to `MAX_ERROR_LENGTH` characters."""
    lost_count: Count = 0
    """Tries whose process crashed."""
    headers: Mapping[str, str] = {}
    """The application's own (trace, tenant, correlation) and, under `anyjob-`, ours."""


# The errors of hostile bytes: bad JSON, bad UTF-8, a hundred thousand brackets.
UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(JobEnvelope)


class _AnyVersion(Struct):
    v: int


class _AnyJob(_AnyVersion):
    id: str


_version_decoder = msgspec.json.Decoder(_AnyVersion)
_id_decoder = msgspec.json.Decoder(_AnyJob)


def write_envelope(envelope: JobEnvelope) -> bytes:
    """Return the envelope's JSON."""
    return _encoder.encode(envelope)


def write_envelope_tightly(envelope: JobEnvelope, buffer: bytearray) -> bytes:
    """Return the envelope's JSON without the slack that the encoder leaves behind, 100 bytes a job, for keeping it.

    `buffer` is reused from call to call, by one thread at a time.
    """
    _encoder.encode_into(envelope, buffer)
    return bytes(buffer)


def read_envelope(raw: bytes) -> JobEnvelope:
    """Return the envelope that `raw` holds; raise `EnvelopeError`, saying why, when it can't be read.

    The result's `args` refer to `raw` and keep it in memory; `.copy()` them before keeping the envelope alone.
    """
    try:
        envelope = _decoder.decode(raw)
    except UNREADABLE as error:
        _refuse_other_versions(raw)
        raise EnvelopeError(f"Not a job envelope: {error}") from error
    if envelope.v != ENVELOPE_VERSION:
        _refuse_other_versions(raw)
    # Ids and queues become keys on brokers. Most pass the cheap test; a Meta(pattern=...) costs twice the whole decode.
    job_id, queue = envelope.id, envelope.queue
    if not (job_id.isalnum() and job_id.isascii()) and not JOB_ID.fullmatch(job_id):
        raise EnvelopeError(f"Not a job envelope: {job_id!r} is no job id")
    if queue != "default" and not QUEUE_NAME.fullmatch(queue):
        raise EnvelopeError(f"Not a job envelope: {queue!r} is no queue's name")
    return envelope


def id_in(raw: bytes) -> str | None:
    """Return the id, which `enqueue` returned, of the job in `raw`, of any version; None if there is none."""
    try:
        job_id = _id_decoder.decode(raw).id
    except UNREADABLE:
        return None
    return job_id if JOB_ID.fullmatch(job_id) else None


def copy_id(job_id: str, mark: str) -> str:
    """Return the id of a job that is parked while its own id is taken; `mark` tells it from other copies."""
    return f"{job_id}{_COPY}{mark}"


def own_id(copy: str) -> str:
    """Return the job's own id from its `copy_id`."""
    return copy.partition(_COPY)[0]


def count_loss(envelope: JobEnvelope) -> JobEnvelope:
    """Return the envelope of a job that lost its process, fit to be kept alone; its count stays at `MAX_COUNT`."""
    return replace(envelope, args=envelope.args.copy(), lost_count=min(envelope.lost_count + 1, MAX_COUNT))


def count_loss_in(raw: bytes) -> bytes:
    """Do the same to an envelope as it is kept; bytes that can't be read stay as they are: a worker will park them."""
    try:
        envelope = read_envelope(raw)
    except EnvelopeError:
        return raw
    return write_envelope(count_loss(envelope))


def _refuse_other_versions(raw: bytes) -> None:
    try:
        version = _version_decoder.decode(raw).v
    except UNREADABLE:
        return
    if version != ENVELOPE_VERSION:
        raise EnvelopeError(
            f"The envelope has version {version}; this anyjob reads version {ENVELOPE_VERSION}. "
            "Replay it with a newer anyjob."
        )


class JobIds:
    """Makes ids that sort by time and never repeat, in threads, processes and forked children. Thread-safe.

    28 hex digits: milliseconds, 40 random bits of this process, a count. Drawing all bits anew for each id would cost
    as much as everything else in an enqueue; and `random` won't do, because an application that seeds it in each worker
    would draw the same ids twice.
    """

    def __init__(self) -> None:
        self._count = itertools.count()
        in_each_process(self._begin)

    def _begin(self) -> None:
        self._process = int.from_bytes(os.urandom(5), "big") << 24

    def new(self, now: datetime) -> str:
        """Return a fresh id for a job made at `now`."""
        milliseconds = max(int(now.timestamp() * 1000), 0)  # if the clock is before 1970, ids don't sort
        number = milliseconds << 64 | self._process | next(self._count) & 0xFFFFFF
        return number.to_bytes(14, "big").hex()
