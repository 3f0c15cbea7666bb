"""What a call may say about one run, checked where it is said."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any, Final, TypedDict

from anyjob.envelope import JOB_ID, MAX_HEADERS_SIZE, QUEUE_NAME, RESERVED_HEADER_PREFIX, JobPriority
from anyjob.errors import InvalidOptionError, did_you_mean
from anyjob.moments import plain_duration, plain_moment
from anyjob.registry import QUEUE_RULE

__all__ = ["EnqueueOptions", "PrepareOptions", "due_at", "refuse_bad_options"]


class PrepareOptions(TypedDict, total=False):
    """What an envelope keeps of what is said about one run; the rest comes from the job's configuration."""

    priority: JobPriority | None
    delay: timedelta | float | None
    """Not before so long from now; seconds, or a timedelta. Not together with `run_at`."""
    run_at: datetime | None
    """Not before this aware datetime; at once if it is past."""
    queue: str | None
    job_id: str | None
    """An id of the caller's: 1 to 64 of `A-Z a-z 0-9 _ -`. Refused if taken, where `Capabilities.unique_ids`."""
    headers: Mapping[str, str] | None
    """Carried along and given to the job; 8 KiB at most, `anyjob-` is reserved."""


class EnqueueOptions(PrepareOptions, total=False):
    """What may be said about one run when it is enqueued."""

    backend: str | None
    """Alias of the backend that is to take it, in place of the one that the routes choose."""


def refuse_bad_options(options: PrepareOptions) -> None:
    """Raise `InvalidOptionError`, saying what is wrong with which option and what would be right. None is unsaid."""
    for name, value in options.items():
        rule = _RULES.get(name)
        if rule is None:
            raise InvalidOptionError(
                f"There is no option {name!r}.{did_you_mean(name, _RULES)} Options: {', '.join(_RULES)}."
            )
        fault = "" if value is None else rule(value)
        if fault:
            raise InvalidOptionError(f"{name} = {value!r}: {fault}")
    if options.get("delay") is not None and options.get("run_at") is not None:
        raise InvalidOptionError("delay and run_at say the same thing: give one of them.")


def _fault_of_priority(value: Any) -> str:
    if isinstance(value, JobPriority):
        return ""
    return "numbers mean the opposite on some brokers; use JobPriority.LOW, BELOW_NORMAL, NORMAL, ABOVE_NORMAL, HIGH."


def _fault_of_delay(value: Any) -> str:
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "a delay is a timedelta or a number of seconds."
    right = math.isfinite(value) and 0 <= value <= _LONGEST_DELAY
    return "" if right else "a delay is between 0 seconds and 1000 years."


def _fault_of_run_at(value: Any) -> str:
    if not isinstance(value, datetime):
        return "run_at is a datetime."
    if value.utcoffset() is None:
        return "it has no time zone, so nobody can tell when that is. Use datetime.now(UTC) or .astimezone()."
    return "" if value.year <= _LAST_YEAR else f"run_at is in the year {_LAST_YEAR} at the latest."


def _fault_of_queue(value: Any) -> str:
    return "" if isinstance(value, str) and QUEUE_NAME.fullmatch(value) else QUEUE_RULE


def _fault_of_backend(value: Any) -> str:
    return "" if isinstance(value, str) else "a backend is named by its alias."  # the router knows which there are


def _fault_of_job_id(value: Any) -> str:
    return "" if isinstance(value, str) and JOB_ID.fullmatch(value) else "an id is 1 to 64 of A-Z a-z 0-9 _ -."


def _fault_of_headers(value: Any) -> str:
    if not isinstance(value, Mapping) or not all(_is_text(x) for pair in value.items() for x in pair):
        return "headers map strings to strings."
    reserved = [key for key in value if key.startswith(RESERVED_HEADER_PREFIX)]
    if reserved:
        return f"{reserved[0]!r}: names that begin with {RESERVED_HEADER_PREFIX!r} are anyjob's own."
    size = sum(len(x.encode()) for pair in value.items() for x in pair)
    return "" if size <= MAX_HEADERS_SIZE else f"they take {size:,} bytes; the limit is {MAX_HEADERS_SIZE:,}."


_LONGEST_DELAY: Final = 1000 * 365 * 86_400.0
_LAST_YEAR: Final = 4000

_RULES: Final[Mapping[str, Callable[[Any], str]]] = {
    "priority": _fault_of_priority,
    "delay": _fault_of_delay,
    "run_at": _fault_of_run_at,
    "queue": _fault_of_queue,
    "job_id": _fault_of_job_id,
    "headers": _fault_of_headers,
    "backend": _fault_of_backend,
}


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and not any("\ud800" <= char <= "\udfff" for char in value)


def due_at(options: PrepareOptions, now: datetime) -> datetime | None:
    """Return when the job is due if that is later than now, in UTC."""
    run_at = options.get("run_at")
    if run_at is None:
        run_at = now + plain_duration(options.get("delay") or 0.0)
    try:
        run_at = plain_moment(run_at)
    except OverflowError:  # hours before the first day of the calendar
        return None
    return run_at if run_at > now else None
