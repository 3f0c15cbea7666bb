"""Where our jobs are in RQ: scheduled, waiting, held. RQ's own registries are not asked."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Final

from msgspec import Struct

from anyjob.extend import Clock, JobFilter, JobState, StoredJob
from anyjob_redis.levels import ids_after
from anyjob_redis.places import COUNTED, LONGEST_HOLD, Places, Section, Seen, section_by_id, section_of_held
from anyjob_redis.presence import is_steady
from anyjob_redis.scheduled import DUE_OR_LATER, due_after, position_of, state_at
from anyjob_rq.frame import unpack
from anyjob_rq.messages import Messages, Place
from anyjob_rq.private import KEY_PREFIX

__all__ = ["RQPlaces"]


class _Row(Struct, frozen=True):
    """The fields of RQ's hash of a job."""

    native_id: str
    data: bytes
    status: str
    queue: str
    holder: str | None


class RQPlaces(Places):
    """RQ's hash of a job has its message and its holder. An entry is that of the holder's list."""

    def __init__(self, messages: Messages, clock: Clock, lease: float) -> None:
        self._lease = lease
        self._messages = messages
        self._client = messages.client
        self._names = messages.names
        self._clock = clock

    def count(self) -> Mapping[JobState, int]:
        return dict(zip(COUNTED, self._messages.count(), strict=True))

    def sections(self, chosen: JobFilter) -> Iterator[Section]:
        if chosen.ids is not None:
            yield section_by_id("anywhere", COUNTED, chosen.ids, self._find)
            return
        logical = [each for each in self._messages.known_queues() if chosen.queues is None or each in chosen.queues]
        queues = [native for each in logical for native in self._names.queues(each)]
        for queue in queues:
            yield Section(f"scheduled {queue}", DUE_OR_LATER, partial(self._scheduled, queue))
        for queue in queues:
            yield Section(f"waiting {queue}", frozenset({JobState.WAITING}), partial(self._waiting, queue))
        yield section_of_held(self._held)

    def take_off(self, holder: str, found: Sequence[Seen]) -> Sequence[tuple[bytes, StoredJob]]:
        return list(self._read_entries(self._messages.take_off(holder, LONGEST_HOLD, [seen.place for seen in found])))

    def holds(self, holder: str, entry: bytes) -> bool:
        return self._messages.holds(holder, entry)

    def acknowledge(self, holder: str, entries: Sequence[bytes]) -> Sequence[bool]:
        return self._messages.acknowledge_all(holder, entries)

    def give_back(self, holder: str) -> None:
        self._messages.give_back(holder, lost=False)

    def recover(self) -> None:
        if is_steady(self._client, self._lease):
            self._messages.sweep()

    def _scheduled(self, queue: str, after: str) -> Iterator[Seen]:
        for found in due_after(self._client, f"{KEY_PREFIX}:scheduled:{queue}", after):
            due = {_text(native_id): score for native_id, score in found}
            for row in self._free(due):
                score = due[row.native_id]
                job, place = self._seen("scheduled", queue, row, state_at(score, self._clock))
                yield Seen(position_of(row.native_id.encode(), score), job, place)

    def _waiting(self, queue: str, after: str) -> Iterator[Seen]:
        for found in ids_after(self._client, f"{KEY_PREFIX}:queue:{queue}", self._names.mark_prefix, after):
            positions = {_text(native_id): position for native_id, position in found}
            for row in self._free(positions):
                yield Seen(positions[row.native_id], *self._seen("waiting", queue, row, JobState.WAITING))

    def _held(self) -> Iterator[tuple[str, StoredJob]]:
        namespace = self._names.namespace
        holders = map(_text, self._client.smembers(f"{namespace}:holders"))
        entries = [each for holder in holders for each in self._client.lrange(f"{namespace}:held:{holder}", 0, -1)]
        return ((_text(entry.split(b" ", 3)[3]), job) for entry, job in self._read_entries(entries))

    def _find(self, ids: Sequence[str]) -> Iterator[tuple[StoredJob, Place | None]]:
        """Find jobs wherever they are, by RQ's hashes of them."""
        for row in self._read([self._names.native_id(each) for each in ids]):
            if row.status in ("queued", "started"):
                state = JobState.RUNNING if row.status == "started" else JobState.WAITING
                yield self._seen("waiting", row.queue, row, state)
            elif row.status == "scheduled":
                envelope = self._job(row, JobState.SCHEDULED).envelope
                due_at = None if envelope is None else envelope.due_at
                state = state_at(0.0 if due_at is None else due_at.timestamp(), self._clock)
                yield self._seen("scheduled", row.queue, row, state)

    def _free(self, native_ids: Iterable[str]) -> Iterator[_Row]:
        """Return the jobs that are not held: held ones are shown in their own section."""
        return (row for row in self._read(list(native_ids)) if row.holder is None)

    def _read_entries(self, entries: Sequence[bytes]) -> Iterator[tuple[bytes, StoredJob]]:
        """Return the entries of a holder's list that have a job, with that."""
        parsed = [(entry, *entry.split(b" ", 3)) for entry in entries if _ENTRY.fullmatch(entry)]
        rows = {row.native_id: row for row in self._read([_text(native_id) for *_, native_id in parsed])}
        for entry, kind, _, score, native_id in parsed:
            row = rows.get(_text(native_id))
            if row is not None:
                waits = state_at(0.0 if score == b"-" else float(score), self._clock)
                yield entry, self._job(row, JobState.RUNNING if kind == b"run" else waits)

    def _read(self, native_ids: Sequence[str]) -> list[_Row]:
        """Return the jobs that are there, in this order."""
        with self._client.pipeline(transaction=False) as pipeline:
            for native_id in native_ids:
                pipeline.hmget(f"{KEY_PREFIX}:job:{native_id}", "data", "status", "origin", "anyjob_holder")
            answers = pipeline.execute(raise_on_error=False)  # a key may be of another type
        found = []
        for native_id, answer in zip(native_ids, answers, strict=True):
            if isinstance(answer, list) and answer[0] is not None:
                data, status, queue, holder = answer
                known = None if holder is None else _text(holder)
                found.append(_Row(native_id, data, _text(status or b""), _text(queue or b""), known))
        return found

    def _seen(self, kind: str, queue: str, row: _Row, state: JobState) -> tuple[StoredJob, Place | None]:
        free = row.holder is None and self._names.job_id(row.native_id) is not None
        return self._job(row, state), Place(kind, queue, row.native_id) if free else None

    def _job(self, row: _Row, state: JobState) -> StoredJob:
        raw, _ = unpack(row.data)
        return StoredJob(self._names.job_id(row.native_id) or row.native_id, state, raw, worker=row.holder)


def _text(value: bytes) -> str:
    return value.decode("utf-8", "replace")


_ENTRY: Final = re.compile(rb"(run|waiting|scheduled) \S+ (-|[0-9.e+-]+) .*", re.DOTALL)
