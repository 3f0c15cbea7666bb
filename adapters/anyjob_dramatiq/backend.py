"""Dramatiq as a backend: the base of its transports."""

from __future__ import annotations

import logging
import math
import sys
import threading
from abc import abstractmethod
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import Any, Final

from dramatiq import Broker, Message, Middleware
from dramatiq.middleware import Retries

from anyjob.extend import (
    BackendConfig,
    ConfigurationError,
    JobBackend,
    JobEnvelope,
    JobExecutor,
    JobFailure,
    JobInspector,
    JobLogger,
    NamedObject,
    NativeCommand,
    ReadNative,
    UnsupportedCapabilityError,
    WorkerOptions,
    in_each_process,
    log_event,
    read_envelope,
)
from anyjob_amqp import AmqpInspector
from anyjob_dramatiq.broker import JobBroker
from anyjob_dramatiq.frame import pack
from anyjob_dramatiq.intake import JobIntake, JobSource
from anyjob_dramatiq.lifecycle import JobLifecycle
from anyjob_dramatiq.runner import JobRunner
from anyjob_redis import RedisInspector

__all__ = ["DramatiqBackend", "OwnDramatiqBackend", "native_command"]

logger = JobLogger("anyjob.worker")

Job = tuple[JobEnvelope, Message[Any]]


class DramatiqBackend(JobBackend):
    """Has Dramatiq's worker run jobs."""

    inspector: AmqpInspector | RedisInspector

    def park(self, raw: bytes, failure: JobFailure) -> str:
        return self.inspector.park(raw, failure)

    def native_worker(self, options: WorkerOptions) -> NativeCommand:
        return native_command(options)

    @abstractmethod
    def worker_broker(self, executor: JobExecutor, options: WorkerOptions) -> Broker:
        """Return a broker for `dramatiq.Worker`, which runs this backend's jobs by `executor`."""


