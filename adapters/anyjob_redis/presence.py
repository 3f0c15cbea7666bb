"""Who is alive: a key that its owner keeps from expiring."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

from redis import Redis

from anyjob_redis.scripts import register

__all__ = ["LapsedError", "Presence", "is_steady"]

T = TypeVar("T")


class LapsedError(Exception):
    """Who wants to take a message is not known to be alive."""


def is_steady(client: Redis, lease: float) -> bool:
    """Whether the server is up for a lease already: whoever lives has had the time to say so."""
    known: Any = client
    return float(known.info("server")["uptime_in_seconds"]) > lease


class Presence:
    """One process's sign of life, the key `<namespace>:alive:<name>`: it lasts `lease` seconds after each `beat`.

    By the clock of the server: there must be one for all, for a machine whose own runs ahead would take its neighbours
    for dead.
    """

    def __init__(self, client: Redis, namespace: str, name: str, lease: float) -> None:
        self._client = client
        self._key = f"{namespace}:alive:{name}"
        self._milliseconds = max(1, int(lease * 1000))
        self._steady = False
        self._beat = register(client, _BEAT, drains=namespace)  # who can't say that it lives can't drain a full server

    def beat(self) -> bool:
        """Say that we live; return whether this beat and the one before found us alive still.

        If not, the server may have been away, and the others' signs are as old as ours: nobody must be declared dead
        yet.
        """
        before = self._steady
        self._steady = bool(self._beat([self._key], [self._milliseconds]))
        return self._steady and before

    def revived(self, take: Callable[[], T]) -> T:
        """Return what `take` takes. If that finds that we lapsed, say that we live and take again.

        A pause, or an absence of Redis, was longer than the lease, or nothing was said yet.
        """
        try:
            return take()
        except LapsedError:
            self.beat()
            return take()

    def leave(self) -> None:
        """Say that we are gone."""
        self._client.delete(self._key)


# milliseconds. Returns whether the sign was there.
_BEAT: Final = """
local there = redis.call('EXISTS', KEYS[1])
redis.call('SET', KEYS[1], 1, 'PX', ARGV[1])
return there
"""
