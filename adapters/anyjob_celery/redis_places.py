"""Where our messages are to be seen on Redis: scheduled, in a list of a queue, held."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import count
from typing import Final

from anyjob.extend import EnvelopeError, JobFilter, JobIds, JobState, StoredJob, read_envelope
from anyjob_celery.frame import ForeignMessageError
from anyjob_celery.redis_messages import RedisMessages
from anyjob_celery.redis_scripts import MARK
from anyjob_celery.redis_wire import LEVELS, envelope_in
from anyjob_redis import COUNTED, LONGEST_HOLD, Places, Section, Seen, section_of_held
from anyjob_redis.presence import is_steady
from anyjob_redis.scheduled import state_at

__all__ = ["CeleryPlaces"]

_CHUNK: Final = 500


class CeleryPlaces(Places):
    """A place is what the scripts hold a message by: its kind and place, and the message. An entry is a tag."""

    def __init__(self, messages: RedisMessages, lease: float) -> None:
        self._messages = messages
        self._lease = lease
        self._ids = JobIds()

    def count(self) -> Mapping[JobState, int]:
        return dict(zip(COUNTED, self._messages.count(), strict=True))

    def sections(self, chosen: JobFilter) -> Iterator[Section]:
        yield self._messages.scheduled.section(self._scheduled)
        for queue in self._messages.queues():
            if chosen.queues is None or queue in chosen.queues:
                for level in LEVELS.values():
                    walk = partial(self._waiting, queue, level)
                    yield Section(f"waiting {queue} {level}", frozenset({JobState.WAITING}), walk)
        yield section_of_held(self._held)

    def take_off(self, holder: str, found: Sequence[Seen]) -> Sequence[tuple[str, StoredJob]]:
        now = self._messages.clock.now()
        # In order, for a worker may pass the marks meanwhile: then all go back to the front, the first one last.
        by_tag = {f"{seen.place[0].partition(' ')[0]}-{holder}-{self._ids.new(now)}": seen for seen in found}
        taken = self._messages.hold(LONGEST_HOLD, [(tag, *seen.place) for tag, seen in by_tag.items()])
        return [(tag, by_tag[tag].job) for tag in map(bytes.decode, taken)]

    def holds(self, holder: str, entry: str) -> bool:  # noqa: ARG002  # a tag is the holder's own
        return self._messages.holds(entry)

    def acknowledge(self, holder: str, entries: Sequence[str]) -> Sequence[bool]:  # noqa: ARG002
        return self._messages.acknowledge(entries)

    def give_back(self, holder: str) -> None:
        self._messages.give_back(self._messages.held_by(holder), lost=False)

    def recover(self) -> None:
        if is_steady(self._messages.client, self._lease):
            while self._messages.sweep(self._lease):
                pass

    def _scheduled(self, member: str, state: JobState, payload: bytes) -> tuple[StoredJob, tuple[str, bytes]]:
        item = payload.partition(b"\n")[2]
        return _job(item, state), (f"scheduled {member}", item)

    def _waiting(self, queue: str, level: int, after: str) -> Iterator[Seen]:
        for index, item, following in self._items(queue, level, self._index_after(queue, level, after)):
            if not item.startswith(MARK.encode()):  # what it stands for is held
                place = (f"waiting {queue} {level}", item)
                yield Seen(f"{index} {_digest(item)} {_digest(following)}", _job(item, JobState.WAITING), place)

    def _held(self) -> Iterator[tuple[str, StoredJob]]:
        for tag, (kind, item) in self._messages.held().items():
            name, _, rest = kind.partition(" ")
            due = rest.rpartition(" ")[2]
            yield tag, _job(item, state_at(float(due), self._messages.clock) if name == "scheduled" else _HELD[name])

    def _index_after(self, queue: str, level: int, after: str) -> int:
        """Return where to go on in a list. What was seen last is where it was, or nearer to the front; or it was taken
        out, and what followed it is there; or both are gone with all before them.
        """
        if not after:
            return 0
        position, last, following = after.split(" ")
        for index, item, _ in self._items(queue, level, 0):
            if (digest := _digest(item)) in (last, following):
                return index + (digest == last)
            if index > int(position):
                break
        return 0

    def _items(self, queue: str, level: int, first: int) -> Iterator[tuple[int, bytes, bytes]]:
        """Come past the messages of a list, each with its index and the one that follows."""
        while found := self._messages.waiting(queue, level, first, _CHUNK + 1):
            chunk = found[:_CHUNK]
            yield from zip(count(first), chunk, [*found[1:], b""], strict=False)
            within = first + len(chunk) + _CHUNK  # who goes back may have come in front of it
            first = self._messages.index_after(queue, level, chunk[-1], within)


def _job(item: bytes, state: JobState) -> StoredJob:
    try:
        raw = envelope_in(item)
        return StoredJob(read_envelope(raw).id, state, raw)
    except (ForeignMessageError, EnvelopeError):
        return StoredJob(f"unreadable-{_digest(item)}", state, item)


def _digest(item: bytes) -> str:
    return hashlib.sha256(item).hexdigest()[:16]


_HELD: Final[Mapping[str, JobState]] = {
    "run": JobState.RUNNING,
    "waiting": JobState.WAITING,
}
