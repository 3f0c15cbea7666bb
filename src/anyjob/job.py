"""Jobs that an application writes as classes or functions; they register themselves, and can be enqueued."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NoReturn, ParamSpec, TypeVar, Unpack, overload

from msgspec import UNSET, UnsetType

from anyjob.base.envelope import JobEnvelope, JobPriority
from anyjob.base.errors import JobDefinitionError
from anyjob.base.job_id import JobId
from anyjob.current import default_registry, get_manager
from anyjob.define.configuration import JobConfiguration, args_type_of, seconds_or_none, type_variables
from anyjob.define.names import as_aliases, name_after
from anyjob.define.options import EnqueueOptions, PrepareOptions
from anyjob.define.registry import JobRegistry
from anyjob.define.retry import RetryPolicy
from anyjob.define.signature import JobFunction, source_location_of
from anyjob.define.upgrades import JobUpgrade
from anyjob.send.calls import JobCall
from anyjob.send.manager import JobManager

__all__ = ["AsyncBackgroundJob", "BackgroundJob", "FunctionJob", "JobWithOptions", "background_job"]

TArgs = TypeVar("TArgs")
P = ParamSpec("P")
R = TypeVar("R")


class _Elsewhere:
    """An attribute of jobs in other libraries; here its error says what to write instead, and it counts as missing."""

    def __set_name__(self, owner: type[Any], name: str) -> None:
        self._name = name

    def __get__(self, _instance: object, owner: type[Any]) -> NoReturn:
        raise AttributeError(
            f"A job of anyjob's has no .{self._name}(...): call .enqueue(...), and for options "
            ".using(delay=60, queue='mail').enqueue(...)."
        )


class _Hints:
    if not TYPE_CHECKING:  # a type checker is to see that they are missing
        delay = _Elsewhere()
        apply_async = _Elsewhere()
        send = _Elsewhere()
        send_with_options = _Elsewhere()


class _Job(_Hints, ABC, Generic[TArgs]):
    """Base of the sync and the async base class. Concrete subclasses register themselves."""

    queue: ClassVar[str] = "default"
    priority: ClassVar[JobPriority] = JobPriority.NORMAL
    retry: ClassVar[RetryPolicy | UnsetType | None] = UNSET
    """Unset is the settings' policy; None is a single try."""
    time_limit: ClassVar[timedelta | float | None] = None
    """Seconds, or a timedelta; longer runs end with `JobTimeLimitError`, a failed try."""
    upgrades: ClassVar[Mapping[int, JobUpgrade]] = {}
    """By version from 1 on, the step that makes the JSON data of older arguments into that version's: `{1:
    rename_address}`.
    """

    def __init_subclass__(cls, *, registry: JobRegistry | None = default_registry, **rest: Any) -> None:
        super().__init_subclass__(**rest)
        if registry is None or cls.__module__ == __name__ or any(_is_abstract(cls, name) for name in dir(cls)):
            return
        args_type = args_type_of(cls, _Job)
        if type_variables(args_type):
            return
        if isinstance(args_type, str) or args_type is Any or getattr(args_type, "__forward_arg__", None):
            raise JobDefinitionError(
                f"{source_location_of(cls)}: say what the job takes, by a class that is defined above it: "
                f"class {cls.__name__}(BackgroundJob[Email])."
            )
        registry.register(JobConfiguration.of_class(cls, args_type))

    @classmethod
    def enqueue(cls, args: TArgs, **options: Unpack[EnqueueOptions]) -> JobId:
        """Enqueue a run of this job with the manager in force; see `JobManager.enqueue`."""
        return get_manager().enqueue_for(_call(cls, options), args)

    @classmethod
    async def aenqueue(cls, args: TArgs, **options: Unpack[EnqueueOptions]) -> JobId:
        """Like `enqueue`, without blocking the event loop."""
        return await get_manager().aenqueue_for(_call(cls, options), args)

    @classmethod
    def prepare(cls, args: TArgs, **options: Unpack[PrepareOptions]) -> JobEnvelope:
        """Return the envelope of a run, for `JobManager.enqueue_many`."""
        return get_manager().prepare_for(_call(cls, options), args)

    @classmethod
    def using(cls, *, manager: JobManager | None = None, **options: Unpack[EnqueueOptions]) -> JobWithOptions[[TArgs]]:
        """Return the job with options for one run, and with whose manager: `SendEmail.using(delay=60).enqueue(args)`.

        `manager` is the one in force unless it is given.
        """
        return JobWithOptions(cls, options, manager)


class BackgroundJob(_Job[TArgs]):
    """A job with typed arguments: subclass it, name the args class, write `execute`."""

    @abstractmethod
    def execute(self, args: TArgs) -> None:
        """Do the work. Returning is success; raising is a failed try."""


