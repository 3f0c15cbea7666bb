"""What moves brought: marks of the jobs, written in the step in which the jobs came, until the move is over."""

from __future__ import annotations

from typing import Any, Final

from redis import Redis

from anyjob.envelope import JobEnvelope
from anyjob_redis.connection import translated

__all__ = ["MOVED", "Moves"]

MOVED: Final = """
local function has_come(moved, mark) return moved ~= '' and redis.call('SISMEMBER', moved, mark) == 1 end
local function note_come(moved, mark) if moved ~= '' then redis.call('SADD', moved, mark) end end
local function note_move(moved)
    if moved == '' then return end
    local moves = string.match(moved, '^(.*):')
    redis.call('SADD', moves, moved)
    for _, key in ipairs({moves, moved}) do redis.call('EXPIRE', key, 2592000) end -- if nobody ends it: after 30 days
end
"""
"""Lua for an adapter's script that sends; `moved` is a `Moves.key`, or '' if the jobs are no move's."""


class Moves:
    """The moves into one adapter's keys, which begin with `root`."""

    def __init__(self, client: Redis, root: str) -> None:
        self._client: Any = client
        self._moves = f"{root}:moved"

    def key(self, move: str) -> str:
        """Return the key of the marks of one move."""
        return f"{self._moves}:{move}"

    @staticmethod
    def mark(envelope: JobEnvelope) -> str:
        """Return what tells a job from a later one that was given the same id."""
        return f"{envelope.id} {envelope.created_at.timestamp()}"

    def forget(self, move: str | None) -> None:
        """Forget a move, or all of them. Raises `EnqueueError`."""
        with translated():
            keys = self._client.smembers(self._moves) if move is None else [self.key(move)]
            if keys:
                self._client.delete(*keys)
                self._client.srem(self._moves, *keys)
