"""A way past all jobs of a namespace, place by place, that can be left and taken up again while they move."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from enum import IntEnum
from typing import Final

import msgspec
from msgspec import Struct
from msgspec.structs import replace
from rq.defaults import RQ_KEY_PREFIX

from anyjob.clock import Clock
from anyjob.envelope import UNREADABLE
from anyjob.store import JobFilter, JobState, StoredJob
from anyjob_redis.parked import ParkedJobs
from anyjob_rq.frame import unpack
from anyjob_rq.messages import Messages, Place

__all__ = ["Cursor", "Seen", "Stage", "Walk"]

_CHUNK: Final = 500


class Stage(IntEnum):
    """The kinds of places, in the order in which a job passes them."""

    SCHEDULED = 0
    WAITING = 1
    HELD = 2
    PARKED = 3


_STATES: Final = {
    Stage.SCHEDULED: {JobState.SCHEDULED, JobState.WAITING},  # due, and not yet promoted
    Stage.WAITING: {JobState.WAITING},
    Stage.HELD: {JobState.SCHEDULED, JobState.WAITING, JobState.RUNNING},
    Stage.PARKED: {JobState.ABANDONED},
}


class Cursor(Struct, frozen=True, array_like=True, order=True):
    """How far a walk has come: past this job of this place."""

    stage: Stage = Stage.SCHEDULED
    queue: str = ""
    score: float = 0.0
    id: str = ""

    @classmethod
    def parse(cls, text: str | None) -> Cursor:
        """Return the cursor that a page gave out; raise ValueError if none did."""
        try:
            return cls() if text is None else msgspec.json.decode(text, type=cls)
        except UNREADABLE as error:
            raise ValueError(text) from error

    def text(self) -> str:
        """Return it as a page gives it out."""
        return msgspec.json.encode(self).decode()


class Seen(Struct, frozen=True):
    """A job that a walk came past."""

    cursor: Cursor
    job: StoredJob
    place: Place | None = None
    """Where it can be taken off; None if it is held, parked or not ours."""

    @property
    def can_be_taken(self) -> bool:
        return self.place is not None or self.job.state is JobState.ABANDONED


class _Row(Struct, frozen=True):
    """What RQ's hash of a job says."""

    native_id: str
    data: bytes
    status: str
    queue: str
    holder: str | None


