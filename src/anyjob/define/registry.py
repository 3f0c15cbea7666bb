"""All jobs that a process knows: stable names and args types, each leading to exactly one configuration."""

from __future__ import annotations

import inspect
import threading
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from types import MappingProxyType
from typing import Any, Final, TypeVar

from msgspec import UNSET, Raw, UnsetType

from anyjob.base.envelope import QUEUE_NAME, QUEUE_RULE, JobEnvelope, JobPriority
from anyjob.base.errors import DuplicateJobError, JobDefinitionError, UnknownJobError, did_you_mean, shown
from anyjob.base.forks import in_each_process
from anyjob.base.moments import LONGEST_WAIT
from anyjob.base.plain import plain_number, plain_text, plain_texts
from anyjob.define.retry import RetryPolicy
from anyjob.define.serializer import JobSerializer
from anyjob.define.signature import JobFunction, describe_place, refuse_generator
from anyjob.define.upgrades import JobUpgrade, args_version, refuse_bad_upgrades, upgrade_args

__all__ = ["JobConfiguration", "JobRegistry", "args_type_of", "job_name", "name_after"]

T = TypeVar("T", bound=type)

_MAX_NAME: Final = 128
_RESERVED: Final = "anyjob."
_NAME_ATTRIBUTE: Final = "__anyjob_name__"


def job_name(name: str, *, aliases: Iterable[str] = ()) -> Callable[[T], T]:
    """Give an args class (or a job class) the stable name under which its jobs travel, and the names it had before.

    The name is the contract with queued messages and with other deployments: it stays when the class is renamed or
    moved. Up to 128 characters. Subclasses don't inherit it.
    """
    names = (plain_text(name), *as_aliases(aliases))
    for each in names:
        _refuse_bad_name(each)

    def decorate(cls: T) -> T:
        setattr(cls, _NAME_ATTRIBUTE, names)
        return cls

    return decorate


def _named(cls: Any) -> tuple[str, ...]:
    """Return the name and aliases that `@job_name` gave `cls` itself, or nothing."""
    names: tuple[str, ...] = getattr(cls, "__dict__", {}).get(_NAME_ATTRIBUTE, ())
    return names


@dataclass(frozen=True, slots=True, kw_only=True)
class JobConfiguration:
    """One row of the registry. `time_limit` is in seconds; `retry` unset means the settings' policy, None one try."""

    name: str
    job: type[Any] | JobFunction[..., Any]
    declared_args_type: Any = None
    aliases: tuple[str, ...] = ()
    queue: str = "default"
    priority: JobPriority = JobPriority.NORMAL
    retry: RetryPolicy | UnsetType | None = UNSET
    time_limit: float | None = None
    is_async: bool = False
    upgrades: Mapping[int, JobUpgrade] = field(default_factory=dict)
    """By version, what makes arguments of the version before into that version's; the last is today's."""

    def __post_init__(self) -> None:
        for attribute, plain in _PLAIN.items():
            object.__setattr__(self, attribute, plain(getattr(self, attribute)))
        for each in (self.name, *self.aliases):
            _refuse_bad_name(each)
        queue: Any = self.queue
        if not isinstance(queue, str) or not QUEUE_NAME.fullmatch(queue):
            raise JobDefinitionError(f"{self.place}: queue = {queue!r}: {QUEUE_RULE}")
        if not isinstance(self.priority, JobPriority):
            raise JobDefinitionError(f"{self.place}: priority = {self.priority!r} is not a JobPriority.")
        if not isinstance(self.retry, RetryPolicy | UnsetType | None):
            raise JobDefinitionError(f"{self.place}: retry = {self.retry!r} is neither a RetryPolicy nor None.")
        refuse_bad_upgrades(self.upgrades, self.place)
        if self.time_limit is not None and not _is_time(self.time_limit):
            raise JobDefinitionError(
                f"{self.place}: time_limit = {shown(self.time_limit)} must be a timedelta or seconds, more than 0."
            )

    @property
    def place(self) -> str:
        """Where the job is defined, for messages."""
        return describe_place(_definition(self))

    @property
    def args_type(self) -> Any:
        """What the job's arguments decode to; a function's is made from its signature on first use."""
        return self.declared_args_type or self.job.args_type

    @property
    def args_version(self) -> int:
        """The version of the arguments that are enqueued now."""
        return max(self.upgrades, default=0)

    def decode(self, envelope: JobEnvelope, serializer: JobSerializer) -> Any:
        """Return the arguments, brought to today's version first. Raises `InvalidArgsError` if they can't be."""
        data: bytes | Raw = envelope.args
        if self.upgrades:
            data = upgrade_args(data, args_version(envelope.headers), self.upgrades)
        return serializer.deserialize(data, self.args_type)

    @classmethod
    def of_class(cls, job: type[Any], args_type: Any) -> JobConfiguration:
        """Read the configuration of a job class from its attributes, and its name from `@job_name`."""
        try:
            inspect.signature(job.execute).bind(None, None)
        except TypeError as error:
            raise JobDefinitionError(f"{describe_place(job)}: execute must take self and args: {error}.") from error
        refuse_generator(job.execute)
        name, *aliases = (
            _named(args_type) or _named(job) or (name_after(args_type if _is_own_type(args_type) else job),)
        )
        return cls(
            name=name,
            aliases=tuple(aliases),
            job=job,
            declared_args_type=args_type,
            queue=job.queue,
            priority=job.priority,
            retry=job.retry,
            time_limit=seconds_or_none(job.time_limit),
            is_async=inspect.iscoroutinefunction(job.execute),
            upgrades=job.upgrades,
        )


