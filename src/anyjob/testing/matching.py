"""Whether a job is the one that a test means, and if not, in what it differs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple, TypedDict

from msgspec import UNSET

from anyjob.base.envelope import QUEUE_NAME, QUEUE_RULE, JobPriority
from anyjob.base.errors import InvalidArgsError, InvalidOptionError, UnknownJobError, did_you_mean
from anyjob.define.configuration import JobConfiguration
from anyjob.define.plain_data import refuse_unknown_fields
from anyjob.job import AsyncBackgroundJob, BackgroundJob, FunctionJob
from anyjob.testing.record import AbandonedJob, EnqueuedJob, RanJob

__all__ = [
    "ChosenJobs",
    "Difference",
    "ExpectedJob",
    "ExpectedRun",
    "JobExpectation",
    "JobKind",
    "Matcher",
    "describe",
    "refuse_bad_queues",
]

Matcher = Callable[[Any], object]


class ExpectedJob(TypedDict, total=False):
    """Values that a job must have been enqueued with. Each may be a function of the actual value, or equal anything."""

    queue: str | Matcher
    priority: JobPriority | Matcher
    delay: timedelta | float | Matcher
    """Seconds, or a timedelta; 0 is at once."""
    run_at: datetime | Matcher | None
    """To the second; None is at once."""
    headers: Mapping[str, object] | Matcher
    """At least these."""
    backend: str | Matcher
    """Alias of the backend."""


class ExpectedRun(ExpectedJob, total=False):
    """Values that a run, or an abandoned job, must have had."""

    error: type[BaseException] | BaseException | Matcher | None
    """Its class, or None for a success."""
    try_count: int | Matcher


class ChosenJobs(TypedDict, total=False):
    """Which of the waiting jobs are to run; all, if nothing is said."""

    queue: str | Collection[str]
    only: Callable[[EnqueuedJob], object] | object
    """A job as in claims, or several, or a function of an `EnqueuedJob`."""


class Difference(NamedTuple):
    """One way in which a job is not the one that is meant."""

    path: str
    actual: object
    expected: object

    def __str__(self) -> str:
        return f"{self.path}: {_show(self.actual)}, expected {_show(self.expected)}"


class JobExpectation:
    """The jobs that a test means, each a `JobKind`, and what they must have been enqueued with."""

    def __init__(self, job: object, args: object, fields: Mapping[str, Any], known: Sequence[JobConfiguration]) -> None:
        named = [job]
        if isinstance(job, list | tuple | set | frozenset) and not hasattr(
            job, "_fields"
        ):  # of a NamedTuple: arguments
            named = list(job)
        self._kinds = [JobKind(each, args, known) for each in named]
        if not self._kinds:
            raise InvalidOptionError(f"{job!r} names no job, so nothing could ever be one of them.")
        self._args = args
        self._fields = {name: _prepared(name, value) for name, value in fields.items()}

    def differences(self, seen: EnqueuedJob) -> list[Difference]:
        """Return in what `seen` differs from the nearest of the jobs that are meant; nothing if it is one of them."""
        found = min((kind.differences(seen) for kind in self._kinds), key=_distance)
        for name, expected in self._fields.items():
            found += _FIELDS.get(name, _differences)(name, getattr(seen, name), expected)
        return found

    def fits(self, seen: EnqueuedJob) -> bool:
        """Whether it is one of the jobs that are meant."""
        return not self.differences(seen)

    def means(self, configuration: JobConfiguration) -> bool:
        """Whether it is a job that the test named."""
        return any(kind.means(configuration) for kind in self._kinds)

    def __str__(self) -> str:
        same = self._args is not UNSET
        said = " or ".join(kind.name if same else str(kind) for kind in self._kinds)
        args = [f"args={_show(self._args)}"] if same else []
        return ", ".join([said, *args, *(f"{name}={_show(value)}" for name, value in self._fields.items())])


class JobKind:
    """A job by its class or function, its args type, its name, or an object of its args type; UNSET is any job."""

    def __init__(self, job: object, args: object, known: Sequence[JobConfiguration]) -> None:
        if args is UNSET and job is not UNSET and not isinstance(job, type | str | FunctionJob):
            job, args = type(job), job
        self.job, self.args = job, args
        if job is UNSET:
            return
        meant = [configuration for configuration in known if self.means(configuration)]
        for configuration in meant:
            _refuse_impossible(configuration, args)
        if not meant:
            self._refuse_unknown(known)

    def differences(self, seen: EnqueuedJob) -> list[Difference]:
        """Return in what `seen` differs; nothing if it is what is meant."""
        if self.job is not UNSET and (seen.configuration is None or not self.means(seen.configuration)):
            return [] if self.job == seen.name else [Difference("job", Plain(seen.name), Plain(self.name))]
        return [] if self.args is UNSET else list(_args(seen, self.args))

    @property
    def name(self) -> str:
        """How the test called the job."""
        if self.job is UNSET:
            return "any job"
        if isinstance(self.job, str):
            return self.job
        return str(getattr(self.job, "__qualname__", self.job))

    def __str__(self) -> str:
        return self.name if self.args is UNSET else f"{self.name}, args={_show(self.args)}"

    def means(self, configuration: JobConfiguration) -> bool:
        """Whether it is this job that the test named."""
        if self.job is UNSET:
            return True
        if isinstance(self.job, str):
            return self.job in (configuration.name, *configuration.aliases)
        return self.job is configuration.job or self.job is configuration.declared_args_type

    def _refuse_unknown(self, known: Sequence[JobConfiguration]) -> None:
        """Raise unless the job may be one of a registry that no manager used yet."""
        if isinstance(self.job, str):
            names = [configuration.name for configuration in known]
            raise UnknownJobError(f"No job here is named {self.job!r}.{did_you_mean(self.job, names)}")
        if isinstance(self.job, type) and not issubclass(self.job, BackgroundJob | AsyncBackgroundJob):
            raise UnknownJobError(
                f"{self.name} is neither a job nor the args type of one in the default registry, or in that of a "
                "manager which this test used. Name the job itself."
            )


class Plain(str):
    """Shown without quotes."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


