"""Queues that are lists of ids, a list for each level of priority: the parts that adapters with such queues share.

A placeholder stands in a list for an id that an operator holds, so that the id goes back to its very place. A worker
that reaches the placeholder drops it, and then that place is the front.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Final

from redis import Redis

from anyjob.extend import QUEUE_NAME, JobLogger, JobPriority
from anyjob_redis.connection import translated
from anyjob_redis.places import CHUNK

__all__ = ["LEVELS", "LISTS", "KnownQueues", "NotedNames", "ids_after"]

logger = JobLogger("anyjob.worker")

LEVELS: Final[Mapping[JobPriority, str]] = {each: each.name.lower() for each in sorted(JobPriority, reverse=True)}
"""The last part of a list's name by priority, in the order in which workers look."""

_LEVELS: Final = f"local levels = {{{str(tuple(LEVELS.values()))[1:-1]}}}\n"

LISTS: Final = (
    _LEVELS
    + """
local function mark_of(id) return mark_prefix .. id end
local function known_queues()
    local names = {}
    if fits('set', ns .. ':queues') then
        for _, name in ipairs(redis.call('SMEMBERS', ns .. ':queues')) do
            if string.match(name, '^[a-z][a-z0-9_-]*$') then names[#names + 1] = name end
        end
    end
    table.sort(names)
    return names
end
local function pop(list)
    local id
    repeat
        local popped = redis.pcall('LPOP', list) -- some other type by that name holds up nobody else
        id = type(popped) == 'string' and popped
    until not id or string.sub(id, 1, #mark_prefix) ~= mark_prefix
    return id
end
"""
)
"""Lua for an adapter's own scripts, after its `ns` (the namespace), its `mark_prefix`, and `FITS`."""


class KnownQueues:
    """The queues that jobs were ever sent to: the set `key`. A member that is no queue's name is logged once."""

    def __init__(self, client: Redis, key: str) -> None:
        self._client: Any = client
        self._key = key
        self._told: set[bytes] = set()

    def names(self) -> Sequence[str]:
        """Return their names, sorted. Raises what redis raises."""
        members: set[bytes] = self._client.smembers(self._key)
        foreign = {each for each in members if not QUEUE_NAME.fullmatch(each.decode("utf-8", "replace"))}
        for each in foreign - self._told:
            logger.warning("left alone in %s: %r is no queue's name", self._key, each[:100])
        self._told |= foreign
        return sorted(each.decode() for each in members - foreign)


class NotedNames:
    """Names that are noted in the set `key`, read anew each time. Raises `EnqueueError`."""

    def __init__(self, client: Redis, key: str) -> None:
        self._client: Any = client
        self._key = key

    def __iter__(self) -> Iterator[str]:
        with translated():
            return iter([each.decode("utf-8", "replace") for each in self._client.smembers(self._key)])

    def add(self, names: Collection[str]) -> None:
        """Note names."""
        with translated():
            self._client.sadd(self._key, *names)


def ids_after(client: Any, key: str, mark_prefix: str, after: str) -> Iterator[Sequence[tuple[bytes, str]]]:
    """Yield the ids in a list, each with its position, some at a time, beginning behind the position `after`.

    Placeholders are left out. A position is the id and the next id, because either may be taken out meanwhile.
    """
    mark = mark_prefix.encode()
    last, following = _ids_in(after)
    within = 0  # the whole list
    while True:
        start = _index_after(client, key, mark, last, following, within)
        chunk: Sequence[bytes] = client.lrange(key, start, start + CHUNK)  # and the id that follows the last one
        ids = [each.removeprefix(mark) for each in chunk]
        pairs = list(zip(ids, [*ids[1:], b""], strict=False))[:CHUNK]
        yield [
            (pair[0], _position(*pair)) for pair, each in zip(pairs, chunk, strict=False) if not each.startswith(mark)
        ]
        if len(chunk) <= CHUNK:
            return
        last, following = pairs[-1]
        within = start + 2 * CHUNK  # it is no farther from the front than before, except by ids that went back


def _index_after(client: Any, key: str, mark: bytes, last: bytes, following: bytes, within: int) -> int:
    for item, further in ((last, 1), (following, 0)):
        for each in (item, mark + item) if item else ():
            place: int | None = client.lpos(key, each, maxlen=within)
            if place is not None:
                return place + further
    return 0  # a worker took them, and so all ids that were before them


def _position(last: bytes, following: bytes) -> str:
    return f"{len(last)} {(last + following).decode('latin-1')}"


def _ids_in(position: str) -> tuple[bytes, bytes]:
    length, _, both = position.partition(" ")
    text, size = both.encode("latin-1"), int(length or 0)
    return text[:size], text[size:]
