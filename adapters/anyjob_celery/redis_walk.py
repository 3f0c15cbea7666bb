"""A way past all jobs of a namespace on Redis, place by place, that can be left and taken up again while they move."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from typing import Final

import msgspec
from msgspec import Struct

from anyjob.envelope import UNREADABLE, read_envelope
from anyjob.errors import EnvelopeError
from anyjob.store import JobFilter, JobState, StoredJob
from anyjob_celery.frame import ForeignMessageError
from anyjob_celery.redis_messages import RedisMessages
from anyjob_celery.redis_scripts import MARK
from anyjob_celery.redis_wire import LEVELS, envelope_in
from anyjob_redis import ParkedJobs

__all__ = ["Cursor", "RedisWalk", "Seen"]


class Cursor(Struct, frozen=True, array_like=True):
    """How far a walk has come: past that message of that place."""

    stage: int = 0
    place: str = ""
    position: float = 0.0
    """A due time, or an index in a list."""
    mark: str = ""

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
    place: str = ""
    """Where it can be taken off, as the scripts name it; empty if it is held, or parked."""
    item: bytes = b""

    @property
    def can_be_taken(self) -> bool:
        return bool(self.place) or self.job.state is JobState.ABANDONED


class RedisWalk:
    """Scheduled, waiting, held, parked: that way a job moves, so that a walk misses few. Raises what redis-py raises.

    Who stays where it is is seen once, whatever others do; who moves may be seen twice.
    """

    def __init__(self, messages: RedisMessages, parked: ParkedJobs) -> None:
        self._messages = messages
        self._parked = parked
        self._stages: tuple[tuple[frozenset[JobState], Callable[[Cursor], Iterator[Seen]]], ...] = (
            (frozenset({JobState.SCHEDULED}), self._scheduled),
            (frozenset({JobState.WAITING}), self._waiting),
            (frozenset({JobState.RUNNING, JobState.WAITING, JobState.SCHEDULED}), self._held),
            (frozenset({JobState.ABANDONED}), self._given_up),
        )

    def through(self, chosen: JobFilter, after: Cursor) -> Iterator[Seen]:
        """Come past the chosen jobs that follow `after`."""
        for number, (states, stage) in enumerate(self._stages):
            if number >= after.stage and (chosen.states is None or chosen.states & states):
                start = after if number == after.stage else Cursor(number)
                yield from (seen for seen in stage(start) if chosen.matches(seen.job))

    def _scheduled(self, after: Cursor) -> Iterator[Seen]:
        due, member = after.position, after.mark
        while chunk := self._messages.scheduled.after(due, member, _CHUNK):
            for member, due, payload in chunk:  # the next chunk follows the last of this one
                item = payload.partition(b"\n")[2]
                yield Seen(Cursor(0, "", due, member), _job(item, JobState.SCHEDULED), f"scheduled {member}", item)

    def _waiting(self, after: Cursor) -> Iterator[Seen]:
        places = [f"waiting {queue} {level}" for queue in self._messages.queues() for level in LEVELS.values()]
        for place in places[places.index(after.place) if after.place in places else 0 :]:
            first = self._index_after(after) if place == after.place else 0
            for index, item in self._items(place, first):
                if not item.startswith(MARK.encode()):  # what it stands for is held
                    yield Seen(Cursor(1, place, index, _digest(item)), _job(item, JobState.WAITING), place, item)

    def _held(self, after: Cursor) -> Iterator[Seen]:
        for tag, (kind, item) in sorted(self._messages.held().items()):
            if tag > after.mark:
                yield Seen(Cursor(2, mark=tag), _job(item, _HELD[kind.partition(" ")[0]]))

    def _given_up(self, after: Cursor) -> Iterator[Seen]:
        last = after.mark
        while chunk := self._parked.page(last, _CHUNK):
            yield from (Seen(Cursor(3, mark=job.id), job) for job in chunk)
            last = chunk[-1].id

    def _index_after(self, after: Cursor) -> int:
        """Return where to go on in a list. What was seen last is there, or nearer to the front, or gone with all before
        it.
        """
        for index, item in self._items(after.place, 0):
            if _digest(item) == after.mark:
                return index + 1
            if index >= after.position:
                break
        return 0

    def _items(self, place: str, first: int) -> Iterator[tuple[int, bytes]]:
        _, queue, level = place.split(" ")
        while chunk := self._messages.waiting(queue, int(level), first, _CHUNK):
            yield from enumerate(chunk, first)
            first += len(chunk)


def _job(item: bytes, state: JobState) -> StoredJob:
    try:
        raw = envelope_in(item)
        return StoredJob(read_envelope(raw).id, state, raw)
    except (ForeignMessageError, EnvelopeError):
        return StoredJob(f"unreadable-{_digest(item)}", state, item)


def _digest(item: bytes) -> str:
    return hashlib.sha256(item).hexdigest()[:16]


_CHUNK: Final = 500

_HELD: Final[Mapping[str, JobState]] = {
    "run": JobState.RUNNING,
    "waiting": JobState.WAITING,
    "scheduled": JobState.SCHEDULED,
}
