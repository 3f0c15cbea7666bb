"""Our messages in Redis: sent, taken, acknowledged, given back, promoted. `scripts` has the Lua of it."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from msgspec import Raw, Struct
from redis import Redis
from redis.commands.core import Script
from rq.job import Job, JobStatus
from rq.utils import utcformat

from anyjob.extend import JOB_ID, Clock, EnqueueError, JobEnvelope, SendMarks, write_envelope
from anyjob_redis.levels import KnownQueues
from anyjob_redis.presence import LapsedError
from anyjob_redis.scheduled import score_of
from anyjob_redis.scripts import SLICE, register, run_each, run_in_slices
from anyjob_redis.sending import send_in_batches
from anyjob_redis.skew import is_of_a_machine
from anyjob_rq import scripts
from anyjob_rq.announcing import announced
from anyjob_rq.frame import ENTRY, LONGEST_DATA, EnvelopeSerializer, find_fault, unpack
from anyjob_rq.names import Names
from anyjob_rq.private import KEY_PREFIX, is_enqueue_wrapped

__all__ = ["HeldMessage", "Messages", "Place"]


class HeldMessage(Struct, frozen=True):
    """A message that a worker took: it goes back unless it is acknowledged."""

    native_id: str
    """RQ's id; an approximation, if RQ doesn't allow that id."""
    queue: str
    """The native queue it came from, and goes back to."""
    entry: bytes
    """Its entry in the list of the worker's held messages."""
    raw: bytes
    """The envelope's bytes, or the bytes in its place."""
    fault: str | None
    """Why it must not run: how it differs from a message of ours."""
    redelivered: bool
    """Whether a worker had it before and crashed with it."""


class Place(Struct, frozen=True):
    """Where a message waits, seen from outside."""

    kind: str
    """`waiting` in a queue's list, or `scheduled` in its set."""
    queue: str
    native_id: str


