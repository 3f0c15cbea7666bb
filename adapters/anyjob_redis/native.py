"""The messages in an application's own queues on Redis, seen from outside and taken out: nothing of ours is left there.

Workers that know nothing of anyjob serve these keys, so no mark stands for what was taken off. It is held in the hash
`<namespace>:native:held`, by a tag, and goes back to the front of its list, which is the place it had: what is passed
over is never taken.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Final, Literal

from msgspec import Struct
from redis import Redis

from anyjob.clock import Clock
from anyjob.envelope import JobIds
from anyjob.store import JobFilter, JobState, StoredJob
from anyjob_redis.places import CHUNK, LONGEST_HOLD, Places, Section, Seen
from anyjob_redis.scheduled import due_after, position_of
from anyjob_redis.scripts import FITS, SLICE, register

__all__ = ["NativeKey", "NativeLayout", "NativePlaces"]


class NativeKey(Struct, frozen=True):
    """A key where messages wait, or the ids of some."""

    key: str
    kind: Literal["left", "right", "zset"]
    """A list, by its end that is next, or a sorted set of due times."""
    queue: str
    """The library's own name of the queue."""


class NativeLayout(ABC):
    """How a job library keeps its messages. Raises what redis raises."""

    forget: str
    """Lua that defines `forget(key, item)`: it removes what is kept of a message beside its place."""

    @abstractmethod
    def waiting(self) -> Iterable[NativeKey]:
        """Return the keys where messages wait, those of higher priority first."""

    @abstractmethod
    def read(self, place: NativeKey, items: Sequence[bytes]) -> Sequence[StoredJob | None]:
        """Return what each item of a key stands for; None: for nothing that is to be seen."""


class _Place(Struct, frozen=True):
    key: NativeKey
    item: bytes


class NativePlaces(Places):
    """The messages in the keys of a layout. A place is a key and an item, an entry is a tag. Thread-safe."""

    def __init__(self, client: Redis, namespace: str, layout: NativeLayout, clock: Clock) -> None:
        self._client: Any = client
        self._layout = layout
        self._clock = clock
        self._ids = JobIds()
        self._keys = (f"{namespace}:native:held", f"{namespace}:native:held:times")
        self._taken: set[tuple[str, bytes]] = set()
        texts = (_HOLD, _HELD + layout.forget + _ACKNOWLEDGE, _HELD + _GIVE_BACK, _HELD + _LAPSE)
        scripts = [register(client, FITS + text, drains=namespace) for text in texts]
        self._hold, self._acknowledge, self._give_back, self._lapse = scripts
        self._index_past = register(client, _INDEX_PAST)

    def count(self) -> Mapping[JobState, int]:
        """Return how many wait, those for later among them: a library may keep both in one list."""
        sizes = {"left": "llen", "right": "llen", "zset": "zcard"}
        with self._client.pipeline(transaction=False) as pipe:
            for each in self._layout.waiting():
                getattr(pipe, sizes[each.kind])(each.key)
            return {JobState.WAITING: sum(pipe.execute())}

    def sections(self, chosen: JobFilter) -> Iterator[Section]:  # noqa: ARG002  # `queues` are ours, these are theirs
        for key in self._layout.waiting():
            walk = self._walk_set if key.kind == "zset" else self._walk_list
            yield Section(f"{key.kind} {key.key}", _STATES, partial(walk, key))

    def take_off(self, holder: str, found: Sequence[Seen]) -> Sequence[tuple[str, StoredJob]]:
        now = self._clock.now()
        by_tag = {f"{holder}-{self._ids.new(now)}": seen for seen in found}
        wanted: list[Any] = []
        for tag, seen in by_tag.items():
            wanted += (tag, seen.place.key.kind, seen.place.key.key, seen.place.item)
        taken = self._hold(self._keys, [LONGEST_HOLD, *wanted])
        held = [(tag, by_tag[tag]) for tag in map(bytes.decode, taken)]
        self._taken.update((seen.place.key.key, seen.place.item) for _, seen in held)
        return [(tag, seen.job) for tag, seen in held]

    def holds(self, holder: str, entry: str) -> bool:  # noqa: ARG002  # a tag is the holder's own
        return bool(self._client.hexists(self._keys[0], entry))

    def acknowledge(self, holder: str, entries: Sequence[str]) -> Sequence[bool]:  # noqa: ARG002
        return list(map(bool, self._acknowledge(self._keys, entries)))

    def give_back(self, holder: str) -> None:
        prefix = f"{holder}-".encode()
        tags = sorted(tag for tag in self._client.hkeys(self._keys[0]) if tag.startswith(prefix))
        for first in reversed(range(0, len(tags), SLICE)):  # what was taken first is in front again
            self._give_back(self._keys, tags[first : first + SLICE])

    def recover(self) -> None:
        while self._lapse(self._keys, [SLICE]):
            pass

    def _walk_set(self, key: NativeKey, after: str) -> Iterator[Seen]:
        for found in due_after(self._client, key.key, after):
            jobs = self._layout.read(key, [item for item, _ in found])
            for (item, due), job in zip(found, jobs, strict=True):
                if job is not None:
                    yield Seen(position_of(item, due), job, _Place(key, item))

    def _walk_list(self, key: NativeKey, after: str) -> Iterator[Seen]:
        first, last = self._index_after(key, after), b""
        while items := self._slice(key, first):
            for number, (item, job) in enumerate(zip(items, self._layout.read(key, items), strict=True), first):
                if job is not None:
                    yield Seen(f"{number} {_digest(item)}", job, _Place(key, item))
            stayed = [item for item in items if (key.key, item) not in self._taken]
            self._taken.difference_update([(key.key, item) for item in items])
            last = stayed[-1] if stayed else last
            # What was before it is there or gone, and gone from the front alone: nothing is passed over, and what is
            # met twice is held once.
            first = int(self._index_past(args=[key.kind, key.key, last]))

    def _slice(self, key: NativeKey, first: int) -> Sequence[bytes]:
        """Return items of a list from the index `first` on, the next one first."""
        if key.kind == "left":
            found: list[bytes] = self._client.lrange(key.key, first, first + CHUNK - 1)
            return found
        found = self._client.lrange(key.key, -first - CHUNK, -first - 1)
        return found[::-1]

    def _index_after(self, key: NativeKey, after: str) -> int:
        """Return where a later page goes on: after what was seen last, which is there, nearer to the front, or gone."""
        position, _, digest = after.partition(" ")
        if not after:
            return 0
        first = 0
        while first <= int(position) and (items := self._slice(key, first)):
            for number, item in enumerate(items, first):
                if _digest(item) == digest:
                    return number + 1
            first += len(items)
        return 0


