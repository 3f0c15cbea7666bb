"""A clock that stands still until a test moves it."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from typing import Final

from anyjob.base.errors import InvalidOptionError
from anyjob.base.forks import in_each_process

__all__ = ["FakeClock"]

_START: Final = datetime(2026, 1, 1, 12, tzinfo=UTC)


class FakeClock:
    """Starts at noon of 1 January 2026 (or `start`) and moves by `travel` and `step` alone. Thread-safe.

    `travel` wakes the threads that wait on it, `step` does not.
    """

    def __init__(self, start: datetime = _START) -> None:
        if start.utcoffset() is None:
            raise InvalidOptionError(f"FakeClock(start={start!r}): it needs an aware datetime.")
        self._now = start.astimezone(UTC)
        self._passed = timedelta()
        in_each_process(self._begin)

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._waiting: list[threading.Condition] = []

    def now(self) -> datetime:
        """Return the time that the test has reached."""
        return self._now

    def monotonic(self) -> float:
        """Return the seconds that the test has travelled."""
        with self._lock:
            return self._elapsed()

    def travel(self, duration: timedelta | float = 0.0, *, to: datetime | None = None, **units: float) -> None:
        """Move on by `duration` (seconds, or a timedelta) or by `units` (`minutes=5`), or `to` an aware datetime.

        Never back: no waiting thread could notice that.
        """
        way = duration if isinstance(duration, timedelta) else timedelta(seconds=duration)
        with self._lock:
            now = self.now()
            target = now + way + timedelta(**units) if to is None else to.astimezone(UTC)
            if target < now:
                raise InvalidOptionError(f"The clock is at {now}; it can't travel back to {target}.")
            self._move(target)
            self._passed += target - now
            waiting = list(self._waiting)
        for condition in waiting:
            with condition:
                condition.notify_all()

    def step(self, seconds: float) -> None:
        """Set the wall clock, `now`, forth or (less than 0) back, as an administrator would: no time passes."""
        with self._lock:
            self._move(self.now() + timedelta(seconds=seconds))

    def wait(self, condition: threading.Condition, until: float | None) -> None:
        """Wait until notified or until the clock has travelled to `until`."""
        with self._lock:
            # Under the lock: a journey that began before this look is seen here, a later one wakes us.
            if until is not None and self._elapsed() >= until:
                return
            self._waiting.append(condition)
        try:
            condition.wait()
        finally:
            with self._lock:
                self._waiting.remove(condition)

    def _elapsed(self) -> float:
        """Return what `monotonic` does. The caller holds the lock."""
        return self._passed.total_seconds()

    def _move(self, target: datetime) -> None:
        """Set the wall clock. The caller holds the lock."""
        self._now = target
