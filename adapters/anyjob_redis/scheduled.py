"""Messages that are due later: a sorted set of their times, and beside it what is to be pushed then."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from redis import Redis

from anyjob.clock import Clock

__all__ = ["SCHEDULE", "ScheduledMessages", "scheduled_key"]


def scheduled_key(namespace: str) -> str:
    """Return the key of the sorted set of due times; the payloads are in the hash `<key>:messages`."""
    return f"{namespace}:scheduled"


SCHEDULE: Final = """
local function schedule(namespace, member, due, payload)
    redis.call('ZADD', namespace .. ':scheduled', due, member)
    redis.call('HSET', namespace .. ':scheduled:messages', member, payload)
end
local function unschedule(namespace, member)
    local due = redis.call('ZSCORE', namespace .. ':scheduled', member)
    local payload = redis.call('HGET', namespace .. ':scheduled:messages', member)
    redis.call('ZREM', namespace .. ':scheduled', member)
    redis.call('HDEL', namespace .. ':scheduled:messages', member)
    return due, payload
end
"""
"""Lua for an adapter's own scripts: to schedule, and to take out, in one step with whatever else they do.

A member is unique to a message, not to a job: two jobs may have one id, and neither may displace the other.
"""


class ScheduledMessages:
    """The scheduled messages of a namespace. Thread-safe.

    `push` is Lua that defines `push_due(namespace, payload)`: it puts a message where its queue's consumers look.
    """

    def __init__(self, client: Redis, namespace: str, push: str, clock: Clock) -> None:
        self._client: Any = client
        self._namespace = namespace
        self._clock = clock
        self._promote: Callable[..., bytes | None] = client.register_script(SCHEDULE + push + _PROMOTE)

    def promote(self) -> float:
        """Push what is due, in its order, each once whoever else does this; return the seconds to look again in."""
        now = self._clock.now().timestamp()
        next_due = self._promote(args=[self._namespace, now, _AT_ONCE])
        return _LONGEST_PAUSE if next_due is None else min(_LONGEST_PAUSE, max(0.0, float(next_due) - now))

    def count(self) -> int:
        """Return how many there are."""
        return int(self._client.zcard(scheduled_key(self._namespace)))

    def after(self, due: float, member: str, limit: int) -> Sequence[tuple[str, float, bytes]]:
        """Return up to `limit` members with their due time and payload, in their order, after that one."""
        key, offset = scheduled_key(self._namespace), 0
        found: list[tuple[str, float]] = []
        while len(found) < limit:
            chunk = self._client.zrangebyscore(key, due, "+inf", start=offset, num=limit, withscores=True)
            found += [(each.decode(), score) for each, score in chunk if (score, each.decode()) > (due, member)]
            offset += len(chunk)
            if len(chunk) < limit:
                break
        found = found[:limit]
        if not found:
            return ()
        payloads = self._client.hmget(f"{key}:messages", [each for each, _ in found])
        return [(*each, payload) for each, payload in zip(found, payloads, strict=True) if payload is not None]


_AT_ONCE: Final = 200
_LONGEST_PAUSE: Final = 0.25

# namespace, now, limit. Returns when the next one is due.
_PROMOTE: Final = """
local namespace, now, limit = ARGV[1], ARGV[2], tonumber(ARGV[3])
local due = redis.call('ZRANGEBYSCORE', namespace .. ':scheduled', '-inf', now, 'LIMIT', 0, limit)
for _, member in ipairs(due) do
    local _, payload = unschedule(namespace, member)
    if payload then push_due(namespace, payload) end
end
return redis.call('ZRANGE', namespace .. ':scheduled', 0, 0, 'WITHSCORES')[2]
"""