class OwnDramatiqBackend(DramatiqBackend):
    """Sends jobs to a broker of our own make.

    The option `middleware` is a list of the application's middleware, as `["shop.tracing:Tracing"]`; the other options
    are the server's client's.
    """

    def __init__(self, config: BackendConfig) -> None:
        self.config = config
        if "delay" in config.options:
            raise ConfigurationError(
                f"backends.{config.alias}.options.delay: Dramatiq's own delays, which workers hold, are those of a "
                "broker of your own: dramatiq://?broker=module:attribute."
            )
        own = {key: config.options[key] for key in _OWN_OPTIONS if key in config.options}
        self.native_config = replace(config, options={k: v for k, v in config.options.items() if k not in own})
        self._middleware: Iterable[str] = own.get("middleware", ())
        if isinstance(self._middleware, str):
            raise ConfigurationError(
                f"backends.{config.alias}.options.middleware: {self._middleware!r}: it is a list, as "
                f'["{self._middleware}"].'
            )
        where = f"backends.{config.alias}.options.middleware"
        self._middleware_types = [(each, _find_middleware(each, where)) for each in self._middleware]
        self._made: JobBroker | None = None
        in_each_process(self._begin)

    def _begin(self) -> None:
        self._lock = threading.Lock()

    @abstractmethod
    def publish(self, jobs: Sequence[Job], *, again: bool) -> None:
        """Hand messages to the server; raise as `send`. `again`: in place of messages with the same ids."""

    @abstractmethod
    def messages_source(self) -> JobSource:
        """Return the server's side of one worker process."""

    def options_of(self, envelope: JobEnvelope) -> dict[str, Any]:  # noqa: ARG002  # for transports that need some
        """Return the options of a job's message."""
        return {}

    @property
    def broker(self) -> JobBroker:
        """The broker that this process sends by."""
        with self._lock:
            if self._made is None:
                self._made = self._make_broker()
            return self._made

    def send(self, envelopes: Sequence[JobEnvelope], *, once: str | None = None) -> None:  # noqa: ARG002  # the server's
        self.send_by(partial(self.publish, again=False), envelopes)

    def resend(self, envelope: JobEnvelope) -> None:
        self.send_by(partial(self.publish, again=True), [envelope])

    def native_inspector(self, read: ReadNative, queues: Collection[str] | None = None) -> JobInspector:  # noqa: ARG002
        raise UnsupportedCapabilityError(
            f"Backend {self.config.alias!r} has a broker of its own, which no application sends to. Name yours in its "
            "place, as dramatiq://?broker=shop.tasks:broker."
        )

    def worker_broker(self, executor: JobExecutor, options: WorkerOptions) -> Broker:
        broker = self._make_broker()
        intake = JobIntake(self.messages_source())
        runner = JobRunner(executor, intake, self.settle)
        lifecycle = JobLifecycle(executor, intake, options.stops_within, self._finder(broker))
        # The first one: Dramatiq calls the hooks after a boot from the last middleware to the first.
        broker.add_middleware(lifecycle, before=Retries)
        queues = self.config.queues or executor.registry.queues()
        broker.serve(intake, runner, queues, executor.registry.names)
        with self._lock:
            self._made = broker  # its middleware has booted with the worker, and sees the jobs that it sends again
        return broker

    def _make_broker(self) -> JobBroker:
        where = f"backends.{self.config.alias}.options.middleware"
        return JobBroker(self._send_message, [_middleware(*each, where) for each in self._middleware_types])

    def _finder(self, broker: JobBroker) -> Callable[[str], None]:
        closed = self.config.queues

        def find(queue: str) -> None:
            if closed is None:
                broker.declare_queue(queue)
            elif queue not in closed:
                why = f"the settings close the list to {', '.join(closed)}"
                log_event(logger, logging.ERROR, "not served", queue=queue, reason=why)

        return find

    def send_by(self, publish: Callable[[Sequence[Job]], None], envelopes: Sequence[JobEnvelope]) -> None:
        """Publish jobs as messages that middleware has seen."""
        broker, now = self.broker, self.config.clock.now()
        jobs = [(envelope, pack(envelope, self.options_of(envelope))) for envelope in envelopes]
        delays = [_delay(envelope, now) for envelope in envelopes]
        for (envelope, message), delay in zip(jobs, delays, strict=True):
            with broker.shown_as_retry(envelope, message):
                broker.emit_before("enqueue", message, delay)
        publish(jobs)
        for (envelope, message), delay in zip(jobs, delays, strict=True):
            with broker.shown_as_retry(envelope, message):
                broker.emit_after("enqueue", message, delay)

    def _send_message(self, message: Message[Any]) -> None:
        self.publish([(read_envelope(message.args[0].raw), message)], again=True)


def native_command(options: WorkerOptions) -> NativeCommand:
    """Return Dramatiq's command line, supervised: it is started again when a job crashed its process."""
    # Dramatiq's own bound must be the longer one: running jobs are given back at the end of ours.
    last = math.ceil(options.stops_within + _LATER) * 1000
    argv = [sys.executable, "-m", "anyjob_dramatiq", "anyjob_dramatiq.app", "--processes", "1"]
    argv += ["--threads", str(options.concurrency), "--worker-shutdown-timeout", str(last)]
    return NativeCommand((*argv, *(("--queues", *options.queues) if options.queues else ())))


def _find_middleware(path: object, where: str) -> Any:
    """Return the class, or the object, that a path names: a missing one must be noticed before a job needs it."""
    found = NamedObject(str(path), where).load()
    if not (issubclass(found, Middleware) if isinstance(found, type) else isinstance(found, Middleware)):
        raise ConfigurationError(f"{where}: {path!r} is no middleware of Dramatiq's.")
    return found


def _middleware(path: object, found: Any, where: str) -> Middleware:
    """Return a new middleware of a class, because each broker has its own; an object is shared by all brokers."""
    try:
        made: Middleware = found() if isinstance(found, type) else found
    except TypeError as error:
        raise ConfigurationError(
            f"{where}: {path!r} can't be made without arguments: {error}. Name an object."
        ) from error
    return made


def _delay(envelope: JobEnvelope, now: datetime) -> int | None:
    """Return the delay as middleware of Dramatiq's knows it: in milliseconds, None for none."""
    if envelope.due_at is None or envelope.due_at <= now:
        return None
    return int((envelope.due_at - now).total_seconds() * 1000)


_OWN_OPTIONS: Final = ("middleware",)
_LATER: Final = 5.0
