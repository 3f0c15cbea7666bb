"""The records of the jobs in a store on Redis, read from outside: nothing in here writes."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import msgspec
from msgspec import Struct
from redis import Redis

from anyjob.extend import Clock, JobFailure, JobFilter, JobState, StoredJob, copy_id, own_id
from anyjob_redis.layout import Layout
from anyjob_redis.levels import LEVELS, KnownQueues
from anyjob_redis.parked import read_failure
from anyjob_redis.places import CHUNK

__all__ = ["JobRecord", "RecordReader", "microseconds", "moment_of", "score_of_due", "text_of"]


class JobRecord(Struct, frozen=True):
    """A job's record."""

    id: bytes
    state: str
    queue: str
    level: str
    due: int
    seq: int
    worker: str
    body: bytes

    @classmethod
    def parse(cls, job_id: bytes, record: bytes) -> JobRecord:
        """Return the fields of a record; a foreign one counts as waiting, and is parked when it is claimed."""
        head, _, rest = record.partition(b"\n")
        try:
            state, queue, level, due, seq, _, length = head.decode().split(" ")
            size = int(length)
            return cls(job_id, state, queue, level, int(due), int(seq), text_of(rest[:size]), rest[size:])
        except ValueError:
            return cls(job_id, "w", "default", "normal", 0, 0, "", record)

    def shown(self, raw: bytes, now: int, failure: bytes | None) -> StoredJob:
        """Return it as a job that is seen from outside; `raw` is its envelope, `now` a score."""
        why: JobFailure | None = None
        if self.state in _PARKED:
            state, why = JobState.ABANDONED, None if failure is None else read_failure(failure)
        elif self.state == "r":
            state = JobState.RUNNING
        else:
            state = JobState.SCHEDULED if self.due > now else JobState.WAITING
        return StoredJob(text_of(self.id), state, raw, why, self.worker or None)


class RecordReader:
    """Reads the records under `root`. Thread-safe; raises what redis raises."""

    def __init__(self, client: Redis, root: str, layout: Layout, clock: Clock) -> None:
        self._client: Any = client  # redis-py's types can't tell that nothing is decoded
        self._root = root
        self._layout = layout
        self._clock = clock
        self._queues = KnownQueues(client, f"{root}:queues")
        self._keys = _Keys(root)

    def free(self, chosen: JobFilter) -> Iterator[bytes | str]:
        """Yield the ids of jobs that are neither running nor held, in the order in which they would run; then the
        parked ones.
        """
        states = chosen.states
        if chosen.ids is not None:
            rows = [(row, job) for row, job in self.by_id(chosen) if row.state in _FREE and chosen.matches(job)]
            rows.sort(key=lambda pair: (pair[0].state == "p", -_RANKS.get(pair[0].level, 0), pair[0].due, pair[0].seq))
            yield from (row.id for row, _ in rows)
            return
        if states is None or states & {JobState.WAITING, JobState.SCHEDULED}:
            queues = [each for each in self._queues.names() if chosen.queues is None or each in chosen.queues]
            for level in LEVELS.values():
                walks = (self._walk(queue, level, chosen) for queue in queues)
                yield from (row.id for row in heapq.merge(*walks, key=lambda row: (row.due, row.seq)))
        if states is None or JobState.ABANDONED in states:
            for ids in self._ids_after(self._keys.parked, 0):
                yield from (row.id for row, job in self._read(ids) if row.state == "p" and chosen.matches(job))

    def _walk(self, queue: str, level: str, chosen: JobFilter) -> Iterator[JobRecord]:
        # All of it, because it is about to change: members of a set that shrinks meanwhile would be missed.
        ids = list(self._layout.walk(self._client, self._root, queue, level))
        for first in range(0, len(ids), CHUNK):
            for row, job in self._read([each.encode() for each in ids[first : first + CHUNK]]):
                if row.state == "w" and chosen.matches(job):
                    yield row

    def in_order(self, after: int) -> Iterator[tuple[JobRecord, StoredJob]]:
        """Yield all jobs that were inserted after the one of that number, in the order of insertion."""
        for ids in self._ids_after(self._keys.order, after):
            yield from self._read(ids)

    def _ids_after(self, key: str, after: int) -> Iterator[Sequence[bytes]]:
        last = f"({after}"
        while found := self._client.zrangebyscore(key, last, "+inf", start=0, num=CHUNK, withscores=True):
            yield [each for each, _ in found]
            last = f"({int(found[-1][1])}"

    def by_id(self, chosen: JobFilter) -> Sequence[tuple[JobRecord, StoredJob]]:
        """Return the chosen ids' jobs, in the order of their insertion: a copy where the job itself is not there."""
        wanted = [each.encode() for each in chosen.ids or ()]
        found = self._read(wanted)
        missing = {each.decode() for each in wanted} - {job.id for _, job in found}
        copies = [copy for each in sorted(missing) for copy in self._first_copy(each)]
        found += [(row, _renamed(job, own_id(job.id))) for row, job in self._read(copies)]
        return sorted(found, key=lambda pair: pair[0].seq)

    def _first_copy(self, job_id: str) -> Sequence[bytes]:
        first, last = f"[{copy_id(job_id, '')}", f"({copy_id(job_id, _BEHIND_ALL)}"
        copies: Sequence[bytes] = self._client.zrangebylex(self._keys.copies, first, last, start=0, num=1)
        return copies

    def _messages(self, waiting: Sequence[tuple[bytes, str, str]]) -> Sequence[bytes | None]:
        return self._layout.messages(self._client, self._root, waiting) if waiting else ()

    def _read(self, ids: Sequence[bytes]) -> list[tuple[JobRecord, StoredJob]]:
        if not ids:
            return []
        records: Sequence[bytes | None] = self._client.hmget(self._keys.jobs, ids)
        rows = [
            JobRecord.parse(job_id, record) for job_id, record in zip(ids, records, strict=True) if record is not None
        ]
        elsewhere = [(row.id, row.queue, row.level) for row in rows if row.state == "w" and not row.body]
        kept = dict(zip((each for each, *_ in elsewhere), self._messages(elsewhere), strict=True))
        parked = [row.id for row in rows if row.state in _PARKED]
        failures = dict(zip(parked, self._client.hmget(self._keys.failures, parked), strict=True)) if parked else {}
        now = score_of_due(self._clock.now())
        return [
            (row, row.shown(self._layout.unwrap(kept.get(row.id) or row.body), now, failures.get(row.id)))
            for row in rows
        ]


class _Keys:
    def __init__(self, root: str) -> None:
        self.jobs = f"{root}:jobs"
        self.order = f"{root}:order"
        self.parked = f"{root}:parked"
        self.failures = f"{root}:failures"
        self.copies = f"{root}:copies"


def _renamed(job: StoredJob, job_id: str) -> StoredJob:
    """Return a job as it is shown under another id."""
    return msgspec.structs.replace(job, id=job_id)


def score_of_due(when: datetime) -> int:
    """Return a due time as it is kept: in microseconds."""
    return (when - _EPOCH) // _MICROSECOND


def moment_of(score: int) -> datetime:
    """Return the due time that was kept so."""
    return _EPOCH + score * _MICROSECOND


def microseconds(duration: timedelta) -> int:
    """Return a duration as scripts are told it."""
    return duration // _MICROSECOND


def text_of(value: bytes) -> str:
    """Return bytes from any writer as text."""
    return value.decode("utf-8", "replace")


_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_FREE: Final = frozenset("wp")
_PARKED: Final = frozenset("pq")
_RANKS: Final = {level: int(priority) for priority, level in LEVELS.items()}
_BEHIND_ALL: Final = "\x7f"