class AsyncBackgroundJob(_Job[TArgs]):
    """An async job with typed arguments; it runs on the one event loop that a worker process has for its jobs."""

    @abstractmethod
    async def execute(self, args: TArgs) -> None:
        """Do the work. Returning is success; raising is a failed try."""


def _call(job: type[_Job[TArgs]], options: Any) -> JobCall[[TArgs]]:
    return JobCall(job, options)


def _is_abstract(cls: type[Any], name: str) -> bool:
    return bool(getattr(getattr(cls, name, None), "__isabstractmethod__", False))


class FunctionJob(JobFunction[P, R], _Hints):
    """A function that can be enqueued. Calling it stays a plain call."""

    def __init__(self, function: Callable[P, R]) -> None:
        functools.update_wrapper(self, function)
        super().__init__(function)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        result: R = self.function(*args, **kwargs)
        return result

    def enqueue(self, *args: P.args, **kwargs: P.kwargs) -> JobId:
        """Enqueue a run with these arguments, with the manager in force; see `JobManager.enqueue`."""
        return get_manager().enqueue_for(self, *args, **kwargs)

    async def aenqueue(self, *args: P.args, **kwargs: P.kwargs) -> JobId:
        """Like `enqueue`, without blocking the event loop."""
        return await get_manager().aenqueue_for(self, *args, **kwargs)

    def prepare(self, *args: P.args, **kwargs: P.kwargs) -> JobEnvelope:
        """Return the envelope of a run, for `JobManager.enqueue_many`."""
        return get_manager().prepare_for(self, *args, **kwargs)

    def using(self, *, manager: JobManager | None = None, **options: Unpack[EnqueueOptions]) -> JobWithOptions[P]:
        """Return the job with options for one run, and with whose manager: `report.using(delay=60).enqueue(7)`.

        `manager` is the one in force unless it is given.
        """
        return JobWithOptions(self, options, manager)


class JobWithOptions(JobCall[P]):
    """The result of `using`: a class's or a function's job, to be enqueued as it would be."""

    def __init__(self, job: object, options: EnqueueOptions, manager: JobManager | None) -> None:
        super().__init__(job, options)
        self._manager = manager

    def enqueue(self, *args: P.args, **kwargs: P.kwargs) -> JobId:
        return (self._manager or get_manager()).enqueue_for(self, *args, **kwargs)

    async def aenqueue(self, *args: P.args, **kwargs: P.kwargs) -> JobId:
        return await (self._manager or get_manager()).aenqueue_for(self, *args, **kwargs)

    def prepare(self, *args: P.args, **kwargs: P.kwargs) -> JobEnvelope:
        return (self._manager or get_manager()).prepare_for(self, *args, **kwargs)


@overload
def background_job(name: Callable[P, R], /) -> FunctionJob[P, R]: ...
@overload
def background_job(
    name: str | None = None,
    *,
    aliases: Iterable[str] = (),
    queue: str = "default",
    priority: JobPriority = JobPriority.NORMAL,
    retry: RetryPolicy | UnsetType | None = UNSET,
    time_limit: timedelta | float | None = None,
    upgrades: Mapping[int, JobUpgrade] | None = None,
    registry: JobRegistry | None = default_registry,
) -> Callable[[Callable[P, R]], FunctionJob[P, R]]: ...
def background_job(
    name: Callable[P, R] | str | None = None,
    *,
    aliases: Iterable[str] = (),
    queue: str = "default",
    priority: JobPriority = JobPriority.NORMAL,
    retry: RetryPolicy | UnsetType | None = UNSET,
    time_limit: timedelta | float | None = None,
    upgrades: Mapping[int, JobUpgrade] | None = None,
    registry: JobRegistry | None = default_registry,
) -> FunctionJob[P, R] | Callable[[Callable[P, R]], FunctionJob[P, R]]:
    """Make a module-level function, sync or async, a job under a stable `name` (default: `module.qualname`).

    Its annotated parameters are its arguments, checked when it is enqueued; `*args`, `**kwargs` and positional-only
    ones are refused. `aliases` are names it had before; `time_limit` is in seconds or a timedelta; `upgrades`, by
    version from 1 on, make the JSON data of older arguments into that version's.
    """

    def decorate(function: Callable[P, R]) -> FunctionJob[P, R]:
        job = FunctionJob(function)
        if registry is not None:
            registry.register(
                JobConfiguration(
                    name=name if isinstance(name, str) else name_after(function),
                    aliases=as_aliases(aliases),
                    job=job,
                    queue=queue,
                    priority=priority,
                    retry=retry,
                    time_limit=seconds_or_none(time_limit),
                    is_async=job.is_async,
                    upgrades={} if upgrades is None else upgrades,
                )
            )
        return job

    return decorate(name) if callable(name) else decorate
