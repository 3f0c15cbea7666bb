"""A thread that does one thing again and again, in the words of a Redis client."""

from __future__ import annotations

from typing import ClassVar

from redis.exceptions import RedisError

from anyjob.extend import AnyjobError
from anyjob.extend import RecurringThread as CoreRecurringThread

__all__ = ["RecurringThread"]


class RecurringThread(CoreRecurringThread):
    """The core's thread, whose action may raise redis's errors of an unreachable server."""

    known_errors: ClassVar[tuple[type[Exception], ...]] = (AnyjobError, RedisError)
