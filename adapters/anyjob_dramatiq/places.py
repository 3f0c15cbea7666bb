"""Where our messages are on Redis: scheduled, in a level of a queue, held."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial

from anyjob.extend import JobFilter, JobState, StoredJob
from anyjob_dramatiq.frame import unwrap
from anyjob_dramatiq.messages import Messages
from anyjob_dramatiq.scripts import MARK
from anyjob_redis.levels import ids_after
from anyjob_redis.places import COUNTED, LONGEST_HOLD, Places, Section, Seen, section_by_id, section_of_held
from anyjob_redis.presence import is_steady
from anyjob_redis.scheduled import DUE_OR_LATER, state_at

__all__ = ["DramatiqPlaces"]


class DramatiqPlaces(Places):
    """A place is a level's name, or `scheduled`; an entry is that of the holder's list."""

    def __init__(self, messages: Messages, lease: float) -> None:
        self._lease = lease
        self._messages = messages
        self._client = messages.client
        self._names = messages.names

    def count(self) -> Mapping[JobState, int]:
        return dict(zip(COUNTED, self._messages.count(), strict=True))

    def sections(self, chosen: JobFilter) -> Iterator[Section]:
        if chosen.ids is not None:
            yield section_by_id("scheduled", DUE_OR_LATER, chosen.ids, self._find_scheduled)
            yield section_by_id("levels", {JobState.WAITING}, chosen.ids, self._find_waiting)
        else:
            yield self._messages.scheduled.section(self._scheduled)
            for queue in self._messages.known_queues():
                if chosen.queues is None or queue in chosen.queues:
                    for level in self._names.levels(queue):
                        yield Section(level, frozenset({JobState.WAITING}), partial(self._waiting, level))
        yield section_of_held(self._held)

    def take_off(self, holder: str, found: Sequence[Seen]) -> Sequence[tuple[str, StoredJob]]:
        entries = self._messages.take_off(holder, LONGEST_HOLD, [(seen.place, seen.job.id) for seen in found])
        return [(entries[seen.job.id], seen.job) for seen in found if seen.job.id in entries]

    def holds(self, holder: str, entry: str) -> bool:
        return self._messages.holds(holder, entry)

    def acknowledge(self, holder: str, entries: Sequence[str]) -> Sequence[bool]:
        return self._messages.acknowledge(holder, entries)

    def give_back(self, holder: str) -> None:
        self._messages.give_back(holder)

    def recover(self) -> None:
        if is_steady(self._client, self._lease):
            self._messages.sweep()

    def _scheduled(self, job_id: str, state: JobState, payload: bytes) -> tuple[StoredJob, str]:
        return StoredJob(job_id, state, unwrap(payload.partition(b"\n")[2])), "scheduled"

    def _find_scheduled(self, ids: Sequence[str]) -> Sequence[tuple[StoredJob, str]]:
        return [self._scheduled(*each) for each in self._messages.scheduled.find(ids)]

    def _waiting(self, level: str, after: str) -> Iterator[Seen]:
        for found in ids_after(self._client, self._names.key(level), MARK, after):
            positions = dict(found)
            yield from (Seen(positions[job_id], job, level) for job_id, job in self._read(level, list(positions)))

    def _find_waiting(self, ids: Sequence[str]) -> Iterator[tuple[StoredJob, str]]:
        for job_id, place in zip(ids, self._client.hmget(self._names.places, ids), strict=True):
            if place is not None and not place.startswith(b"held "):
                level = _text(place)
                yield from ((job, level) for _, job in self._read(level, [job_id.encode()]))

    def _read(self, level: str, ids: Sequence[bytes]) -> Iterator[tuple[bytes, StoredJob]]:
        messages = self._client.hmget(f"{self._names.key(level)}.msgs", ids) if ids else ()
        for job_id, data in zip(ids, messages, strict=True):
            if data is not None:
                yield job_id, StoredJob(_text(job_id), JobState.WAITING, unwrap(data))

    def _held(self) -> Iterator[tuple[str, StoredJob]]:
        for holder in map(_text, self._client.smembers(self._names.holders)):
            for record in self._client.hvals(f"{self._names.held(holder)}.msgs"):
                yield self._read_record(holder, record)

    def _read_record(self, holder: str, record: bytes) -> tuple[str, StoredJob]:
        try:
            kind, _, due, length, rest = record.split(b" ", 4)
            job_id, data = _text(rest[: int(length)]), rest[int(length) :]
            waits = state_at(float(due), self._messages.clock) if kind == b"scheduled" else JobState.WAITING
        except ValueError:  # a foreign one
            return _text(record[:100]), StoredJob(_text(record[:100]), JobState.RUNNING, record, worker=holder)
        state = waits if kind in (b"waiting", b"scheduled") else JobState.RUNNING
        return job_id, StoredJob(job_id, state, unwrap(data), worker=holder)


def _text(value: bytes) -> str:
    return value.decode("utf-8", "replace")
