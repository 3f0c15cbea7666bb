"""An unreachable server: it is asked again, after pauses that grow."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Final, TypeVar

from anyjob.base.errors import AnyjobError
from anyjob.base.log import JobLogger, log_event

__all__ = ["FIRST_PAUSE", "insist", "log_pause", "next_pause"]

logger = JobLogger("anyjob.worker")

T = TypeVar("T")

FIRST_PAUSE: Final = 0.1
"""Seconds before an unreachable server is asked again."""
_LONGEST_PAUSE: Final = 5.0


def next_pause(pause: float) -> float:
    """Return the next pause, in seconds, for a server that is still unreachable after a pause of so many seconds."""
    return min(2 * pause, _LONGEST_PAUSE)


def log_pause(
    error: BaseException,
    pause: float,
    worker: str | None = None,
    *,
    away: tuple[type[BaseException], ...] = (AnyjobError,),
) -> None:
    """Log that a worker goes on after an error and a pause: without a traceback if the server is unreachable
    (`away`).
    """
    is_away = isinstance(error, away)
    facts: dict[str, Any] = {"reason": error} if is_away else {"exc_info": error}
    log_event(logger, logging.WARNING if is_away else logging.ERROR, "goes on", pause=pause, worker=worker, **facts)


def insist(
    action: Callable[[], T],
    *,
    goes_on: Callable[[], bool],
    wait: Callable[[float], object],
    away: tuple[type[BaseException], ...] = (AnyjobError,),
    worker: str | None = None,
) -> T:
    """Repeat the call while it raises an error of an unreachable server (`away`) and the worker `goes_on`.

    `wait` waits so many seconds; it may return sooner.
    """
    pause = FIRST_PAUSE
    while True:
        try:
            return action()
        except away as error:
            if not goes_on():
                raise
            log_pause(error, pause, worker, away=away)
            wait(pause)
            pause = next_pause(pause)
