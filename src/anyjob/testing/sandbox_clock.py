"""The clock of a sandbox: it stands still, and goes along with time-machine where a test uses that."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from anyjob.base.errors import ConfigurationError
from anyjob.testing.clock import FakeClock

if TYPE_CHECKING:
    import time_machine

__all__ = ["SandboxClock"]


class SandboxClock(FakeClock):
    """Starts now (or at `start`) and stands still until the test moves it.

    While time-machine travels, by whomever, its time is this clock's too, with what `travel` added; what it goes
    forward is time that passes. In `freeze` both are one: `travel` moves `datetime.now()` along.
    """

    def __init__(self, start: datetime | None = None) -> None:
        super().__init__(datetime.now(UTC) if start is None else start)
        self._ahead = timedelta()
        self._traveller: time_machine.Traveller | None = None
        if start is not None and _is_travelling():
            self._ahead = start - datetime.now(UTC)
        self._seen = self.now()

    def now(self) -> datetime:
        return (datetime.now(UTC) if _is_travelling() else self._now) + self._ahead

    @contextmanager
    def freeze(self) -> Iterator[None]:
        """Let `datetime.now()` and `time.time()` show this clock's time, for the length of the context."""
        try:
            import time_machine
        except ModuleNotFoundError as error:
            raise ConfigurationError("freeze() needs time-machine. Run: pip install time-machine") from error
        with self._lock:  # who asks how much time passed must not see the one clock moved and the other not
            outer, reached = self._traveller, self.now()
            journey = time_machine.travel(reached, tick=False)
            self._traveller = journey.start()
            self._ahead = timedelta()
        try:
            yield
        finally:
            with self._lock:
                reached = self.now()
                journey.stop()
                self._traveller, self._ahead = outer, timedelta()
                self._move(reached)

    def _elapsed(self) -> float:
        now = self.now()
        self._passed += max(now - self._seen, timedelta())
        self._seen = now
        return super()._elapsed()

    def _move(self, target: datetime) -> None:
        if self._traveller is not None:
            self._traveller.move_to(target)
        else:
            self._ahead += target - self.now()
        self._seen = self.now()


def _is_travelling() -> bool:
    time_machine = sys.modules.get("time_machine")  # who never imported it doesn't travel
    return time_machine is not None and time_machine.escape_hatch.is_travelling()
