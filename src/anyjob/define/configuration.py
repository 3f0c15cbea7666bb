"""The configuration of one job: its name and aliases, its code, its queue, its retries, its time limit."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final, TypeVar

from msgspec import UNSET, Raw, UnsetType

from anyjob.base.envelope import QUEUE_NAME, QUEUE_RULE, JobEnvelope, JobPriority
from anyjob.base.errors import JobDefinitionError, shown
from anyjob.base.moments import LONGEST_WAIT
from anyjob.base.plain import plain_number, plain_text, plain_texts
from anyjob.define.names import name_after, names_of, refuse_bad_name
from anyjob.define.retry import RetryPolicy
from anyjob.define.serializer import JobSerializer
from anyjob.define.signature import JobFunction, refuse_generator, source_location_of
from anyjob.define.upgrades import JobUpgrade, args_version, refuse_bad_upgrades, upgrade_args

__all__ = ["JobConfiguration", "args_type_of", "is_own_type", "seconds_or_none", "type_variables"]


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
    """By version, the step from the version before to this one; the last version is today's."""

    def __post_init__(self) -> None:
        for attribute, plain in _PLAIN.items():
            object.__setattr__(self, attribute, plain(getattr(self, attribute)))
        for each in (self.name, *self.aliases):
            refuse_bad_name(each)
        queue: Any = self.queue
        if not isinstance(queue, str) or not QUEUE_NAME.fullmatch(queue):
            raise JobDefinitionError(f"{self.source_location}: queue = {queue!r}: {QUEUE_RULE}")
        if not isinstance(self.priority, JobPriority):
            raise JobDefinitionError(f"{self.source_location}: priority = {self.priority!r} is not a JobPriority.")
        if not isinstance(self.retry, RetryPolicy | UnsetType | None):
            raise JobDefinitionError(
                f"{self.source_location}: retry = {self.retry!r} is neither a RetryPolicy nor None."
            )
        if self.upgrades:  # else nobody asks where the job is defined: to find that reads the whole file
            refuse_bad_upgrades(self.upgrades, self.source_location)
        if self.time_limit is not None and not _is_time(self.time_limit):
            given = shown(self.time_limit)
            raise JobDefinitionError(
                f"{self.source_location}: time_limit = {given} must be a timedelta or seconds, more than 0."
            )

    @property
    def definition(self) -> Any:
        """The class or the function that the job is."""
        return self.job.function if isinstance(self.job, JobFunction) else self.job

    @property
    def source_location(self) -> str:
        """Where the job is defined, for messages: `module.qualname (file:line)`."""
        return source_location_of(self.definition)

    @property
    def args_type(self) -> Any:
        """The type that the job's arguments decode to; a function's is made from its signature on first use."""
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
            raise JobDefinitionError(f"{source_location_of(job)}: execute must take self and args: {error}.") from error
        refuse_generator(job.execute)
        name, *aliases = (
            names_of(args_type) or names_of(job) or (name_after(args_type if is_own_type(args_type) else job),)
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


def is_own_type(args_type: Any) -> bool:
    """Whether the type has an identity of its own, by which a job can be found: no `int`, no `list[str]`."""
    return isinstance(args_type, type) and args_type.__module__ != "builtins"


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
