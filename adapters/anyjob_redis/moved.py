"""The marks of moved jobs, written in the step in which the server takes the jobs, until the move is over."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final

from redis import Redis

from anyjob.extend import SendMarks
from anyjob_redis.connection import translated

__all__ = ["MOVED", "RedisMarks"]

MOVED: Final = """
local function has_come(moved, mark) return moved ~= '' and redis.call('SISMEMBER', moved, mark) == 1 end
local function note_come(moved, mark)
    if moved == '' then return end
    redis.call('SADD', moved, mark)
    redis.call('EXPIRE', moved, 2592000)
end
"""
"""Lua for an adapter's script that sends; `moved` is a `RedisMarks.key_of`, or '' for jobs without a mark. A mark
that is never forgotten expires after 30 days.
"""


class RedisMarks(SendMarks):
    """The moves into one adapter's keys, which begin with `root`. Raises `EnqueueError`."""

    def __init__(self, client: Redis, root: str) -> None:
        self._client: Any = client
        self._moves = f"{root}:moved"

    def key_of(self, mark: str | None) -> str:
        """Return the key of the jobs that were sent under a mark; '' for none."""
        return "" if mark is None else f"{self._moves}:{mark}"

    def begin(self, mark: str) -> None:
        with translated(), self._client.pipeline() as pipe:
            pipe.sadd(self._moves, mark).expire(self._moves, _A_MONTH).execute()

    def knows(self, mark: str) -> bool:
        with translated():
            return bool(self._client.sismember(self._moves, mark))

    def forget(self, mark: str | None, ids: Collection[str] | None = None) -> None:
        if ids is not None:
            return  # the jobs of a mark are remembered until the whole mark is forgotten
        with translated():
            marks = [each.decode() for each in self._client.smembers(self._moves)] if mark is None else [mark]
            if marks:
                self._client.unlink(*map(self.key_of, marks))  # a mark may have a million jobs
                self._client.srem(self._moves, *marks)


_A_MONTH: Final = 30 * 24 * 3600