class Walk:
    """Raises what redis raises, and writes nothing."""

    def __init__(self, messages: Messages, parked: ParkedJobs, clock: Clock) -> None:
        self._client = messages.client
        self._names = messages.names
        self._known_queues = messages.known_queues
        self._parked = parked
        self._clock = clock

    def through(self, chosen: JobFilter, after: Cursor) -> Iterator[Seen]:
        """Come past the jobs that follow `after`, and perhaps others than the chosen: what is cheap is left out.

        A job that stays where it is is seen once, whatever happens to others; one that moves may be seen twice.
        """
        for stage in Stage:
            if stage >= after.stage and (chosen.states is None or chosen.states & _STATES[stage]):
                start = after if stage == after.stage else Cursor(stage)
                way = self._through_ids if chosen.ids is not None else self._through_places
                yield from way(chosen, start)

    def read_entry(self, entry: bytes) -> StoredJob | None:
        """Return the job of an entry in a holder's list, if there is such a job."""
        kind, _, score, native_id = entry.split(b" ", 3)
        for row in self._read([_text(native_id)]):
            return self._job(row, JobState.RUNNING if kind == b"run" else self._state_at(_due(score)))
        return None

    def _through_places(self, chosen: JobFilter, after: Cursor) -> Iterator[Seen]:
        if after.stage is Stage.PARKED:
            yield from self._through_parked(after)
        elif after.stage is Stage.HELD:
            yield from self._through_held(after)
        else:
            read = self._scheduled if after.stage is Stage.SCHEDULED else self._waiting
            logical = [each for each in self._known_queues() if chosen.queues is None or each in chosen.queues]
            queues = [native for each in logical for native in self._names.queues(each)]
            first = queues.index(after.queue) if after.queue in queues else 0
            for queue in queues[first:]:
                yield from self._through_queue(read, after if queue == after.queue else Cursor(after.stage, queue))

    def _through_ids(self, chosen: JobFilter, after: Cursor) -> Iterator[Seen]:
        ids = sorted(each for each in chosen.ids or () if each > after.id)
        if after.stage is Stage.PARKED:
            for job in self._parked.find(ids):
                yield Seen(Cursor(Stage.PARKED, id=job.id), job)
        elif after.stage is Stage.HELD:  # once, wherever they are
            for row in self._read([self._names.native_id(each) for each in ids]):
                if row.status in ("queued", "scheduled", "started"):
                    yield self._seen_by_id(row)

    def _through_queue(self, read: Callable[[Cursor], Sequence[tuple[str, float]]], after: Cursor) -> Iterator[Seen]:
        while chunk := read(after):
            rows = {row.native_id: row for row in self._read([native_id for native_id, _ in chunk])}
            for native_id, score in chunk:
                after = replace(after, score=score, id=native_id)
                row = rows.get(native_id)
                if row is not None and row.holder is None:  # what is held is seen there
                    kind = after.stage.name.lower()
                    ours = self._names.job_id(native_id) is not None
                    place = Place(kind, after.queue, native_id) if ours else None
                    yield Seen(after, self._job(row, self._state_at(score)), place)

    def _scheduled(self, after: Cursor) -> Sequence[tuple[str, float]]:
        key = f"{RQ_KEY_PREFIX}:scheduled:{after.queue}"
        start = 0
        if after.id:
            rank = self._client.zrank(key, after.id)
            # If it is gone: from the first that was due with it.
            start = self._client.zcount(key, "-inf", f"({after.score!r}") if rank is None else rank + 1
        found = self._client.zrange(key, start, start + _CHUNK - 1, withscores=True)
        return [(_text(native_id), score) for native_id, score in found]

    def _waiting(self, after: Cursor) -> Sequence[tuple[str, float]]:
        key = f"{RQ_KEY_PREFIX}:queue:{after.queue}"
        mark = self._names.mark_prefix
        start = 0
        if after.id:
            place = self._client.lpos(key, after.id)
            if place is None:
                place = self._client.lpos(key, mark + after.id)
            start = 0 if place is None else place + 1  # a worker took it, and so all that were before it
        found = self._client.lrange(key, start, start + _CHUNK - 1)
        return [(_text(each).removeprefix(mark), 0.0) for each in found]

    def _through_held(self, after: Cursor) -> Iterator[Seen]:
        entries: dict[Cursor, bytes] = {}
        for holder in self._client.smembers(f"{self._names.namespace}:holders"):
            for entry in self._client.lrange(f"{self._names.namespace}:held:{_text(holder)}", 0, -1):
                entries[Cursor(Stage.HELD, id=_text(entry.split(b" ", 3)[3]))] = entry
        for cursor in sorted(each for each in entries if each > after):
            job = self.read_entry(entries[cursor])
            if job is not None:
                yield Seen(cursor, job)

    def _through_parked(self, after: Cursor) -> Iterator[Seen]:
        while page := self._parked.page(after.id, _CHUNK):
            for job in page:
                after = Cursor(Stage.PARKED, id=job.id)
                yield Seen(after, job)

    def _seen_by_id(self, row: _Row) -> Seen:
        job = self._job(row, JobState.RUNNING if row.status == "started" else JobState.WAITING)
        envelope = job.envelope if row.status == "scheduled" else None
        if envelope is not None and envelope.due_at is not None and envelope.due_at > self._clock.now():
            job = replace(job, state=JobState.SCHEDULED)
        kind = "scheduled" if row.status == "scheduled" else "waiting"
        place = Place(kind, row.queue, row.native_id) if row.holder is None else None
        return Seen(Cursor(Stage.HELD, id=job.id), job, place)

    def _read(self, native_ids: Sequence[str]) -> list[_Row]:
        """Return the jobs that are there, in this order."""
        with self._client.pipeline(transaction=False) as pipeline:
            for native_id in native_ids:
                pipeline.hmget(f"{RQ_KEY_PREFIX}:job:{native_id}", "data", "status", "origin", "anyjob_holder")
            answers = pipeline.execute(raise_on_error=False)  # a key may be of another type
        found = []
        for native_id, answer in zip(native_ids, answers, strict=True):
            if isinstance(answer, list) and answer[0] is not None:
                data, status, queue, holder = answer
                known = None if holder is None else _text(holder)
                found.append(_Row(native_id, data, _text(status or b""), _text(queue or b""), known))
        return found

    def _job(self, row: _Row, state: JobState) -> StoredJob:
        raw, _ = unpack(row.data)
        return StoredJob(self._names.job_id(row.native_id) or row.native_id, state, raw, worker=row.holder)

    def _state_at(self, due: float) -> JobState:
        return JobState.SCHEDULED if due > self._clock.now().timestamp() else JobState.WAITING


def _due(score: bytes) -> float:
    return 0.0 if score == b"-" else float(score)


def _text(value: bytes) -> str:
    return value.decode("utf-8", "replace")
