"""The options of one run, checked where they are given."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypedDict, cast

from anyjob.base.envelope import JOB_ID, MAX_HEADERS_SIZE, QUEUE_NAME, QUEUE_RULE, RESERVED_HEADER_PREFIX, JobPriority
from anyjob.base.errors import InvalidOptionError, did_you_mean, shown
from anyjob.base.moments import plain_duration, plain_moment
from anyjob.base.plain import plain_number, plain_text

__all__ = ["EnqueueOptions", "PrepareOptions", "due_at", "plain_options"]


class PrepareOptions(TypedDict, total=False):
    """The options of one run that its envelope keeps; the rest comes from the job's configuration."""

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
    """The options of one run when it is enqueued."""

    backend: str | None
    """Alias of the backend to send it to, in place of the one that the routes choose."""
    unique_id: bool | None
    """Refuse to send a `job_id` that may come to stand for two jobs, where the backend has no `unique_ids`. Where it
    has, `DuplicateJobIdError` says that a job of this id is there already: waiting, running or parked."""


def plain_options(options: PrepareOptions) -> EnqueueOptions:
    """Return the options that are given (None is not given), each as a plain value that may travel.

    Raises `InvalidOptionError`, saying what is wrong with which option and what would be right.
    """
    plain: dict[str, Any] = {}
    for name, value in options.items():
        read = _READERS.get(name)
        if read is None:
            raise InvalidOptionError(
                f"There is no option {name!r}.{did_you_mean(name, _READERS)} Options: {', '.join(_READERS)}."
            )
        if value is not None:
            try:
                plain[name] = read(value)
            except ValueError as error:
                raise InvalidOptionError(f"{name} = {shown(value)}: {error}") from None
    if "delay" in plain and "run_at" in plain:
        raise InvalidOptionError("delay and run_at say the same thing: give one of them.")
    return cast("EnqueueOptions", plain)


def _priority(value: Any) -> JobPriority:
    if isinstance(value, JobPriority):
        return value
    raise ValueError(
        "numbers mean the opposite on some brokers; use JobPriority.LOW, BELOW_NORMAL, NORMAL, ABOVE_NORMAL, HIGH."
    )


def _delay(value: Any) -> timedelta:
    if isinstance(value, timedelta):
        value = plain_duration(value).total_seconds()
    value = plain_number(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("a delay is a timedelta or a number of seconds.")
    if not 0 <= value <= _LONGEST_DELAY:  # nor is it NaN
        raise ValueError("a delay is between 0 seconds and 1000 years.")
    return timedelta(seconds=value)


def _run_at(value: Any) -> datetime:
    if not isinstance(value, datetime):
        raise ValueError("run_at is a datetime.")
    if value.utcoffset() is None:
        raise ValueError(
            "it has no time zone, so nobody can tell when that is. Use datetime.now(UTC) or .astimezone()."
        )
    try:
        moment = plain_moment(value)
    except OverflowError:  # UTC has no such time: it is hours before the calendar begins, or after it ends
        moment = _FIRST if value.year == 1 else _NEVER
    except (TypeError, ValueError):  # pandas has a datetime that is none
        raise ValueError("that is no time.") from None
    if moment.year > _LAST_YEAR:
        raise ValueError(f"run_at is in the year {_LAST_YEAR} at the latest.")
    return moment


def _queue(value: Any) -> str:
    queue: Any = plain_text(value)
    if not isinstance(queue, str) or not QUEUE_NAME.fullmatch(queue):
        raise ValueError(QUEUE_RULE)
    return queue


def _job_id(value: Any) -> str:
    job_id: Any = plain_text(value)
    if not isinstance(job_id, str) or not JOB_ID.fullmatch(job_id):
        raise ValueError("an id is 1 to 64 of A-Z a-z 0-9 _ -.")
    return job_id


def _backend(value: Any) -> str:
    alias: Any = plain_text(value)
    if not isinstance(alias, str):
        raise ValueError("a backend is named by its alias.")  # the router knows which there are
    return alias


def _switch(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("it is True or False.")  # told as an InvalidOptionError
    return value


def _headers(value: Any) -> Mapping[str, str]:
    if not isinstance(value, Mapping) or not all(_is_text(x) for pair in value.items() for x in pair):
        raise ValueError("headers map strings to strings.")
    headers: dict[str, str] = {plain_text(key): plain_text(each) for key, each in value.items()}
    reserved = [key for key in headers if key.startswith(RESERVED_HEADER_PREFIX)]
    if reserved:
        raise ValueError(f"{reserved[0]!r}: names that begin with {RESERVED_HEADER_PREFIX!r} are anyjob's own.")
    size = sum(len(x.encode()) for pair in headers.items() for x in pair)
    if size > MAX_HEADERS_SIZE:
        raise ValueError(f"they take {size:,} bytes; the limit is {MAX_HEADERS_SIZE:,}.")
    return headers


_LONGEST_DELAY: Final = 1000 * 365 * 86_400.0
_LAST_YEAR: Final = 4000
_FIRST: Final = datetime.min.replace(tzinfo=UTC)
_NEVER: Final = datetime.max.replace(tzinfo=UTC)

_READERS: Final[Mapping[str, Callable[[Any], Any]]] = {
    "priority": _priority,
    "delay": _delay,
    "run_at": _run_at,
    "queue": _queue,
    "job_id": _job_id,
    "headers": _headers,
    "backend": _backend,
    "unique_id": _switch,
}


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and not any("\ud800" <= char <= "\udfff" for char in value)


def due_at(options: PrepareOptions, now: datetime) -> datetime | None:
    """Return when the job of plain options is due if that is later than now, in UTC."""
    run_at = options.get("run_at")
    if run_at is None:
        run_at = now + plain_duration(options.get("delay") or 0.0)
    return run_at if run_at > now else None