_PLAIN: Final = {"name": plain_text, "aliases": plain_texts, "queue": plain_text, "time_limit": plain_number}


class JobRegistry:
    """Finds a job's configuration by its name, by an old name, or by the type of its arguments. Thread-safe.

    Registering a second job under a taken name or for a taken args type is refused (ABP: the last one wins, silently),
    except by the same module and qualified name: a reload. Registries are independent of each other.
    """

    def __init__(self) -> None:
        in_each_process(self._begin)
        self._by_name: dict[str, JobConfiguration] = {}
        self._by_args_type: dict[Any, JobConfiguration] = {}
        self._by_job: dict[Any, JobConfiguration] = {}
        self._dynamic: dict[str, JobConfiguration] = {}

    def _begin(self) -> None:
        self._lock = threading.Lock()

    def register(self, configuration: JobConfiguration) -> None:
        """Add a job; raise `DuplicateJobError`, naming both places, if its name, alias or args type is taken."""
        names = (configuration.name, *configuration.aliases)
        key = _own_type(configuration)
        with self._lock:
            clashes = [(f"name {name!r}", self._by_name.get(name)) for name in names]
            clashes.append((f"args type {getattr(key, '__qualname__', key)}", self._by_args_type.get(key)))
            for claim, other in clashes:
                if other is not None and not _same_definition(other, configuration):
                    raise DuplicateJobError(
                        f"{claim} is taken: {configuration.place} and {other.place} both claim it. "
                        "Rename one with @job_name, or give it an args class of its own."
                    )
            for _, reloaded in clashes:
                if reloaded is not None:
                    self._forget(reloaded)
            self._by_name.update(dict.fromkeys(names, configuration))
            self._by_job[configuration.job] = configuration
            if key is not None:
                self._by_args_type[key] = configuration

    def _forget(self, configuration: JobConfiguration) -> None:
        for table in (self._by_name, self._by_args_type, self._by_job):
            for key in [key for key, value in table.items() if value is configuration]:
                del table[key]

    def register_handler(
        self,
        name: str,
        handler: Callable[[Any], Any],
        *,
        queue: str = "default",
        priority: JobPriority = JobPriority.NORMAL,
        retry: RetryPolicy | UnsetType | None = UNSET,
        time_limit: timedelta | float | None = None,
    ) -> None:
        """Add (or replace) a dynamic job at run time: `handler(payload)`, sync or async, gets the JSON payload as is.

        It lives as long as this registry, so each process registers it anew. A typed job of the same name wins.
        """
        configuration = JobConfiguration(
            name=name,
            job=_DynamicFunction(handler),
            queue=queue,
            priority=priority,
            retry=retry,
            time_limit=seconds_or_none(time_limit),
            is_async=inspect.iscoroutinefunction(handler),
        )
        with self._lock:
            self._dynamic[name] = configuration

    def unregister_handler(self, name: str) -> bool:
        """Remove a dynamic job; return whether there was one."""
        with self._lock:
            return self._dynamic.pop(name, None) is not None

    def find(self, name: str) -> JobConfiguration | None:
        """Return the job of that name or alias, or None."""
        return self._by_name.get(name) or self._dynamic.get(name)

    def get(self, name: str) -> JobConfiguration:
        """Return the job of that name or alias; raise `UnknownJobError` with the nearest known name."""
        configuration = self.find(name)
        if configuration is None:
            known = [*self._by_name, *self._dynamic]
            raise UnknownJobError(
                f"No job is named {name!r}.{did_you_mean(name, known)} "
                f"Known: {', '.join(sorted(known)) or 'none; import the modules that define your jobs'}."
            )
        return configuration

    def get_for(self, args: object) -> JobConfiguration:
        """Return the job whose args type is exactly the type of `args`; raise `UnknownJobError` otherwise."""
        args_type = type(args)
        try:
            return self._by_args_type[args_type]
        except KeyError:
            pass
        if isinstance(args, str):
            advice = "To enqueue by name, use enqueue_by_name(name, payload)."
        elif isinstance(args, type):
            advice = f"That is the class {args.__qualname__}: pass an object of it."
        elif callable(getattr(args, "enqueue", None)):
            advice = "That is a job itself: call its .enqueue(...)."
        elif not _is_own_type(args_type):
            advice = f"A {args_type.__qualname__} doesn't say which job is meant: use TheJob.enqueue(args)."
        else:
            known = {getattr(each, "__qualname__", str(each)): each for each in self._by_args_type}
            advice = did_you_mean(args_type.__qualname__, known).strip() or (
                f"Known args types: {', '.join(sorted(known)) or 'none; import the modules that define your jobs'}."
            )
        raise UnknownJobError(f"No job takes {describe_place(args_type)}. {advice}")

    def get_for_job(self, job: object) -> JobConfiguration:
        """Return the configuration of a job class or function; raise `UnknownJobError` if it isn't in here."""
        try:
            return self._by_job[job]
        except KeyError:
            pass
        place = describe_place(job.function if isinstance(job, JobFunction) else job)
        if missing := getattr(job, "__abstractmethods__", None):
            raise UnknownJobError(
                f"{place} is abstract, and so no job: it doesn't define {', '.join(sorted(missing))}."
            )
        raise UnknownJobError(f"{place} is not in this registry. Register it, or use the manager of its registry.")

    def check(self, serializer: JobSerializer) -> None:
        """Compile every job's arguments; raise `JobDefinitionError` for the first that can't travel."""
        for configuration in self:
            serializer.prepare(configuration.args_type)

    @property
    def names(self) -> Mapping[str, JobConfiguration]:
        """Every name and alias, read-only."""
        return MappingProxyType({**self._dynamic, **self._by_name})

    def queues(self) -> frozenset[str]:
        """Return the queues that these jobs go to, and `default`, which is always one."""
        return frozenset({"default", *(each.queue for each in self)})

    def __iter__(self) -> Iterator[JobConfiguration]:
        return iter({id(each): each for each in self.names.values()}.values())


