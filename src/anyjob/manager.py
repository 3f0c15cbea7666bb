"""The door in: checks everything about a job once, for every backend, and hands it to the one that is to carry it."""

from __future__ import annotations

import importlib
import logging
import weakref
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from types import ModuleType
from typing import Any, Unpack

from msgspec import Raw

from anyjob.backend import ENQUEUE_TIMEOUT, JobBackend, NativeCommand
from anyjob.clock import Clock, SystemClock
from anyjob.envelope import ENVELOPE_VERSION, JobEnvelope, JobIds, read_envelope, write_envelope
from anyjob.errors import (
    ConfigurationError,
    EnqueueError,
    EnvelopeError,
    InvalidArgsError,
    InvalidOptionError,
    UnsupportedCapabilityError,
)
from anyjob.executor import DEFAULT_MAX_LOSSES, DEFER_UNKNOWN, JobExecutor
from anyjob.invoker import JobResolver, construct
from anyjob.log import JobLogger, log_event
from anyjob.migration import JobMigration, MigrationOptions, MigrationReport, NativeReader, NativeSource
from anyjob.moments import plain_moment
from anyjob.observer import JobObserver, JobObservers
from anyjob.options import EnqueueOptions, due_at, refuse_bad_options
from anyjob.registry import JobConfiguration, JobRegistry
from anyjob.retry import DEFAULT_RETRY, RetryPolicy
from anyjob.routing import JobBackends, JobRoute, JobRouter, JobWiring, OffLoop
from anyjob.senders import JobSenders
from anyjob.serializer import JobSerializer, JsonJobSerializer
from anyjob.shelf import JobShelf
from anyjob.upgrades import ARGS_VERSION_HEADER
from anyjob.worker import JobWorker, WorkerOptions

__all__ = ["JobManager", "import_application"]

logger = JobLogger("anyjob.enqueue")


