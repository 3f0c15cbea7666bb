"""How long a call may take in all."""

from __future__ import annotations

from time import monotonic
from typing import Final

__all__ = ["Deadline"]


class Deadline:
    """The moment at which a call fails: that many seconds after it began or last made progress. For one thread."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.extend()

    def extend(self) -> None:
        """Note progress."""
        self._until = monotonic() + self._seconds

    def left(self) -> float:
        """Return the seconds that are left: next to none once the deadline is over.

        Data that has arrived by then is still read: this process itself may have been paused.
        """
        return max(self._until - monotonic(), _NEXT_TO_NONE)

    def is_over(self) -> bool:
        return monotonic() >= self._until


_NEXT_TO_NONE: Final = 0.001