def _digest(item: bytes) -> str:
    return hashlib.sha256(item).hexdigest()[:16]


_STATES: Final = frozenset({JobState.WAITING, JobState.SCHEDULED})

# Of both: the keys are the hash of what is held, and the sorted set of when each hold ends, by the server's clock.
_TIME: Final = """
local held, times = KEYS[1], KEYS[2]
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
"""

# seconds, then of each: tag, kind, key, item. Returns the tags of those that were there.
_HOLD: Final = (
    _TIME
    + """
local taken = {}
for i = 2, #ARGV, 4 do
    local tag, kind, key, item = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
    local score, found = '-', 0
    if kind == 'zset' then
        score = fits('zset', key) and redis.call('ZSCORE', key, item)
        if score then found = redis.call('ZREM', key, item) end
    elseif fits('list', key) then
        found = redis.call('LREM', key, kind == 'left' and 1 or -1, item)
    end
    if found == 1 then
        redis.call('HSET', held, tag, kind .. '\\n' .. score .. '\\n' .. key .. '\\n' .. item)
        redis.call('ZADD', times, now + tonumber(ARGV[1]), tag)
        taken[#taken + 1] = tag
    end
end
return taken
"""
)

_HELD: Final = (
    _TIME
    + """
local function entry_of(tag)
    local entry = redis.call('HGET', held, tag)
    if entry then return string.match(entry, '^(%S+)\\n(%S+)\\n([^\\n]*)\\n(.*)$') end
end
local function let_go(tag)
    redis.call('ZREM', times, tag)
    redis.call('HDEL', held, tag)
end
local function give_back(tag)
    local kind, score, key, item = entry_of(tag)
    if kind and not fits(kind == 'zset' and kind or 'list', key) then return end -- it stays held
    if kind == 'zset' then redis.call('ZADD', key, score, item)
    elseif kind then redis.call(kind == 'left' and 'LPUSH' or 'RPUSH', key, item) end
    let_go(tag)
end
"""
)

# tags. Returns of each whether it was still held.
_ACKNOWLEDGE: Final = """
local were_held = {}
for i, tag in ipairs(ARGV) do
    local kind, _, key, item = entry_of(tag)
    if kind then forget(key, item) end
    let_go(tag)
    were_held[i] = kind and 1 or 0
end
return were_held
"""

# tags, what was taken first in front.
_GIVE_BACK: Final = """
for i = #ARGV, 1, -1 do give_back(ARGV[i]) end
return wrong
"""

# limit. Gives back what was held for too long; returns how many went.
_LAPSE: Final = """
local lapsed = redis.call('ZRANGEBYSCORE', times, '-inf', now, 'LIMIT', 0, ARGV[1])
for i = #lapsed, 1, -1 do give_back(lapsed[i]) end
return wrong or #lapsed
"""

# kind, key, item. Returns the index of what follows the item in a list; 0 if it is gone. Of the same item in several
# places it is the last, or a walk would come back to the first for ever.
_INDEX_PAST: Final = """
local place = redis.call('LPOS', ARGV[2], ARGV[3], 'RANK', ARGV[1] == 'left' and -1 or 1)
if not place then return 0 end
return ARGV[1] == 'left' and place + 1 or redis.call('LLEN', ARGV[2]) - place
"""
