"""Where time comes from: one injected clock, so that a test can move it and no server's clock is ever asked."""

from __future__ import annotations

import threading
from datetime import UTC, datetime
from functools import partial
from typing import Protocol

__all__ = ["Clock", "SystemClock"]


class Clock(Protocol):
    """Tells the time and waits for it. Both methods are thread-safe."""

    def now(self) -> datetime:
        """Return the current time, aware, in UTC."""
        ...

    def wait(self, condition: threading.Condition, until: datetime | None) -> None:
        """Wait on `condition`, which the caller holds, until notified or until this clock shows `until`.

        A time, not a duration, so that a clock that moves before the wait begins is not missed. May return early;
        callers look again at what they wait for.
        """
        ...


class SystemClock:
    """The clock of the machine."""

    now = staticmethod(partial(datetime.now, UTC))  # asked four times a job: no frame of our own

    def wait(self, condition: threading.Condition, until: datetime | None) -> None:
        if until is None:
            condition.wait()
            return
        left = (until - self.now()).total_seconds()
        # Past TIMEOUT_MAX the lock raises OverflowError; whoever waits for years may look up once in between.
        condition.wait(min(max(left, 0.0), threading.TIMEOUT_MAX))