class Messages:
    """The messages of a namespace. Thread-safe. `send` raises `EnqueueError`, `within` so many seconds; the rest raises
    what redis raises.
    """

    def __init__(self, client: Redis, names: Names, clock: Clock, within: float | None = None) -> None:
        self.client: Any = client  # redis-py's types can't tell that nothing is decoded
        self.names = names
        self._clock = clock
        self._within = within
        self._queues = KnownQueues(client, f"{names.namespace}:queues")
        self._send = register(client, scripts.SEND)
        self._scripts: dict[str, Script] = {}
        self._settling = threading.local()
        self._common = (KEY_PREFIX, names.namespace, names.mark_prefix)

    # Senders

    def send(self, envelopes: Sequence[JobEnvelope], *, again: bool = False, moved: str = "") -> None:
        """Put jobs into their queues, in batches that are atomic. `again`: in place of jobs with the same ids; `moved`:
        the key of the move that sends them.
        """
        if not moved and is_enqueue_wrapped():
            envelopes = [announced(envelope, self.names, self.client) for envelope in envelopes]
        jobs = [(envelope.id, self._native(envelope)) for envelope in envelopes]
        held = getattr(self._settling, "held", _NOTHING) if again else _NOTHING
        start = [*self._common, "again" if again else "new", moved, *held]
        # A worker holds the job that it sends again, and then releases it: that must work on a full server, too.
        script = self._script(scripts.SEND) if again else self._send
        send_in_batches(self.client, script, start, jobs, within=self._within)

    @contextmanager
    def settling(self, holder: str, entry: bytes) -> Iterator[None]:
        """Let this thread send again only while `holder` holds the entry: `DuplicateJobIdError` otherwise, because
        another worker has the job by then.
        """
        self._settling.held = (holder, entry)
        try:
            yield
        finally:
            self._settling.held = _NOTHING

    def _native(self, envelope: JobEnvelope) -> list[Any]:
        """Return the script's arguments to write the job exactly as RQ would."""
        now = self._clock.now()
        due = envelope.due_at if envelope.due_at is not None and envelope.due_at > now else None
        queue = self.names.queue(envelope.queue, envelope.priority)
        job = Job.create(
            ENTRY,
            args=[Raw(write_envelope(envelope))],
            connection=self.client,
            id=self.names.native_id(envelope.id),
            origin=queue,
            status=JobStatus.QUEUED if due is None else JobStatus.SCHEDULED,
            description=envelope.name,
            timeout=-1,  # RQ's is 180 s; anyjob has limits of its own
            result_ttl=0,
            serializer=EnvelopeSerializer,
        )
        job.created_at = envelope.created_at
        job.enqueued_at = now if due is None else None
        if len(job.data) > LONGEST_DATA:
            raise EnqueueError(
                f"Job {envelope.id} takes {len(job.data):,} bytes; RQ's workers read {LONGEST_DATA:,} at most.",
                rejected=[envelope.id],
            )
        fields = [part for field in job.to_dict().items() for part in field]
        names = (job.id, envelope.id, SendMarks.key(envelope), envelope.queue, queue)
        return [*names, "" if due is None else score_of(due), len(fields), *fields]

    # Workers

    def take(self, holder: str, queues: Sequence[str], turn: int) -> HeldMessage | None:
        """Take the first message of the highest level of `queues` (none: all known), starting with the `turn`-th.

        A holder runs one message at a time: as long as it holds one, it gets that one.

        Raises `LapsedError` if the holder's sign of life has expired: the message would be given back at once.
        """
        found = self._run(scripts.TAKE, holder, self._rq_now(), turn, *queues)
        if found is None:
            return None
        if found == b"lapsed":
            raise LapsedError(holder)
        queue, native_id, flat = found
        fields: dict[bytes, bytes] = dict(zip(flat[::2], flat[1::2], strict=True))
        raw, fault = self._read(native_id, fields)
        return HeldMessage(
            native_id=native_id.decode("ascii", "replace"),
            queue=queue.decode(),
            entry=b"run %b - %b" % (queue, native_id),
            raw=raw,
            fault=fault,
            redelivered=b"anyjob_redelivered" in fields,
        )

    def _read(self, native_id: bytes, fields: dict[bytes, bytes]) -> tuple[bytes, str | None]:
        if b"data" not in fields:
            return native_id, "This id was queued in RQ, and there is no such job."
        raw, fault = unpack(fields[b"data"])
        job_id = self.names.job_id(native_id.decode("ascii", "replace"))
        if fault is None and (job_id is None or not JOB_ID.fullmatch(job_id)):
            fault = f"Its id in RQ, {native_id[:100]!r}, is none that anyjob gives."
        return raw, fault or find_fault(fields)

    def holds(self, holder: str, entry: bytes) -> bool:
        """Whether the message was not given back meanwhile."""
        return self.client.lpos(f"{self.names.namespace}:held:{holder}", entry) is not None

    def acknowledge(self, holder: str, entry: bytes, counter: str = "", seconds: float = 0.0) -> bool:
        """Remove a message for good, unless the job was sent again; return whether it was still held.

        `counter` is the field of RQ's worker that counts it, and the time it took.
        """
        return bool(self._run(scripts.ACKNOWLEDGE, holder, entry, counter, seconds))

    def acknowledge_all(self, holder: str, entries: Sequence[bytes]) -> Sequence[bool]:
        """Remove messages that were not run, as `acknowledge` does."""
        calls = ((*self._common, holder, entry, "", 0.0) for entry in entries)
        return run_each(self.client, self._script(scripts.ACKNOWLEDGE), calls)

    def give_back(self, holder: str, *, lost: bool) -> Sequence[str]:
        """Put back all messages that `holder` holds; `lost`: those that it ran are marked as redelivered. Return the
        ids.
        """
        return _texts(run_in_slices(lambda limit: self._run(scripts.GIVE_BACK, limit, holder, int(lost))))

    def sweep(self) -> Sequence[str]:
        """Put back the messages of crashed holders; return the ids."""
        return _texts(run_in_slices(lambda limit: self._run(scripts.SWEEP, limit)))

    def promote(self) -> float | None:
        """Move due messages into their queues; return the seconds until the next is due, or None if there is none."""
        now = self._clock.now()
        machine = int(is_of_a_machine(self._clock))
        first = self._run(scripts.PROMOTE, score_of(now), machine, self._rq_now(), SLICE)
        return None if first is None else max(0.0, float(first) - now.timestamp())

    # The inspector

    def take_off(self, holder: str, seconds: float, places: Sequence[Place]) -> Sequence[bytes]:
        """Hold the messages that are still at these places; return their entries. If a holder crashes, they go back."""
        flat = [part for place in places for part in (place.kind, place.queue, place.native_id)]
        return list(self._run(scripts.TAKE_OFF, holder, int(seconds * 1000), *flat))

    def count(self) -> tuple[int, int, int]:
        """Return how many are waiting, scheduled and running, at one moment."""
        waiting, scheduled, running = self._run(scripts.COUNT, score_of(self._clock.now()))
        return waiting, scheduled, running

    def known_queues(self) -> Sequence[str]:
        """Return the logical queues that jobs were ever sent to, sorted."""
        return self._queues.names()

    def _run(self, script: str, *args: Any) -> Any:
        return self._script(script)(args=[*self._common, *args])

    def _script(self, text: str) -> Script:
        if text not in self._scripts:
            self._scripts[text] = register(self.client, text, drains=self.names.namespace)
        return self._scripts[text]

    def _rq_now(self) -> str:
        return utcformat(self._clock.now())


def _texts(values: Any) -> list[str]:
    return [value.decode("utf-8", "replace") for value in values]


_NOTHING: Final = ("", b"")
