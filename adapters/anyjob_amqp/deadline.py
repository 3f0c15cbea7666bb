"""How long a call may take in all."""

from __future__ import annotations

from time import monotonic

__all__ = ["Deadline"]


class Deadline:
    """The moment at which a call fails, so many seconds after it began or last got on. For one thread."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.extend()

    def extend(self) -> None:
        """Note that it got on."""
        self._until = monotonic() + self._seconds

    def left(self) -> float:
        """Return the seconds that are left; raise TimeoutError if none are."""
        left = self._until - monotonic()
        if left <= 0:
            raise TimeoutError(f"nothing was heard for {self._seconds:g} s")
        return left
