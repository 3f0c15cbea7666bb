"""What a move brought: the ids, remembered in the step in which the jobs came, until the source has let go of them."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final

from redis import Redis

from anyjob_redis.connection import translated

__all__ = ["MOVED", "forget_moved", "moved_key"]

MOVED: Final = """
local function has_come(moved, id) return moved ~= '' and redis.call('SISMEMBER', moved, id) == 1 end
local function note_come(moved, id)
    if moved == '' then return end
    redis.call('SADD', moved, id)
    redis.call('EXPIRE', moved, 2592000) -- of a run that nobody resumes, after 30 days
end
"""
"""Lua for an adapter's script that sends; `moved` is a `moved_key`, or '' if the jobs are no move's."""


def moved_key(root: str, move: str) -> str:
    """Return the key of the set of the ids that came by a move."""
    return f"{root}:moved:{move}"


def forget_moved(client: Redis, key: str, ids: Collection[str] | None) -> None:
    """Forget ids, or all of them. Raises `EnqueueError`."""
    known: Any = client
    with translated():
        if ids is None:
            known.delete(key)
        elif ids:
            known.srem(key, *ids)