class JobManager:
    """Enqueues jobs. Thread-safe; `aenqueue` and its kin never block the event loop.

    `backends` is one backend, or several by alias, or functions that make them on first use; `routes` choose among
    them, first match first, else `default` takes the job. `queues` closes the list of logical queues of an alias.
    `imports` are the modules that define jobs; they are imported when a worker is made or an unknown name is asked for.
    `worker_options` are those of the workers made here, unless they are told others.
    With `enqueue_only`, no worker starts here. `enqueue_timeout` is what the backends were given, in seconds: within it
    `aenqueue` succeeds or fails, also where others wait before it.
    """

    _wiring: JobWiring

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
        observers: Iterable[JobObserver] = (),
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
        self._ids = JobIds()
        self._workers: weakref.WeakSet[JobWorker] = weakref.WeakSet()
        self._serializer = serializer or JsonJobSerializer()
        self._senders = JobSenders(enqueue_timeout)
        self._make_executor = partial(
            JobExecutor,
            registry,
            serializer=self._serializer,
            resolver=resolver,
            retry=retry,
            max_losses=max_losses,
            defer_unknown=defer_unknown,
        )
        self._make_router = partial(JobRouter, default=self.default, routes=routes, queues=queues or {})
        self._own = self._wire(own, clock or SystemClock(), self.observers, self._senders.send)
        self._own.router.refuse_unknown_alias(self.worker_backend)
        self._wiring = self._own

    def rewired(
        self, make: Callable[[str], JobBackend], *, clock: Clock, observers: JobObservers, off_loop: OffLoop
    ) -> JobWiring:
        """Return a wiring of the same aliases, routes, policies and jobs over other backends, made on first use."""
        backends = JobBackends({alias: partial(make, alias) for alias in self._own.backends})
        return self._wire(backends, clock, observers, off_loop)

    def _wire(self, backends: JobBackends, clock: Clock, observers: JobObservers, off_loop: OffLoop) -> JobWiring:
        executor = self._make_executor(clock=clock, observers=observers)
        router = self._make_router(backends, executor=executor)
        return JobWiring(clock, backends, executor, router, observers, off_loop)

    @classmethod
    def redirect(cls, wiring_of: Callable[[JobManager], JobWiring] | None) -> None:
        """Let another wiring stand behind every manager, or again its own; for `anyjob.current.redirect` alone.

        A property of the class goes before what the managers hold themselves, so whoever never redirects pays nothing.
        """
        if wiring_of is not None:
            cls._wiring = property(wiring_of, _keep_wiring)  # type: ignore[assignment]
        elif "_wiring" in vars(cls):
            del cls._wiring

    @property
    def backends(self) -> JobBackends:
        """The backends by alias."""
        return self._wiring.backends

    @property
    def executor(self) -> JobExecutor:
        """What runs this manager's jobs."""
        return self._wiring.executor

    # Enqueue

    def enqueue(self, args: object, **options: Unpack[EnqueueOptions]) -> str:
        """Enqueue the job that takes `type(args)`; return its id once the backend accepted it.

        Raises `UnknownJobError`, `InvalidArgsError`, `InvalidOptionError`, `UnsupportedCapabilityError`, before
        anything is sent, and `EnqueueError` when the backend did not take it.
        """
        return self._send(self._prepare(self.registry.get_for(args), args, options))

    async def aenqueue(self, args: object, **options: Unpack[EnqueueOptions]) -> str:
        """Like `enqueue`. If it is cancelled, the job may have been enqueued all the same.

        `enqueue_timeout` counts from the call, however many are in front: one that was not begun by then is rejected.
        """
        return await self._asend(self._prepare(self.registry.get_for(args), args, options))

    def enqueue_for(self, job: object, args: object, **options: Unpack[EnqueueOptions]) -> str:
        """Enqueue the job that is named, where the type of `args` need not tell. Raises as `enqueue` does."""
        return self._send(self._prepare_for(job, args, options))

    async def aenqueue_for(self, job: object, args: object, **options: Unpack[EnqueueOptions]) -> str:
        """Like `enqueue_for`."""
        return await self._asend(self._prepare_for(job, args, options))

    def enqueue_by_name(self, name: str, payload: object, **options: Unpack[EnqueueOptions]) -> str:
        """Enqueue the job of that name with plain JSON data: checked against its args type if it has one (an unknown
        field is refused), handed to its handler as it is if the job is dynamic. Raises as `enqueue` does.
        """
        return self._send(self._prepare(self._named(name), payload, options))

    async def aenqueue_by_name(self, name: str, payload: object, **options: Unpack[EnqueueOptions]) -> str:
        """Like `enqueue_by_name`."""
        return await self._asend(self._prepare(self._named(name), payload, options))

    def enqueue_many(self, items: Iterable[object], **options: Unpack[EnqueueOptions]) -> list[str]:
        """Enqueue several jobs, of any kinds, in few round trips; return their ids in order.

        Items are args objects, which take the `options`, or envelopes from `prepare`, which have theirs. Everything is
        checked before anything is sent. An `EnqueueError` tells which jobs got through.
        """
        return self._send_many(self._prepare_many(items, options))

    async def aenqueue_many(self, items: Iterable[object], **options: Unpack[EnqueueOptions]) -> list[str]:
        """Like `enqueue_many`; each backend's jobs wait for their turn for `enqueue_timeout` at most."""
        envelopes = self._prepare_many(items, options)
        sent: list[str] = []
        for alias, group in self._grouped(envelopes).items():
            try:
                ids = [envelope.id for envelope in group]
                await self._wiring.off_loop(alias, ids, partial(self._send_group, alias, group))
            except EnqueueError as error:
                told = _told_in_full(error, alias, sent, envelopes)
                raise told from told.__cause__
            sent.extend(envelope.id for envelope in group)
        return [envelope.id for envelope in envelopes]

    def prepare(self, args: object, *, job: object = None, **options: Unpack[EnqueueOptions]) -> JobEnvelope:
        """Check everything and return the envelope that `enqueue` would send, for `enqueue_many`.

        `job` names the job where the type of `args` does not.
        """
        if job is None:
            return self._prepare(self.registry.get_for(args), args, options)
        return self._prepare_for(job, args, options)

    # Look and work

    def backend(self, alias: str | None = None) -> JobBackend:
        """Return the backend of that alias, or the default one."""
        alias, wiring = alias or self.default, self._wiring
        wiring.router.refuse_unknown_alias(alias)
        return wiring.backends[alias]

    def shelf(self, alias: str | None = None) -> JobShelf:
        """Return what waits or is parked there; raise `UnsupportedCapabilityError` if it can't be looked into."""
        shelf = self.backend(alias).shelf
        if shelf is None:
            raise UnsupportedCapabilityError(f"Backend {alias or self.default!r} can't be looked into.")
        return shelf

    def worker(self, alias: str | None = None, options: WorkerOptions | None = None) -> JobWorker:
        """Return a worker for this process, not started. Raises `ConfigurationError` if the backend has its own."""
        self.import_jobs()
        alias = alias or self.worker_backend
        worker = self.any_worker(alias, options or self.worker_options)
        if isinstance(worker, NativeCommand):
            raise ConfigurationError(
                f"Backend {alias!r} has a worker of its own: run `anyjob worker --backend {alias}`."
            )
        self._workers.add(worker)
        return worker

    def any_worker(self, alias: str, options: WorkerOptions) -> NativeCommand | JobWorker:
        """Return a backend's worker, the command of its own or one of ours; neither is started.

        Raises `InvalidOptionError` for a queue outside of the settings' closed list.
        """
        for queue in options.queues or ():
            self._wiring.router.refuse_unknown_queue(alias, queue)
        return self.backend(alias).worker(self.executor, options)

    def start_worker(self, alias: str | None = None, options: WorkerOptions | None = None) -> JobWorker:
        """Start a worker in threads of this process and return it; `stop` it, or use it in a `with`.

        Raises `JobDefinitionError` if some registered job can't travel. With `enqueue_only`, the worker is returned
        without being started, and a log line says so.
        """
        worker = self.worker(alias, options)
        self.registry.check(self._serializer)
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
        """Return a migration of jobs from one alias to another, not begun; `progress` hears of each batch.

        Raises `UnsupportedCapabilityError` if the source can't give them away.
        """
        self.import_jobs()  # some systems can't tell which queues there are: the jobs do
        wiring = self._wiring
        return JobMigration(
            (source, self.backend(source)),
            (destination, self.backend(destination)),
            options or MigrationOptions(),
            clock=wiring.clock,
            refuse=lambda envelope: wiring.router.refuse_unknown_queue(destination, envelope.queue),
            progress=progress,
        )

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
        """Return a migration, not begun, of what an application sent by its job library alone and still waits.

        `tasks` says which job each native task becomes; what calls others, or does not fit the job's signature, stays
        where it is. `source` is the alias of a backend whose application's `queues` can be read (None: all that are
        known, by the library's own names). A job keeps the message's id, due time and tries.

        Raises `UnknownJobError`, and `UnsupportedCapabilityError` if nobody can read those queues.
        """
        wiring, alias = self._wiring, destination or self.default
        found = {task: self._named(name) for task, name in tasks.items()}
        shelf = self.backend(source).native_shelf(NativeReader(found, self._prepare, wiring.clock), queues)
        return JobMigration(
            (source, NativeSource(shelf)),
            (alias, self.backend(alias)),
            options or MigrationOptions(),
            clock=wiring.clock,
            refuse=lambda envelope: wiring.router.refuse_unknown_queue(alias, envelope.queue),
            progress=progress,
        )

    def drain(self, alias: str | None = None) -> int:
        """Run in this thread all jobs that are due; return how many ran. For tests and bursts.

        Raises `ConfigurationError` with `enqueue_only`.
        """
        if self.enqueue_only:
            raise ConfigurationError("enqueue_only is set: no job runs here.")
        return self.worker(alias).drain()

    def import_jobs(self) -> None:
        """Import the modules of `imports`, so that their jobs are known; `ConfigurationError` if one is missing."""
        for module in self._imports:
            import_application(module, "imports")

    def close(self) -> None:
        """Stop the workers that were made here, then close the backends' connections and the threads of `aenqueue`.

        What is used later opens anew.
        """
        for worker in list(self._workers):
            worker.stop()
        self._senders.close()
        wiring = self._wiring
        for each in (self._own,) if wiring is self._own else (self._own, wiring):
            for backend in each.backends.made.values():
                backend.close()
            each.executor.close()

    # Inside

    def _named(self, name: str) -> JobConfiguration:
        if self.registry.find(name) is None:
            self.import_jobs()
        return self.registry.get(name)

    def _prepare(self, configuration: JobConfiguration, args: object, options: EnqueueOptions) -> JobEnvelope:
        data = self._serializer.serialize(args, configuration.args_type)
        now = plain_moment(self._wiring.clock.now())
        if not options and not configuration.upgrades:
            return JobEnvelope(
                ENVELOPE_VERSION,
                self._ids.new(now),
                configuration.name,
                Raw(data),
                configuration.queue,
                configuration.priority,
                now,
                now,
            )
        refuse_bad_options(options)
        due = due_at(options, now)
        return JobEnvelope(
            v=ENVELOPE_VERSION,
            id=options.get("job_id") or self._ids.new(now),
            name=configuration.name,
            args=Raw(data),
            queue=options.get("queue") or configuration.queue,
            priority=options.get("priority") or configuration.priority,
            created_at=now,
            first_due_at=due or now,
            due_at=due,
            headers=_headers(configuration, options),
        )

    def _prepare_many(self, items: Iterable[object], options: EnqueueOptions) -> list[JobEnvelope]:
        if options.get("job_id") is not None:
            raise InvalidOptionError("job_id: several jobs can't share an id; give each its own by prepare().")
        return [
            _checked(item)
            if isinstance(item, JobEnvelope)
            else self._prepare(self.registry.get_for(item), item, options)
            for item in items
        ]

    def _prepare_for(self, job: object, args: object, options: EnqueueOptions) -> JobEnvelope:
        configuration = self.registry.get_for_job(job)
        _refuse_other_args(configuration, args)
        return self._prepare(configuration, args, options)

    def _send(self, envelope: JobEnvelope) -> str:
        wiring = self._wiring
        target = wiring.router.target_of(envelope)
        target.backend.send((envelope,))
        self._report(envelope, target.alias, wiring.observers)
        return envelope.id

    async def _asend(self, envelope: JobEnvelope) -> str:
        wiring = self._wiring
        alias = wiring.router.target_of(envelope).alias
        sent: str = await wiring.off_loop(alias, (envelope.id,), partial(self._send, envelope))
        return sent

    def _send_many(self, envelopes: Sequence[JobEnvelope]) -> list[str]:
        sent: list[str] = []
        for alias, group in self._grouped(envelopes).items():
            try:
                self._send_group(alias, group)
            except EnqueueError as error:
                told = _told_in_full(error, alias, sent, envelopes)
                raise told from told.__cause__
            sent.extend(envelope.id for envelope in group)
        return [envelope.id for envelope in envelopes]

    def _grouped(self, envelopes: Iterable[JobEnvelope]) -> Mapping[str, Sequence[JobEnvelope]]:
        router = self._wiring.router
        groups: dict[str, list[JobEnvelope]] = {}
        for envelope in envelopes:
            groups.setdefault(router.target_of(envelope).alias, []).append(envelope)
        return groups

    def _send_group(self, alias: str, group: Sequence[JobEnvelope]) -> None:
        wiring = self._wiring
        wiring.backends[alias].send(group)
        for envelope in group:
            self._report(envelope, alias, wiring.observers)

    def _report(self, envelope: JobEnvelope, alias: str, observers: JobObservers) -> None:
        if logger.isEnabledFor(logging.INFO):
            facts: dict[str, Any] = {
                "backend": alias,
                "queue": envelope.queue,
                "priority": envelope.priority.name.lower(),
            }
            if envelope.due_at is not None:
                facts["run_at"] = envelope.due_at.isoformat(timespec="seconds")
            log_event(logger, logging.INFO, "enqueued", envelope, **facts)
        if observers:
            observers.tell("enqueued", envelope)


