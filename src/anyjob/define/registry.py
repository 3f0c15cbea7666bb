"""All jobs that a process knows: stable names and args types, each leading to exactly one configuration."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from types import MappingProxyType
from typing import Any

from msgspec import UNSET, UnsetType

from anyjob.base.envelope import JobPriority
from anyjob.base.errors import DuplicateJobError, UnknownJobError, did_you_mean
from anyjob.base.forks import in_each_process
from anyjob.define.configuration import JobConfiguration, is_own_type, seconds_or_none
from anyjob.define.retry import RetryPolicy
from anyjob.define.serializer import JobSerializer
from anyjob.define.signature import JobFunction, refuse_generator, source_location_of

__all__ = ["JobRegistry"]


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
                        f"{claim} is taken: {configuration.source_location} and {other.source_location} both claim it. "
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
        elif not is_own_type(args_type):
            advice = f"A {args_type.__qualname__} doesn't say which job is meant: use TheJob.enqueue(args)."
        else:
            known = {getattr(each, "__qualname__", str(each)): each for each in self._by_args_type}
            advice = did_you_mean(args_type.__qualname__, known).strip() or (
                f"Known args types: {', '.join(sorted(known)) or 'none; import the modules that define your jobs'}."
            )
        raise UnknownJobError(f"No job takes {source_location_of(args_type)}. {advice}")

    def get_for_job(self, job: object) -> JobConfiguration:
        """Return the configuration of a job class or function; raise `UnknownJobError` if it isn't in here."""
        try:
            return self._by_job[job]
        except KeyError:
            pass
        place = source_location_of(job.function if isinstance(job, JobFunction) else job)
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
    return declared if is_own_type(declared) else None


def _same_definition(one: JobConfiguration, other: JobConfiguration) -> bool:
    first, second = one.definition, other.definition
    return (first.__module__, first.__qualname__) == (second.__module__, second.__qualname__)