class _DynamicFunction(JobFunction[..., Any]):
    """A handler of JSON payloads: one argument of any type, given as it is."""

    def __init__(self, handler: Callable[[Any], Any]) -> None:
        refuse_generator(handler)
        self.function = handler
        self.is_async = inspect.iscoroutinefunction(handler)

    args_type: Any = Any

    def call(self, args: Any) -> Any:
        return self.function(args)


def _own_type(configuration: JobConfiguration) -> Any:
    """Return the type that finds the job, or None if its type has no identity of its own (int, list[str], ...)."""
    declared = configuration.declared_args_type
    return declared if _is_own_type(declared) else None


def _is_own_type(args_type: Any) -> bool:
    return isinstance(args_type, type) and args_type.__module__ != "builtins"


def _same_definition(one: JobConfiguration, other: JobConfiguration) -> bool:
    first, second = _definition(one), _definition(other)
    return (first.__module__, first.__qualname__) == (second.__module__, second.__qualname__)


def _definition(configuration: JobConfiguration) -> Any:
    job = configuration.job
    return job.function if isinstance(job, JobFunction) else job


def name_after(owner: Any) -> str:
    """Return the name of a job that was given none: where its function or class is; refuse one that is in a function.

    Each call of that makes another, which would take the place of the one before; and who imports the module alone has
    none.
    """
    if "<" in owner.__qualname__:
        raise JobDefinitionError(
            f"{describe_place(owner)} is defined in a function, or has no name: no name leads to it. Give the job one: "
            '@background_job("mail.send"), or @job_name("mail.send") for a class.'
        )
    return f"{owner.__module__}.{owner.__qualname__}"


