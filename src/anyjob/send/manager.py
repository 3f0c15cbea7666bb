"""The way in: checks everything about a job once, for every backend, and hands the job to its backend."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, ParamSpec, TypeVar, Unpack, overload

from msgspec.structs import replace

from anyjob.base.clock import Clock, SystemClock
from anyjob.base.envelope import JobEnvelope
from anyjob.base.errors import (
    ConfigurationError,
    InvalidOptionError,
    UnknownJobError,
    UnsupportedCapabilityError,
    shown,
)
from anyjob.base.job_id import JobId
from anyjob.base.log import JobLogger
from anyjob.base.named import NamedObject, import_application
from anyjob.base.plain import plain_text
from anyjob.define.configuration import JobConfiguration
from anyjob.define.options import EnqueueOptions, PrepareOptions, plain_options
from anyjob.define.registry import JobRegistry
from anyjob.define.retry import DEFAULT_RETRY, RetryPolicy
from anyjob.define.serializer import JobSerializer, JsonJobSerializer
from anyjob.define.signature import JobFunction
from anyjob.migration import JobMigration, MigrationOptions, MigrationReport
from anyjob.run.executor import DEFAULT_MAX_LOSSES, DEFER_UNKNOWN, JobExecutor
from anyjob.run.invoker import JobResolver, NamedResolver, construct
from anyjob.run.worker import JobWorker
from anyjob.seams.backend import ENQUEUE_TIMEOUT, JobBackend, NativeCommand
from anyjob.seams.inspector import JobInspector
from anyjob.seams.observer import JobObserver, JobObservers
from anyjob.seams.worker_options import WorkerOptions
from anyjob.send.backends import JobBackends
from anyjob.send.calls import JobCall, TypedJob
from anyjob.send.moving import make_adoption, make_migration
from anyjob.send.preparing import NO_ID, JobPreparer, kept
from anyjob.send.routing import JobRoute, JobRouter
from anyjob.send.senders import JobSenders
from anyjob.send.sending import asend, asend_many, send, send_many
from anyjob.send.wiring import JobWirer, JobWiring, OffLoop
from anyjob.send.workers import make_worker

__all__ = ["JobManager"]

logger = JobLogger("anyjob.enqueue")

TArgs = TypeVar("TArgs")
P = ParamSpec("P")


class JobManager:
    """Enqueues jobs. Thread-safe; `aenqueue` and its kin never block the event loop.

    `backends` is one backend, or several by alias, or functions that make them on first use; the first of `routes` that
    matches chooses among them, else `default` takes the job. `queues` closes the list of logical queues of an alias.
    `imports` are the modules that define jobs; they are imported when a worker is made or an unknown name is asked for.
    `worker_options` are those of the workers made here, unless a call gives others. With `enqueue_only`, no worker
    starts here. `enqueue_timeout` is that of the backends, in seconds: within it `aenqueue` succeeds or fails, even if
    others wait before it.
    """

    redirection: ClassVar[Callable[[JobManager], JobWiring] | None] = None
    """Returns the wiring to use in place of a manager's own, if there is one. Only `anyjob.current.redirect` sets
    it.
    """

    def __init__(
        self,
        backends: JobBackend | Mapping[str, JobBackend | Callable[[], JobBackend]],
        *,
        registry: JobRegistry,
        default: str | None = None,
        worker_backend: str | None = None,
        routes: Sequence[JobRoute] = (),
        queues: Mapping[str, Sequence[str] | None] | None = None,
        clock: Clock | None = None,
        serializer: JobSerializer | None = None,
        resolver: JobResolver = construct,
        observers: Iterable[JobObserver | NamedObject] = (),
        retry: RetryPolicy | None = DEFAULT_RETRY,
        max_losses: int = DEFAULT_MAX_LOSSES,
        defer_unknown: float = DEFER_UNKNOWN,
        worker_options: WorkerOptions | None = None,
        enqueue_only: bool = False,
        enqueue_timeout: float = ENQUEUE_TIMEOUT,
        imports: Iterable[str] = (),
    ) -> None:
        own = JobBackends({"default": backends} if isinstance(backends, JobBackend) else backends)
        self.default = default or next(iter(own))
        self.worker_backend = worker_backend or self.default
        self.registry = registry
        self.enqueue_only = enqueue_only
        self.worker_options = worker_options or WorkerOptions()
        self._imports = tuple(imports)
        self.observers = JobObservers(observers)
        self._resolver = resolver
        self._preparer = JobPreparer(registry, serializer or JsonJobSerializer())
        self._senders = JobSenders(enqueue_timeout)
        self._wirer = JobWirer(
            partial(
                JobExecutor,
                registry,
                serializer=self._preparer.serializer,
                resolver=resolver,
                retry=retry,
                max_losses=max_losses,
                defer_unknown=defer_unknown,
            ),
            partial(JobRouter, default=self.default, routes=routes, queues=queues or {}),
        )
        self._own = self._wirer.wire(
            own, clock=clock or SystemClock(), observers=self.observers, off_loop=self._senders.send
        )
        self._own.router.refuse_unknown_alias(self.worker_backend)

    @property
    def _wiring(self) -> JobWiring:
        redirection = JobManager.redirection
        return self._own if redirection is None else redirection(self)

    def rewired(
        self, make: Callable[[str], JobBackend], *, clock: Clock, observers: JobObservers, off_loop: OffLoop
    ) -> JobWiring:
        """Return a wiring of the same aliases, routes, policies and jobs over other backends, made on first use."""
        return self._wirer.rewire(self._own, make, clock=clock, observers=observers, off_loop=off_loop)

    @property
    def backends(self) -> JobBackends:
        """The backends by alias."""
        return self._wiring.backends

    @property
    def executor(self) -> JobExecutor:
        """Runs this manager's jobs."""
        return self._wiring.executor

    # Enqueue

    def enqueue(self, args: object, **options: Unpack[EnqueueOptions]) -> JobId:
        """Enqueue the job that takes `type(args)`; return its id once the backend accepted it.

        Raises `UnknownJobError`, `InvalidArgsError`, `InvalidOptionError`, `UnsupportedCapabilityError`, before
        anything is sent, and `EnqueueError` when the backend did not accept it.
        """
        return self._enqueue(self.registry.get_for(args), args, options)

    async def aenqueue(self, args: object, **options: Unpack[EnqueueOptions]) -> JobId:
        """Like `enqueue`. If it is cancelled, the job may have been enqueued all the same.

        `enqueue_timeout` counts from the call, even if others wait before it: a job whose turn did not come by then is
        rejected.
        """
        return await self._asend(self._prepare(self.registry.get_for(args), args, options), options)

    @overload
    def enqueue_for(self, job: type[TypedJob[TArgs]], args: TArgs, /, **options: Unpack[EnqueueOptions]) -> JobId: ...
    @overload
    def enqueue_for(self, job: JobFunction[P, Any] | JobCall[P], /, *args: P.args, **kwargs: P.kwargs) -> JobId: ...
    def enqueue_for(self, job: Any, /, *args: Any, **kwargs: Any) -> JobId:
        """Enqueue the job that is named: a class with its one object and options, or a function with its own arguments.

        A function's options, and a class's too, may be given by `using`: `enqueue_for(report.using(delay=60), 7)`.
        Raises as `enqueue` does.
        """
        return self._send(*self._preparer.prepare_for(job, args, kwargs, self._wiring.clock))

    @overload
    async def aenqueue_for(
        self, job: type[TypedJob[TArgs]], args: TArgs, /, **options: Unpack[EnqueueOptions]
    ) -> JobId: ...
    @overload
    async def aenqueue_for(
        self, job: JobFunction[P, Any] | JobCall[P], /, *args: P.args, **kwargs: P.kwargs
    ) -> JobId: ...
    async def aenqueue_for(self, job: Any, /, *args: Any, **kwargs: Any) -> JobId:
        """Like `enqueue_for`."""
        return await self._asend(*self._preparer.prepare_for(job, args, kwargs, self._wiring.clock))

    def enqueue_by_name(self, name: str, payload: object, **options: Unpack[EnqueueOptions]) -> JobId:
        """Enqueue the job of that name with plain JSON data: checked against its args type if it has one (an unknown
        field is refused), handed to its handler as it is if the job is dynamic. Raises as `enqueue` does.
        """
        return self._enqueue(self._named(name), payload, options)

    async def aenqueue_by_name(self, name: str, payload: object, **options: Unpack[EnqueueOptions]) -> JobId:
        """Like `enqueue_by_name`."""
        return await self._asend(self._prepare(self._named(name), payload, options), options)

    def enqueue_many(self, items: Iterable[object], **options: Unpack[EnqueueOptions]) -> list[JobId]:
        """Enqueue several jobs, of any kinds, in few round trips; return their ids in order.

        Items are args objects, which take the `options`, or envelopes from `prepare`, which have theirs; all of them go
        to `backend`. Everything is checked before anything is sent. An `EnqueueError` tells which jobs got through.
        """
        return send_many(self._wiring, *self._prepare_many(items, options))

    async def aenqueue_many(self, items: Iterable[object], **options: Unpack[EnqueueOptions]) -> list[JobId]:
        """Like `enqueue_many`; each backend's jobs wait for their turn for `enqueue_timeout` at most."""
        return await asend_many(self._wiring, *self._prepare_many(items, options))

    def prepare(self, args: object, **options: Unpack[PrepareOptions]) -> JobEnvelope:
        """Check everything and return the envelope that `enqueue` would send, for `enqueue_many`."""
        return kept(self._prepare(self.registry.get_for(args), args, options), options)

    @overload
    def prepare_for(
        self, job: type[TypedJob[TArgs]], args: TArgs, /, **options: Unpack[PrepareOptions]
    ) -> JobEnvelope: ...
    @overload
    def prepare_for(
        self, job: JobFunction[P, Any] | JobCall[P], /, *args: P.args, **kwargs: P.kwargs
    ) -> JobEnvelope: ...
    def prepare_for(self, job: Any, /, *args: Any, **kwargs: Any) -> JobEnvelope:
        """Like `prepare`, for the job that is named, as `enqueue_for` takes it."""
        return kept(*self._preparer.prepare_for(job, args, kwargs, self._wiring.clock))

    def prepare_by_name(self, name: str, payload: object, **options: Unpack[PrepareOptions]) -> JobEnvelope:
        """Like `prepare`, with plain JSON data for the job of that name, as `enqueue_by_name` takes it."""
        return kept(self._prepare(self._named(name), payload, options), options)

    # Look and work

    def backend(self, alias: str | None = None) -> JobBackend:
        """Return the backend of that alias, or the default one."""
        alias, wiring = alias or self.default, self._wiring
        wiring.router.refuse_unknown_alias(alias)
        return wiring.backends[alias]

    def inspect(self, alias: str | None = None) -> JobInspector:
        """Return the backend's inspector; raise `UnsupportedCapabilityError` if it has none."""
        inspector = self.backend(alias).inspector
        if inspector is None:
            raise UnsupportedCapabilityError(f"Backend {alias or self.default!r} can't be looked into.")
        observers = self._wiring.observers
        return inspector.heard_by(observers) if observers else inspector

    def worker(self, alias: str | None = None, options: WorkerOptions | None = None) -> JobWorker:
        """Return a worker for this process, not started. Raises `ConfigurationError` if the backend has its own."""
        self.import_jobs()
        alias = alias or self.worker_backend
        worker = self.any_worker(alias, options or self.worker_options)
        if isinstance(worker, NativeCommand):
            raise ConfigurationError(
                f"Backend {alias!r} has a worker of its own: run `anyjob worker --backend {alias}`."
            )
        self._wiring.workers.add(worker)
        return worker

    def any_worker(self, alias: str, options: WorkerOptions) -> NativeCommand | JobWorker:
        """Return a backend's worker, the command of its own or one of ours; neither is started.

        Raises `InvalidOptionError` for a queue outside of the settings' closed list, for an unknown queue that is spelt
        nearly as a known one, and for an unknown one to exclude; `UnsupportedCapabilityError` for a burst, or a number
        of jobs, if the worker can't end by itself.
        """
        self._wiring.router.refuse_unknown_alias(alias)
        if options.stop_timeout is None:
            options = replace(options, stop_timeout=self.worker_options.stop_timeout)
        return make_worker(self._wiring, alias, options)

    def start_worker(self, alias: str | None = None, options: WorkerOptions | None = None) -> JobWorker:
        """Start a worker in threads of this process and return it; `stop` it, or use it in a `with`.

        Raises `JobDefinitionError` if some registered job can't travel. With `enqueue_only`, the worker is returned
        without being started, and a log line says so.
        """
        worker = self.worker(alias, options)
        self.registry.check(self._preparer.serializer)
        if self.enqueue_only:
            logger.warning("enqueue_only is set: no worker was started")
            return worker
        return worker.start()

    def migration(
        self,
        source: str,
        destination: str,
        options: MigrationOptions | None = None,
        progress: Callable[[MigrationReport], None] = lambda _: None,
    ) -> JobMigration:
        """Return a migration of jobs from one alias to another, not begun; it calls `progress` after each batch.

        Raises `UnsupportedCapabilityError` if the source can't give away its jobs.
        """
        self.import_jobs()  # some systems can't list their queues: the jobs name them
        self._refuse_unknown_aliases(source, destination)
        return make_migration(self._wiring, source, destination, options, progress)

    def adoption(
        self,
        source: str,
        tasks: Mapping[str, str],
        destination: str | None = None,
        options: MigrationOptions | None = None,
        *,
        queues: Collection[str] | None = None,
        progress: Callable[[MigrationReport], None] = lambda _: None,
    ) -> JobMigration:
        """Return a migration, not begun, of waiting messages that an application sent by its job library alone.

        `tasks` says which job each native task becomes; a message that calls other tasks, or does not fit the job's
        signature, stays where it is. `source` is the alias of a backend whose application's `queues` can be read (by
        the library's own names; None: all known ones). A job keeps the message's id, due time and tries.

        Raises `UnknownJobError`, and `UnsupportedCapabilityError` if those queues can't be read.
        """
        alias = destination or self.default
        found = {task: self._named(name) for task, name in tasks.items()}
        self._refuse_unknown_aliases(source, alias)
        return make_adoption(self._wiring, self._preparer, source, found, alias, options, queues, progress)

    def drain(self, alias: str | None = None) -> int:
        """Run in this thread all jobs that are due; return how many ran. For tests and bursts.

        Raises `ConfigurationError` with `enqueue_only`.
        """
        if self.enqueue_only:
            raise ConfigurationError("enqueue_only is set: no job runs here.")
        return self.worker(alias).drain()

    def import_jobs(self) -> None:
        """Import the modules of `imports`, so that their jobs are known, and the other objects that the settings name;
        raise `ConfigurationError` if one is missing.
        """
        for module in self._imports:
            import_application(module, "imports")
        self.observers.load()
        if isinstance(self._resolver, NamedResolver):
            self._resolver.load()

    def close(self) -> None:
        """Stop the workers that were made here, then close the backends' connections and the threads of `aenqueue`.

        A later use opens them anew.
        """
        wiring = self._wiring
        every = (self._own,) if wiring is self._own else (self._own, wiring)
        for worker in [worker for each in every for worker in each.workers]:
            worker.stop()
        self._senders.close()
        for each in every:
            each.close()

    # Inside

    def _refuse_unknown_aliases(self, *aliases: str) -> None:
        for alias in aliases:
            self._wiring.router.refuse_unknown_alias(alias)

    def _named(self, name: str) -> JobConfiguration:
        name = plain_text(name)
        if not isinstance(name, str):
            raise UnknownJobError(f"{shown(name)} is no job's name: a name is a string, as 'mail.send'.")
        if self.registry.find(name) is None:
            self.import_jobs()
        return self.registry.get(name)

    def _enqueue(self, configuration: JobConfiguration, args: object, options: EnqueueOptions) -> JobId:
        wiring = self._wiring
        envelope = self._preparer.prepare(configuration, args, options, wiring.clock)
        return send(wiring, envelope, self._alias(envelope, options))

    def _prepare(self, configuration: JobConfiguration, args: object, options: PrepareOptions) -> JobEnvelope:
        return self._preparer.prepare(configuration, args, options, self._wiring.clock)

    def _prepare_many(
        self, items: Iterable[object], options: EnqueueOptions
    ) -> tuple[Sequence[JobEnvelope], str | None]:
        options = plain_options(options)
        envelopes, alias = self._preparer.prepare_many(items, options, self._wiring.clock), options.get("backend")
        for envelope in envelopes if options.get("unique_id") else ():
            self._wiring.router.refuse_shared_id(envelope, alias)
        return envelopes, alias

    def _alias(self, envelope: JobEnvelope, options: EnqueueOptions) -> str | None:
        """Return the alias that the call gives, if any; refuse a `unique_id` that its backend can't keep."""
        if not options:
            return None
        alias: str | None = plain_text(options.get("backend"))
        if options.get("unique_id"):
            if not options.get("job_id"):
                raise InvalidOptionError(NO_ID)
            self._wiring.router.refuse_shared_id(envelope, alias)
        return alias

    def _send(self, envelope: JobEnvelope, options: EnqueueOptions) -> JobId:
        return send(self._wiring, envelope, self._alias(envelope, options))

    async def _asend(self, envelope: JobEnvelope, options: EnqueueOptions) -> JobId:
        return await asend(self._wiring, envelope, self._alias(envelope, options))