def _keep_wiring(manager: JobManager, wiring: JobWiring) -> None:
    """Give a manager that is made under a redirect its own wiring for afterwards."""
    vars(manager)["_wiring"] = wiring


def import_application(module: str, where: str) -> ModuleType:
    """Import a module that the settings or the command line name; raise `ConfigurationError` if it is missing."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise  # something that the module imports: its own affair
        raise ConfigurationError(f"{where}: there is no module {module!r} here or on the path.") from error


def _told_in_full(
    error: EnqueueError, alias: str, sent: Sequence[str], envelopes: Sequence[JobEnvelope]
) -> EnqueueError:
    """Return the error of one backend with what became of the jobs that went, or were to go, to others."""
    told = {*sent, *error.accepted, *error.rejected, *error.in_doubt}
    rest = [envelope.id for envelope in envelopes if envelope.id not in told]
    if not sent and not rest:
        return error
    full = EnqueueError(
        f"Backend {alias!r}: {error}",
        accepted=[*sent, *error.accepted],
        rejected=[*error.rejected, *rest],
        in_doubt=error.in_doubt,
    )
    full.__cause__ = error
    return full


def _headers(configuration: JobConfiguration, options: EnqueueOptions) -> Mapping[str, str]:
    headers = dict(options.get("headers") or {})
    if configuration.upgrades:
        headers[ARGS_VERSION_HEADER] = str(configuration.args_version)
    return headers


def _checked(envelope: JobEnvelope) -> JobEnvelope:
    """Return the envelope, which anybody may have made, if the other side will be able to read it."""
    try:
        read_envelope(write_envelope(envelope))
    except (EnvelopeError, TypeError, ValueError) as error:
        raise InvalidOptionError(f"{envelope!r} is no envelope of prepare(): {error}") from error
    return envelope


def _refuse_other_args(configuration: JobConfiguration, args: object) -> None:
    """Raise unless `args` are what the job takes: exactly its type, or plain data for a TypedDict."""
    wanted = configuration.args_type
    if isinstance(wanted, type) and type(args) is not wanted and not isinstance(args, dict):
        raise InvalidArgsError(
            f"{configuration.name} takes {wanted.__qualname__}, not {type(args).__qualname__}. "
            "A subclass won't do: its own fields would be lost."
        )
