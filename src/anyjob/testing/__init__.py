"""What tests use: a clock that they move."""

from anyjob.testing.clock import FakeClock

__all__ = ["FakeClock"]