_NO_FIELD: Final = Plain("no such field")


def _refuse_impossible(configuration: JobConfiguration, args: object) -> None:
    """Raise if no arguments of the job could ever be the ones that are meant: a slip in the test."""
    wanted = configuration.args_type
    if isinstance(args, Mapping):
        try:
            refuse_unknown_fields(dict(args), wanted)
        except ValueError as error:
            raise InvalidArgsError(f"{configuration.name}: {error}") from None
    elif isinstance(wanted, type) and _parts(args) is not None and type(args) is not wanted:
        raise InvalidArgsError(f"{configuration.name} takes {wanted.__qualname__}, not {type(args).__qualname__}.")


def refuse_bad_queues(names: Collection[str] | None) -> None:
    """Raise if no queue can have one of these names, or if there are none: a slip in the test."""
    wrong = [name for name in names or () if not QUEUE_NAME.fullmatch(name)]
    if wrong or names == frozenset():
        raise InvalidOptionError(f"queue = {wrong[0] if wrong else ()!r}: {QUEUE_RULE}")


def _distance(differences: Sequence[Difference]) -> tuple[bool, int]:
    """Return how far off a job is: one of another kind is farther than any other."""
    return any(each.path == "job" for each in differences), len(differences)


def _args(seen: EnqueuedJob, expected: Any) -> Iterator[Difference]:
    try:
        actual = seen.args
    except InvalidArgsError as error:
        yield Difference("args", Plain(f"undecodable: {error}"), expected)
    else:
        yield from _differences("args", actual, expected)


