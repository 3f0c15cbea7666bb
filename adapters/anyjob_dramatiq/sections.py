"""Where jobs are to be seen on Redis, besides the scheduled and the parked ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from anyjob.store import JobState, StoredJob
from anyjob_dramatiq.frame import unwrap
from anyjob_dramatiq.messages import Messages
from anyjob_redis.walk import Section

__all__ = ["HeldSection", "LevelSection"]


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
    states = frozenset({JobState.WAITING, JobState.RUNNING})

    def __init__(self, messages: Messages) -> None:
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
                kind, _, length, rest = record.split(b" ", 3)
                job_id, data = rest[: int(length)], rest[int(length) :]
                state = JobState.WAITING if kind == _WAITING else JobState.RUNNING
                yield StoredJob(_text(job_id), state, unwrap(data), worker=_text(holder))


def _text(value: bytes | str) -> str:
    return value if isinstance(value, str) else value.decode("utf-8", "replace")


_WAITING: Final = b"waiting"
