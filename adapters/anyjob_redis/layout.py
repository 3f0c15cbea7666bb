"""Which keys the jobs of a store wait in, and how a job is written there: what differs between job systems on Redis."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, Final

from anyjob.extend import JobEnvelope, count_loss_in, write_envelope
from anyjob_redis.places import CHUNK

__all__ = ["KEY_OF", "Layout", "SortedLayout"]


KEY_OF: Final = """
local function key_of(queue, level) return ns .. ':' .. queue .. '.' .. level end
"""
"""Lua for a layout whose `key` is that of `Layout`."""


class Layout(ABC):
    """Where jobs wait, and as what. `RedisJobStore` does all else: ids, claims, leases, losses, what is parked.

    `lua` is the text of functions, which find the store's `ns` (what its keys begin with), `now`, `fits`, `read` and
    `write`. A due time is in microseconds, as text; `seq` is a number that no other job has; the order of a level is
    that of (due, seq). None but `put_waiting`, `remove_waiting`, `pop_waiting`, `forget_held` and `first_due` writes.

    - `level_fits(queue, level)`: whether the keys of a level can be used (`fits` of each).
    - `key_of(queue, level)`: the key that `key` returns.
    - `put_waiting(queue, level, due, seq, id, message, back)`: puts a job at its place in the order; `back`: it was
      there before. Returns the message if the store is to keep it beside the job's id, '' if this keeps it.
    - `first_due(queue, level, now)`: returns the first that is due by then, and its due time; or nothing, as where the
      keys can't be used.
    - `pop_waiting(queue, level, first)`: removes what `first_due` returned. Returns the id, and the message if this
      kept it; no id for what is not a job.
    - `remove_waiting(queue, level, due, seq, id)`: removes a job. Returns whether it was there, and the message as
      above.
    - `forget_held(queue, level, id)`: what `remove_waiting` removed won't come back.
    - `is_counted(queue, level, id)`: whether `count_waiting` counts what `remove_waiting` removed.
    - `earliest(queue, level)`: returns the due time of the first, due or not; or nothing.
    - `count_waiting(queue, level, now)`: returns how many are due by then, and how many later.
    """

    lua: str

    def key(self, root: str, queue: str, level: str) -> str:
        """Return the key of a level, which others begin with; `root` is what the store's begin with."""
        return f"{root}:{queue}.{level}"

    @abstractmethod
    def walk(self, client: Any, root: str, queue: str, level: str) -> Iterator[str]:
        """Come past the ids in a level, in their order, with no regard to what is due. Raises what redis raises."""

    def messages(
        self,
        client: Any,  # noqa: ARG002
        root: str,  # noqa: ARG002
        waiting: Sequence[tuple[bytes, str, str]],
    ) -> Sequence[bytes | None]:
        """Return the messages that this keeps, of jobs told by id, queue and level; None for what it has not."""
        return [None] * len(waiting)

    def wrap(self, envelope: JobEnvelope) -> bytes:
        """Return the message of a job: what its system's monitors read."""
        return write_envelope(envelope)

    def unwrap(self, message: bytes) -> bytes:
        """Return the envelope in a message; all of it if there is none, to be parked so."""
        return message

    def count_loss(self, message: bytes) -> bytes:
        """Return the message with one more in its envelope's `lost_count`; one that can't be read as it is."""
        return count_loss_in(message)


_SORTED: Final = (
    KEY_OF
    + """
local function member_of(seq, id) return string.format('%016d', seq) .. ' ' .. id end
local function level_fits(queue, level) return fits('zset', key_of(queue, level)) end
local function put_waiting(queue, level, due, seq, id, message)
    redis.call('ZADD', key_of(queue, level), due, member_of(seq, id))
    return message
end
local function first_due(queue, level, now)
    local found = try('zset', key_of(queue, level), 'ZRANGEBYSCORE', '-inf', now, 'WITHSCORES', 'LIMIT', 0, 1)
    if found then return found[1], found[2] end
end
local function pop_waiting(queue, level, first)
    redis.call('ZREM', key_of(queue, level), first)
    return string.match(first, '^%d+ (.+)$')
end
local function remove_waiting(queue, level, due, seq, id)
    return redis.call('ZREM', key_of(queue, level), member_of(seq, id)) == 1
end
local function earliest(queue, level)
    return redis.call('ZRANGE', key_of(queue, level), 0, 0, 'WITHSCORES')[2]
end
local function forget_held() end
local function is_counted() return false end
local function count_waiting(queue, level, now)
    local key = key_of(queue, level)
    local due = redis.call('ZCOUNT', key, '-inf', now)
    return due, redis.call('ZCARD', key) - due
end
"""
)


class SortedLayout(Layout):
    """A sorted set for each level of a queue, of what is due and of what is due later: `<ns>:mail.high`.

    Nothing has to be promoted, an id goes back to its very place, and the order is exact. The score is the due time;
    a member is the sequence number and the id.
    """

    lua = _SORTED

    def walk(self, client: Any, root: str, queue: str, level: str) -> Iterator[str]:
        key, start = self.key(root, queue, level), 0
        while chunk := client.zrange(key, start, start + CHUNK - 1):
            yield from (each.decode("utf-8", "replace").partition(" ")[2] for each in chunk)
            start += len(chunk)
