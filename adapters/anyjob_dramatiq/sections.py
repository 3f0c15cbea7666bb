"""Where jobs are to be seen on Redis: each section is a kind of place, come past in the order in which a job moves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from anyjob.store import JobState, StoredJob
from anyjob_dramatiq.frame import unwrap
from anyjob_dramatiq.messages import Messages
from anyjob_dramatiq.walk import Section
from anyjob_redis.parked import ParkedJobs
from anyjob_redis.scheduled import scheduled_key

__all__ = ["HeldSection", "LevelSection", "ParkedSection", "ScheduledSection"]


SCHEDULED: Final = "scheduled"


class ScheduledSection(Section):
    """The jobs that are due later, the earliest first, and those that are due and not yet promoted."""

    name = SCHEDULED
    states = frozenset({JobState.SCHEDULED, JobState.WAITING})

    def __init__(self, messages: Messages) -> None:
        self._messages = messages

    def page(self, after: str, limit: int) -> Sequence[tuple[str, StoredJob]]:
        score, _, job_id = after.partition(" ")
        rows = self._messages.scheduled.after(float(score or "-inf"), job_id, limit)
        return [(f"{due!r} {member}", self._job(member, due, payload)) for member, due, payload in rows]

    def find(self, ids: Sequence[str]) -> Sequence[StoredJob]:
        key = scheduled_key(self._messages.names.root)
        found = zip(ids, self._messages.client.zmscore(key, ids), strict=True)
        due = {job_id: score for job_id, score in found if score is not None}
        payloads = self._messages.client.hmget(f"{key}:messages", list(due)) if due else ()
        rows = zip(due.items(), payloads, strict=True)
        return [self._job(job_id, score, payload) for (job_id, score), payload in rows if payload is not None]

    def _job(self, job_id: str, due: float, payload: bytes) -> StoredJob:
        return StoredJob(job_id, _state_at(due, self._messages), unwrap(payload.partition(b"\n")[2]))


class LevelSection(Section):
    """The jobs that wait in one level of a queue, in their order. What is held off it is seen as held."""

    states = frozenset({JobState.WAITING})

    def __init__(self, messages: Messages, level: str) -> None:
        self.name = level
        self._client = messages.client
        self._list = messages.names.key(level)
        self._places = messages.names.places

    def page(self, after: str, limit: int) -> Sequence[tuple[str, StoredJob]]:
        place = self._client.lpos(self._list, after) if after else -1
        start = 0 if place is None else place + 1  # a worker took it, and so all that were before it
        while ids := self._client.lrange(self._list, start, start + limit - 1):
            jobs = self._read(ids)
            if jobs:
                return [(job.id, job) for job in jobs]
            start += limit  # nothing but marks
        return ()

    def find(self, ids: Sequence[str]) -> Sequence[StoredJob]:
        places = self._client.hmget(self._places, ids)
        return self._read([job_id for job_id, place in zip(ids, places, strict=True) if place == self.name.encode()])

    def _read(self, ids: Sequence[bytes | str]) -> list[StoredJob]:
        messages = self._client.hmget(f"{self._list}.msgs", ids) if ids else ()
        found = zip(ids, messages, strict=True)
        return [StoredJob(_text(each), JobState.WAITING, unwrap(data)) for each, data in found if data is not None]


class HeldSection(Section):
    """The jobs that a worker runs, or that somebody took off the shelf."""

    name = "held"
    states = frozenset({JobState.SCHEDULED, JobState.WAITING, JobState.RUNNING})

    def __init__(self, messages: Messages) -> None:
        self._messages = messages
        self._client = messages.client
        self._names = messages.names

    def page(self, after: str, limit: int) -> Sequence[tuple[str, StoredJob]]:
        jobs = sorted(self._all(), key=lambda job: job.id)
        return [(job.id, job) for job in jobs if job.id > after][:limit]

    def find(self, ids: Sequence[str]) -> Sequence[StoredJob]:
        wanted = set(ids)
        return sorted((job for job in self._all() if job.id in wanted), key=lambda job: job.id)

    def _all(self) -> Iterator[StoredJob]:
        for holder in self._client.smembers(self._names.holders):
            for record in self._client.hvals(f"{self._names.held(_text(holder))}.msgs"):
                kind, _, due, length, rest = record.split(b" ", 4)
                job_id, data = rest[: int(length)], rest[int(length) :]
                state = _OFF_THE_SHELF.get(kind, JobState.RUNNING)
                if kind == SCHEDULED.encode():
                    state = _state_at(float(due), self._messages)
                yield StoredJob(_text(job_id), state, unwrap(data), worker=_text(holder))


class ParkedSection(Section):
    """The jobs that were given up."""

    name = "parked"
    states = frozenset({JobState.ABANDONED})

    def __init__(self, parked: ParkedJobs) -> None:
        self._parked = parked

    def page(self, after: str, limit: int) -> Sequence[tuple[str, StoredJob]]:
        return [(job.id, job) for job in self._parked.page(after, limit)]

    def find(self, ids: Sequence[str]) -> Sequence[StoredJob]:
        return self._parked.find(ids)


def _state_at(due: float, messages: Messages) -> JobState:
    return JobState.SCHEDULED if due > messages.clock.now().timestamp() else JobState.WAITING


def _text(value: bytes | str) -> str:
    return value if isinstance(value, str) else value.decode("utf-8", "replace")


_OFF_THE_SHELF: Final = {b"waiting": JobState.WAITING}
