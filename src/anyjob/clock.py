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

    def wait(self, condition: threading.Condition, timeout: float | None) -> None:
        """Wait on `condition`, which the caller holds, until notified or until `timeout` seconds of this clock passed.

        May return early; callers look again at what they wait for.
        """
        ...


class SystemClock:
    """The clock of the machine."""

    now = staticmethod(partial(datetime.now, UTC))  # asked four times a job: no frame of our own

    def wait(self, condition: threading.Condition, timeout: float | None) -> None:
        # Past TIMEOUT_MAX the lock raises OverflowError; whoever waits for years may look up once in between.
        condition.wait(None if timeout is None else min(timeout, threading.TIMEOUT_MAX))
