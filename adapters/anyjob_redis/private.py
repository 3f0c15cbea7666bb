"""What we use of redis-py that changed from release to release.

tests/test_private_parts.py says when an upgrade changes it again.
"""

from __future__ import annotations

from typing import Any, Final

import redis

__all__ = ["take_connection"]


def take_connection(pool: Any) -> Any:
    """Return a connection of the pool's, to be released to it. Raises what redis-py raises."""
    return pool.get_connection(*_FOR_WHAT)


# Before 5.3 a pool requires a command's name, and ignores it; since then it warns of one.
_FOR_WHAT: Final = ("EVALSHA",) if redis.VERSION < (5, 3) else ()
