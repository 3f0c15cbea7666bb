"""What travels: one queued run of a job, as one JSON object that is the same on every broker."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from enum import IntEnum
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Raw, Struct

from anyjob.errors import EnvelopeError

__all__ = [
    "ENVELOPE_VERSION",
    "MAX_ERROR_LENGTH",
    "MAX_HEADERS_SIZE",
    "RESERVED_HEADER_PREFIX",
    "UNREADABLE",
    "JobEnvelope",
    "JobPriority",
    "new_job_id",
    "read_envelope",
    "write_envelope",
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


JobId = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,64}\Z")]
JobName = Annotated[str, Meta(min_length=1, max_length=128)]
QueueName = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_-]{0,62}\Z")]
UtcDatetime = Annotated[datetime, Meta(tz=True)]


class JobEnvelope(Struct, frozen=True, gc=False, omit_defaults=True):
    """One queued run of a job. Immutable; `msgspec.structs.replace` makes the next one.

    `args` stays raw JSON until the job runs, so that listing, moving and cancelling never touch job code. Fields at
    their default are left out of the JSON; `v` never is. gc=False is safe (no field can form a cycle) and keeps a
    million waiting jobs out of every garbage collection.
    """

    v: int
    """Version of this format."""
    id: JobId
    """Identity of the run; survives tries, moves and brokers. Time-ordered unless the caller gave it."""
    name: JobName
    """The job's stable name: the registry's key, never an import path."""
    args: Raw
    """The arguments' JSON."""
    queue: QueueName
    """Logical queue."""
    priority: JobPriority
    created_at: UtcDatetime
    first_due_at: UtcDatetime
    """When the first try was due; the retry budget starts here. A requeue resets it, a deferral moves it."""
    due_at: UtcDatetime | None = None
    """Not before this; None is at once. Moves with each retry."""
    try_count: int = 0
    """Failed tries so far."""
    last_try_at: UtcDatetime | None = None
    last_error: str | None = None
    """What the last try failed with, cut to `MAX_ERROR_LENGTH` characters."""
    lost_count: int = 0
    """Tries that ended with their process."""
    headers: Mapping[str, str] = {}
    """The application's own (trace, tenant, correlation) and, under `anyjob-`, ours."""


# What hostile bytes raise: bad JSON, bad UTF-8, a hundred thousand brackets.
UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(JobEnvelope)


class _AnyVersion(Struct):
    v: int


_version_decoder = msgspec.json.Decoder(_AnyVersion)


def write_envelope(envelope: JobEnvelope) -> bytes:
    """Return the envelope's JSON."""
    return _encoder.encode(envelope)


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
    return envelope


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


def new_job_id(now: datetime) -> str:
    """Return a fresh id: 12 hex digits of milliseconds, then 64 random bits, so that ids sort by time.

    From `os.urandom`, because an application that seeds `random` in each worker would draw the same ids twice.
    """
    return f"{(now - _EPOCH) // _MILLISECOND:012x}{os.urandom(8).hex()}"


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
