"""Postpones a job without charging it: by how much, how often, and where that is counted."""

from __future__ import annotations

import math
from datetime import datetime, timedelta
from typing import Final

from msgspec.structs import replace

from anyjob.base.envelope import JobEnvelope
from anyjob.base.moments import plain_moment
from anyjob.define.retry import MAX_SNOOZES, RetryLater, Snooze

__all__ = ["DEFERRALS_HEADER", "SNOOZES_HEADER", "defer", "snooze", "snoozes"]

DEFERRALS_HEADER: Final = "anyjob-deferrals"
SNOOZES_HEADER: Final = "anyjob-snoozes"


def defer(envelope: JobEnvelope, now: datetime, longest: float) -> JobEnvelope | None:
    """Return the envelope of a job that waits for newer code, or None if it has waited for `longest` seconds in all.

    The waits double from a 120th of that time: of an hour 30 s, 1 min, 2 min, ...
    """
    count = _count(envelope, DEFERRALS_HEADER)
    waited, until = (_deferred_by(number, longest) for number in (count, count + 1))
    if until == waited:
        return None
    due_at = now + timedelta(seconds=until - waited)
    return _put_off(envelope, due_at, due_at - now, DEFERRALS_HEADER, count + 1)


def snooze(envelope: JobEnvelope, wish: Snooze | RetryLater, started_at: datetime, now: datetime) -> JobEnvelope | None:
    """Return the envelope of a job that waits until the time it asked for, or None if it was snoozed too often.

    Neither its run since `started_at` nor its wait is charged. Raises the error of a wish that can't be granted.
    """
    count = snoozes(envelope)
    if count >= MAX_SNOOZES:
        return None
    due_at = max(plain_moment(wish.wanted_at(now)), now)  # now, not before: jobs that wait already come first
    return _put_off(envelope, due_at, due_at - min(started_at, now), SNOOZES_HEADER, count + 1)


def snoozes(envelope: JobEnvelope) -> int:
    """Return how often the job was snoozed."""
    return _count(envelope, SNOOZES_HEADER)


def _put_off(envelope: JobEnvelope, due_at: datetime, uncharged: timedelta, header: str, count: int) -> JobEnvelope:
    return replace(
        envelope,
        args=envelope.args.copy(),
        due_at=due_at,
        first_due_at=envelope.first_due_at + uncharged,  # the retry budget moves along
        headers={**envelope.headers, header: str(count)},
    )


def _count(envelope: JobEnvelope, header: str) -> int:
    """Return the number in a header of ours; 0 if the header is damaged."""
    count = envelope.headers.get(header, "0")
    return int(count) if count.isascii() and count.isdigit() and len(count) < _LONGEST_COUNT else 0


def _deferred_by(count: int, longest: float) -> float:
    """Return the seconds for which `count` deferrals hold a job back in all: of an hour 30, 90, 210, ..., 3600."""
    first = longest / 120
    return min(math.ldexp(first, min(count, _ENOUGH)) - first, longest)


_LONGEST_COUNT: Final = 6
_ENOUGH: Final = 1000  # doublings after which a float would overflow
