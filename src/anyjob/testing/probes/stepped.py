"""Imported by a worker, it makes the wall clock of that process one that a test steps; its monotonic clock goes on."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from anyjob.base.clock import SystemClock
from anyjob.testing.probes.stepping import ahead

__all__: list[str] = []


def _now() -> datetime:
    return datetime.now(UTC) + timedelta(seconds=ahead())


SystemClock.now = staticmethod(_now)
