"""Jobs on Celery: the base of all transports and applications."""

from __future__ import annotations

import os
import sys
from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from threading import Event
from typing import Any, Final

from anyjob.extend import (
    BackendConfig,
    Capabilities,
    ConfigurationError,
    Deferred,
    JobBackend,
    JobEnvelope,
    JobExecutor,
    JobFailure,
    JobInspector,
    NativeCommand,
    Outcome,
    ReadNative,
    Retry,
    UnsupportedCapabilityError,
    WorkerOptions,
    did_you_mean,
)
from anyjob_amqp import AmqpInspector
from anyjob_celery.publishing import Publication
from anyjob_celery.safety import REFUSED, REMOTE_CONTROL
from anyjob_redis import RedisInspector

__all__ = ["CeleryBackend", "OwnCeleryBackend"]

_POOLS: Final = ("prefork", "threads", "solo")
_LONGEST_ETA: Final = timedelta(minutes=15)  # half of RabbitMQ's default consumer_timeout


class CeleryBackend(JobBackend):
    """Sends jobs as Celery messages, which Celery's own worker runs.

    Of its `options` two are anyjob's: `pool`, for the worker command (prefork, threads or solo), and `delay`: "native"
    is Celery's own countdown, held in a worker's memory, its priority lost.
    """

    inspector: AmqpInspector | RedisInspector

    def __init__(self, config: BackendConfig) -> None:
        self.config = config
        self.options = dict(config.options)
        self.pool = self._option("pool", _POOLS)
        self.native_delay = self._option("delay", ("exact", "native")) == "native"
        self.longest_eta = _LONGEST_ETA
        self._announced: dict[str, Mapping[str, Any]] = {}

    def park(self, raw: bytes, failure: JobFailure) -> str:
        return self.inspector.park(raw, failure)

    def native_worker(self, options: WorkerOptions) -> NativeCommand:
        """Return the command of Celery's worker; it finds the backend, and the URL, by anyjob's own settings."""
        argv = [sys.executable, "-m", "celery", "-A", "anyjob_celery.app", "worker"]
        argv += ["--concurrency", str(options.concurrency), "--pool", self.pool, "--loglevel", "INFO"]
        argv += [
            "--hostname",
            f"{self.config.namespace}-{os.getpid()}@%h",
        ]  # two workers on a machine must not share a name
        argv += ["--without-gossip", "--without-mingle"]  # no job of ours needs what workers tell each other
        if options.queues is not None:
            argv += ["--queues", ",".join(options.queues)]
        return NativeCommand(tuple(argv))

    def settle_announced(self, outcome: Outcome, added: Mapping[str, Any] | None) -> None:
        """Settle, as `settle`; a job that is sent again has the headers that were added when it was announced where it
        ran.

        There a tracer knows its trace; in the worker's main process it doesn't.
        """
        if added is None or not isinstance(outcome, Retry | Deferred):
            self.settle(outcome)
            return
        self._announced[outcome.envelope.id] = added
        try:
            self.settle(outcome)
        finally:
            self._announced.pop(outcome.envelope.id, None)

    def publication(self, envelope: JobEnvelope) -> Publication:
        """Announce that a job is sent, unless that was announced where it ran."""
        return Publication(envelope, self.native_eta(envelope), added=self._announced.get(envelope.id))

    @abstractmethod
    def application(self, executor: JobExecutor, *, stop_timeout: float) -> Any:
        """Return the Celery application whose workers run the jobs of this backend; connects to nothing."""

    @abstractmethod
    def holds(self, message: Any) -> bool:
        """Whether this worker still holds a message that it took, by the server's records. Called in the thread of
        Celery's event loop. Raises `EnqueueError` if that can't be known.
        """

    def give_back_held(self) -> None:
        """Give back the messages that this worker holds, uncharged, before its process ends. A broker may do so by
        itself.
        """
        return

    def keep_held(self, tags: Collection[str]) -> None:  # noqa: ARG002
        """After a lost connection: release all messages except these, which still run. A broker may do so by itself."""
        return

    def pooled(self, can: Capabilities, silence: timedelta | None) -> Capabilities:
        """Return `can` with the capabilities of the pool: in `prefork` jobs have processes of their own; a job in the
        worker's own process can delay the signs of life that the server expects within `silence`.
        """
        apart = self.pool == "prefork"
        return replace(can, hard_time_limit=apart, silence_bound=None if apart else silence)

    def native_eta(self, envelope: JobEnvelope) -> str | None:
        """Return when Celery must run the job, if Celery delays it.

        A job that is due much later is delivered early, and the executor sends it back: held for longer, it would be
        redelivered.
        """
        if not self.native_delay or envelope.due_at is None:
            return None
        now = self.config.clock.now()
        return min(envelope.due_at, now + self.longest_eta).isoformat() if envelope.due_at > now else None

    def _option(self, name: str, choices: Sequence[str]) -> str:
        value = str(self.options.pop(name, choices[0]))
        if value not in choices:
            raise ConfigurationError(
                f"backends.{self.config.alias}.options.{name}: {value!r} is none of {', '.join(choices)}."
                f"{did_you_mean(value, choices)}"
            )
        return value


class OwnCeleryBackend(CeleryBackend):
    """An application made by us, with the safe settings; enqueuing needs, and imports, no Celery.

    Its other `options` are Celery's settings by their own names.
    """

    def __init__(self, config: BackendConfig) -> None:
        super().__init__(config)
        refused = [f"{option}: {REFUSED[option]}" for option in sorted(REFUSED.keys() & self.options.keys())]
        if refused:
            raise ConfigurationError(*(f"backends.{config.alias}.options.{each}" for each in refused))
        if self.options:
            self._refuse_unknown()
        self.risks = [REMOTE_CONTROL] if self.options.get("worker_enable_remote_control", True) else []
        self.transport_options: Mapping[str, Any] = self.options.pop("broker_transport_options", {})

    def native_inspector(self, read: ReadNative, queues: Collection[str] | None = None) -> JobInspector:  # noqa: ARG002
        raise UnsupportedCapabilityError(
            f"Backend {self.config.alias!r} has queues of its own, which no application sends to by itself. Name the "
            "application: celery://?app=module:attribute."
        )

    def _refuse_unknown(self) -> None:
        """Raise `ConfigurationError` for a name that is no setting of Celery's, which it would ignore in silence."""
        from anyjob_celery.private import setting_names  # imports Celery: a producer without options doesn't need it

        names = setting_names()
        unknown = [
            f"backends.{self.config.alias}.options: Celery has no setting {option!r}.{did_you_mean(option, names)}"
            for option in self.options
            if option not in names
        ]
        if unknown:
            raise ConfigurationError(*unknown)

    @property
    def url(self) -> str:
        """The broker's URL, as Celery knows it."""
        return self.config.url.partition("+")[2]

    @abstractmethod
    def native_queue(self, logical: str) -> Mapping[str, Any]:
        """Return the arguments of the kombu queue for a logical one."""

    @abstractmethod
    def transport_settings(self, stop: Event) -> Mapping[str, Any]:
        """Return the Celery settings that this transport needs; `stop` is set while the worker stops."""

    def worker_steps(self) -> Sequence[Any]:
        """Return the bootsteps that this transport adds to a worker."""
        return ()
