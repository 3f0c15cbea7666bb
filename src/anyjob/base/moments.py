"""Times that users give, made plain: envelopes carry the standard library's own type, in UTC."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, Final

__all__ = ["LONGEST_WAIT", "plain_duration", "plain_moment"]

LONGEST_WAIT: Final = 100.0 * 365 * 86_400
"""Seconds: the longest duration of any setting or policy, which keeps arithmetic with datetimes in range."""


def plain_moment(moment: datetime) -> datetime:
    """Return an aware datetime as a plain one in UTC: encoders don't know its subclasses (pendulum, freezegun).

    Raises `ValueError` if it is naive, `OverflowError` if UTC has no such time.
    """
    if type(moment) is datetime and moment.tzinfo is UTC:  # nearly always
        return moment
    offset = moment.utcoffset()
    if offset is None:
        raise ValueError(f"{moment!r} has no time zone. Use an aware datetime, as datetime.now(UTC) gives.")
    day, time = (moment.year, moment.month, moment.day), (moment.hour, moment.minute, moment.second, moment.microsecond)
    return datetime(*day, *time, tzinfo=UTC) - plain_duration(offset)


def plain_duration(duration: timedelta | float) -> timedelta:
    """Return seconds, or a timedelta of any subclass, as a plain timedelta."""
    if not isinstance(duration, timedelta):
        return timedelta(seconds=duration)
    days, seconds, microseconds = (part.__get__(duration) for part in _PARTS)
    return timedelta(days, seconds, microseconds)


_PARTS: Final[Any] = (timedelta.days, timedelta.seconds, timedelta.microseconds)  # pendulum's own mean something else