def _prepared(name: str, value: Any) -> Any:
    if name == "queue" and isinstance(value, str):
        refuse_bad_queues([value])
    if name == "delay" and isinstance(value, int | float):
        return timedelta(seconds=value)
    if name == "run_at" and isinstance(value, datetime) and value.utcoffset() is None:
        raise InvalidOptionError(f"run_at = {value!r}: it has no time zone, so nobody can tell when that is.")
    return value


def _differences(path: str, actual: Any, expected: Any) -> Iterator[Difference]:
    if _equal(actual, expected):
        return
    if callable(expected) and not isinstance(expected, type):
        if not expected(actual):
            yield Difference(path, actual, expected)
        return
    own, wanted = _parts(actual), _parts(expected)
    partial = isinstance(expected, Mapping)
    if (
        own is None
        or wanted is None
        or (not partial and (type(actual) is not type(expected) or len(own) != len(wanted)))
    ):
        yield Difference(path, actual, expected)
        return
    for name, value in wanted.items():
        deeper = f"{path}[{name}]" if isinstance(name, int) else f"{path}.{name}"
        yield from _differences(deeper, own.get(name, _NO_FIELD), value)


def _equal(actual: Any, expected: Any) -> bool:
    try:
        return bool(expected == actual)
    except Exception:  # noqa: BLE001  # an array's == says neither yes nor no
        return False


def _parts(value: Any) -> Mapping[Any, Any] | None:
    """Return what a value is made of: of a mapping, a sequence, or an object of any kind that arguments may be."""
    if isinstance(value, Mapping):
        return value
    names = _field_names(value)
    if names is not None:
        return {name: getattr(value, name) for name in names}
    return dict(enumerate(value)) if isinstance(value, list | tuple) else None


def _field_names(value: Any) -> Sequence[str] | None:
    cls = type(value)
    if (structs := getattr(cls, "__struct_fields__", None)) is not None:
        return tuple(structs)
    if (attributes := getattr(cls, "__attrs_attrs__", None)) is not None:
        return [attribute.name for attribute in attributes]
    for holder in ("__dataclass_fields__", "model_fields", "__pydantic_fields__"):
        if isinstance(fields := getattr(cls, holder, None), Mapping):
            return list(fields)
    return getattr(cls, "_fields", None) if isinstance(value, tuple) else None


def _headers(path: str, actual: Any, expected: Any) -> Iterator[Difference]:
    return _differences(path, dict(actual), expected)


def _moment(path: str, actual: datetime | None, expected: Any) -> Iterator[Difference]:
    if (
        isinstance(actual, datetime)
        and isinstance(expected, datetime)
        and abs(actual - expected) < timedelta(seconds=1)
    ):
        return
    yield from _differences(path, actual, expected)


def _error(path: str, actual: BaseException | None, expected: Any) -> Iterator[Difference]:
    if isinstance(expected, type):
        if not isinstance(actual, expected):
            yield Difference(path, actual, expected)
        return
    yield from _differences(path, actual, expected)


_FIELDS: Final[Mapping[str, Callable[[str, Any, Any], Iterator[Difference]]]] = {
    "headers": _headers,
    "run_at": _moment,
    "error": _error,
}


def _show(value: object) -> str:
    if isinstance(value, timedelta):
        return f"{value}" if value else "none"
    if isinstance(value, datetime):
        return value.isoformat(" ")
    if isinstance(value, JobPriority):
        return value.name
    if isinstance(value, type):
        return value.__qualname__
    return repr(value)


def describe(seen: EnqueuedJob) -> str:
    """Return a job in one line, its arguments included."""
    try:
        args = repr(seen.args)
    except Exception:  # noqa: BLE001  # undecodable, or its repr is broken: still to be shown
        args = bytes(seen.envelope.args).decode(errors="replace")
    due = f" due in {seen.delay}" if seen.delay else ""
    error = seen.error if isinstance(seen, RanJob | AbandonedJob) else None
    raised = "" if error is None else f" raised {type(error).__qualname__}: {error}"
    return f"{seen.name} {args} queue={seen.queue} priority={seen.priority.name}{due}{raised}"
