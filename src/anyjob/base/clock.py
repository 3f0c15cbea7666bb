"""Where time comes from: one injected clock, so that a test can move it and no server's clock is ever asked."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime
from functools import partial
from typing import Protocol

__all__ = ["Clock", "SystemClock", "deadline_in"]


class Clock(Protocol):
    """Tells the time, measures it, and waits. All methods are thread-safe.

    `now` is the wall clock: by it jobs are due, and somebody may set it at any moment, back or forth. A duration (a
    wait, a limit, a lease) is measured by `monotonic`, which can't be set.
    """

    def now(self) -> datetime:
        """Return the current time, aware, in UTC."""
        ...

    def monotonic(self) -> float:
        """Return seconds that only go forward, counted from no particular moment."""
        ...

    def wait(self, condition: threading.Condition, until: float | None) -> None:
        """Wait on `condition`, which the caller holds, until notified or until `monotonic` is at `until`.

        A moment, not a duration, so that a clock that moves before the wait begins is not missed. May return early;
        callers look again at what they wait for.
        """
        ...


class SystemClock:
    """The clocks of the machine."""

    now = staticmethod(partial(datetime.now, UTC))  # asked four times a job: no frame of our own
    monotonic = staticmethod(time.monotonic)

    def wait(self, condition: threading.Condition, until: float | None) -> None:
        if until is None:
            condition.wait()
            return
        # Past TIMEOUT_MAX the lock raises OverflowError; a wait for years may return once in between.
        condition.wait(min(max(until - self.monotonic(), 0.0), threading.TIMEOUT_MAX))


def deadline_in(clock: Clock, seconds: float) -> float:
    """Return the moment of `clock.monotonic()` that is so many seconds away.

    In whole microseconds, the steps of a test's clock: a sum of floats could miss by a hair the moment it is moved to.
    """
    return round(clock.monotonic() + seconds, 6)
