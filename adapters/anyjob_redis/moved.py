"""What moves brought: marks of the jobs, written in the step in which the jobs came, until the move is over."""

from __future__ import annotations

from typing import Any, Final

from redis import Redis

from anyjob.base.envelope import JobEnvelope
from anyjob.seams.backend import MoveMemory
from anyjob.seams.natives import ADOPTED_HEADER
from anyjob_redis.connection import translated

__all__ = ["MOVED", "Moves"]

MOVED: Final = """
local function has_come(moved, mark) return moved ~= '' and redis.call('SISMEMBER', moved, mark) == 1 end
local function note_come(moved, mark)
    if moved == '' then return end
    redis.call('SADD', moved, mark)
    redis.call('EXPIRE', moved, 2592000)
end
"""
"""Lua for an adapter's script that sends; `moved` is a `Moves.key`, or '' if the jobs are no move's. What nobody
ends is forgotten after 30 days.
"""


class Moves(MoveMemory):
    """The moves into one adapter's keys, which begin with `root`. Raises `EnqueueError`."""

    def __init__(self, client: Redis, root: str) -> None:
        self._client: Any = client
        self._moves = f"{root}:moved"

    def key(self, move: str) -> str:
        """Return the key of the marks of one move."""
        return f"{self._moves}:{move}"

    @staticmethod
    def mark(envelope: JobEnvelope) -> str:
        """Return what tells a job from a later one that was given the same id; the same whenever it is read."""
        made = "adopted" if ADOPTED_HEADER in envelope.headers else envelope.created_at.timestamp()
        return f"{envelope.id} {made}"

    def begin(self, move: str) -> None:
        with translated(), self._client.pipeline() as pipe:
            pipe.sadd(self._moves, move).expire(self._moves, _A_MONTH).execute()

    def knows(self, move: str) -> bool:
        with translated():
            return bool(self._client.sismember(self._moves, move))

    def forget(self, move: str | None) -> None:
        with translated():
            moves = [each.decode() for each in self._client.smembers(self._moves)] if move is None else [move]
            if moves:
                self._client.unlink(*map(self.key, moves))  # there may be a million marks in one
                self._client.srem(self._moves, *moves)


_A_MONTH: Final = 30 * 24 * 3600