def _refuse_bad_name(name: object) -> None:
    if not isinstance(name, str) or not 0 < len(name) <= _MAX_NAME or not name.isprintable() or " " in name:
        raise JobDefinitionError(
            f"{name!r} can't be a job's name: 1 to {_MAX_NAME} printable characters without spaces, as 'mail.send'."
        )
    if name.startswith(_RESERVED):
        raise JobDefinitionError(f"{name!r}: names that begin with {_RESERVED!r} are anyjob's own, on every broker.")


def as_aliases(aliases: Iterable[str]) -> tuple[str, ...]:
    """Return the aliases; refuse a string, which is an iterable of its letters."""
    texts: Any = plain_texts(aliases)
    if not isinstance(texts, tuple):
        raise JobDefinitionError(f"aliases = {shown(texts)} must be a list, as [{shown(aliases)}].")
    return texts


def _is_time(seconds: object) -> bool:
    return isinstance(seconds, int | float) and not isinstance(seconds, bool) and 0 < seconds <= LONGEST_WAIT


def seconds_or_none(duration: timedelta | float | None) -> float | None:
    """Return a duration that may be a timedelta in seconds."""
    return duration.total_seconds() if isinstance(duration, timedelta) else duration


def args_type_of(job: type[Any], base: type[Any]) -> Any:
    """Return what `job` filled into the type parameter of the generic `base`, through any classes in between.

    A TypeVar of `job`'s own is returned as it is: the class is still generic. What was left out is Any.
    """
    for origin_base in vars(job).get("__orig_bases__", job.__bases__):
        origin = typing.get_origin(origin_base) or origin_base
        if not (isinstance(origin, type) and issubclass(origin, base)):
            continue
        given = typing.get_args(origin_base)
        if origin is base:
            return given[0] if given else Any
        filled = dict(zip(getattr(origin, "__parameters__", ()), given, strict=False))
        inner = args_type_of(origin, base)
        if isinstance(inner, TypeVar):
            return filled.get(inner, Any)
        free = type_variables(inner)
        return inner[tuple(filled.get(each, Any) for each in free)] if free else inner
    return Any


def type_variables(args_type: Any) -> tuple[Any, ...]:
    """Return what is still open in a type: T itself, or the T of `list[T]`."""
    if isinstance(args_type, TypeVar):
        return (args_type,)
    return getattr(args_type, "__parameters__", ()) if typing.get_origin(args_type) else ()
