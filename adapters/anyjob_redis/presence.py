"""Which processes are alive: each has a key that it keeps from expiring."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

from redis import Redis

from anyjob_redis.scripts import register

__all__ = ["LapsedError", "Presence", "is_steady"]

T = TypeVar("T")


class LapsedError(Exception):
    """The holder that wants to take a message has no sign of life in Redis."""


def is_steady(client: Redis, lease: float) -> bool:
    """Whether the server has been up for a lease: then all live processes had the time to renew their signs."""
    known: Any = client
    return float(known.info("server")["uptime_in_seconds"]) > lease


class Presence:
    """One process's sign of life, the key `<namespace>:alive:<name>`: it lasts `lease` seconds after each `beat`.

    It expires by the server's clock, because all must use one clock: a machine whose own runs ahead would take its
    neighbours' leases for expired.
    """

    def __init__(self, client: Redis, namespace: str, name: str, lease: float) -> None:
        self._client = client
        self._key = f"{namespace}:alive:{name}"
        self._milliseconds = max(1, int(lease * 1000))
        self._steady = False
        self._beat = register(client, _BEAT, drains=namespace)  # who can't beat can't make room on a full server

    def beat(self) -> bool:
        """Renew the sign of life; return whether this beat and the one before found it unexpired.

        If not, the server may have been unreachable, and the signs of other processes are as old as ours: none must be
        taken for expired yet.
        """
        before = self._steady
        self._steady = bool(self._beat([self._key], [self._milliseconds]))
        return self._steady and before

    def revived(self, take: Callable[[], T]) -> T:
        """Return the result of `take`. If that finds our sign expired, renew it and take again.

        The process was paused, or Redis unreachable, for longer than the lease, or this is the first beat.
        """
        try:
            return take()
        except LapsedError:
            self.beat()
            return take()

    def leave(self) -> None:
        """Remove the sign of life."""
        self._client.delete(self._key)


# milliseconds. Returns whether the sign was there.
_BEAT: Final = """
local there = redis.call('EXISTS', KEYS[1])
redis.call('SET', KEYS[1], 1, 'PX', ARGV[1])
return there
"""
