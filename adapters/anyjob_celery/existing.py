"""Jobs in a Celery application of the user's own: it gets our task, and nothing else of it is changed."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Final

import msgspec
from celery import Celery
from kombu.exceptions import KombuError

from anyjob.extend import (
    ALL_STATES,
    BackendConfig,
    BulkAtomicity,
    Capabilities,
    ConfigurationError,
    EnqueueError,
    JobEnvelope,
    JobExecutor,
    JobInspector,
    JobLogger,
    JobState,
    NamedObject,
    NativeCommand,
    Quality,
    ReadNative,
    WorkerOptions,
    describe_error,
    log_event,
    read_object_url,
    send_one_by_one,
    write_envelope,
)
from anyjob_celery.backend import CeleryBackend
from anyjob_celery.existing_amqp import AppOnAmqp
from anyjob_celery.existing_queues import AppQueues, read_natives
from anyjob_celery.existing_redis import AppOnRedis
from anyjob_celery.fence import IS_HELD
from anyjob_celery.frame import TASK, headers_of
from anyjob_celery.overtaking import task_priorities
from anyjob_celery.publishing import heard_apart, send_with
from anyjob_celery.safety import risks_of
from anyjob_celery.settings import Settings
from anyjob_celery.stopping import StopFlag, TellJobs
from anyjob_celery.task import AddJobTasks, JobTask

__all__ = ["ExistingCeleryBackend"]

logger = JobLogger("anyjob.worker")


class ExistingCeleryBackend(CeleryBackend):
    """An application of the user's own: `celery://?app=module:attribute`.

    Jobs are sent by its own `send_task` and run by its own workers, beside its tasks. Its settings decide the promises:
    each risk is logged (`risks`), and a capability that the settings don't give is not declared. Delays are Celery's
    own countdown. `default` is the application's default queue, any other name its queue of that name.

    A worker knows our task if it imports `anyjob_celery.app`: `anyjob worker` does, others by their setting `imports`.
    Jobs that no worker has taken yet can be moved away, and the application's own messages can be adopted.
    """

    def __init__(self, config: BackendConfig) -> None:
        super().__init__(replace(config, options={**config.options, "delay": "native"}))
        if self.options:
            raise ConfigurationError(
                f"backends.{config.alias}.options: {', '.join(self.options)}: the application has settings of its own."
            )
        self.app = _find(config)
        conf: Settings = self.app.conf
        self._queues = AppQueues(self.app, self.config)
        with self.app.connection_for_write() as connection:  # only a description: it doesn't connect
            transport = self._transport = str(connection.transport.driver_type)
            self._errors = (KombuError, OSError, *connection.connection_errors, *connection.channel_errors)
            found = _TRANSPORTS.get(transport)
            if found is None or conf["task_protocol"] != 2:
                raise ConfigurationError(
                    f"backends.{config.alias}: the application must use Redis or RabbitMQ (it uses {transport}), which "
                    f"have a place for jobs that were given up, and task_protocol 2 (it has {conf['task_protocol']})."
                )
            self._on = found(self.config, conf, self._queues, connection)
        self.capabilities = self._on.capabilities(_CAN)
        self.inspector = self._on.inspect(self.capabilities, self.resend)
        self.marks = self._on.marks
        self._holds = IS_HELD[transport]
        self.longest_eta = min(self.longest_eta, self._on.longest_eta)
        self.risks = risks_of(conf, transport, self._queues.declared)
        for risk in self.risks:
            log_event(logger, logging.WARNING, "unsafe", backend=config.alias, reason=risk)

    def send(self, envelopes: Sequence[JobEnvelope], *, once: str | None = None) -> None:  # noqa: ARG002  # nowhere to note it
        native = {envelope.queue: self._queues.native(envelope.queue) for envelope in envelopes}
        for queue in native.values():
            self._queues.refuse_missing(queue)
        try:
            self._queues.note(native.values())
        except EnqueueError as error:
            raise EnqueueError(str(error), rejected=[envelope.id for envelope in envelopes]) from error

        def send(envelope: JobEnvelope) -> None:
            added = self._announced.get(envelope.id)
            publish = partial(
                self.app.send_task if added is None else partial(send_with, self.app, added),
                envelope.name,  # for listeners; the message is always for `anyjob.run`, which all workers have
                headers={"task": TASK},
                route_name=TASK,
                args=[msgspec.json.decode(write_envelope(envelope))],
                task_id=envelope.id,
                queue=native[envelope.queue],
                priority=self._on.levels[envelope.priority],
                eta=self.native_eta(envelope),
                serializer="json",
                **_NO_OPTIONS,
                ignore_result=True,
                retry=False,
                argsrepr=headers_of(envelope)["argsrepr"],
                kwargsrepr="{}",
                shadow=envelope.name,
            )
            heard_apart(envelope.name, publish)

        send_one_by_one(envelopes, send, self._errors, "Celery")

    def native_inspector(self, read: ReadNative, queues: Collection[str] | None = None) -> JobInspector:
        return self._on.native_inspector(self._queues.chosen(queues), read_natives(read), self.resend)

    def look_for_risks(self) -> Sequence[str]:
        self.inspector.count()  # kombu would try for ever to reach an unreachable broker
        own = {name: task for name, task in self.app.tasks.items() if not name.startswith(("celery.", TASK))}
        overtaking = task_priorities(self.app.conf, self._transport, self._queues.declared, own)
        return [*overtaking, *self._on.risks(), *self._ignorant_workers()]

    def _ignorant_workers(self) -> Sequence[str]:
        """Return a line if workers of the application that answer now would discard our jobs."""
        try:
            registered = self.app.control.inspect(timeout=_ANSWER).registered() or {}
        except self._errors as error:
            raise EnqueueError(f"Celery could not ask its workers: {describe_error(error)}") from error
        lacking = [worker for worker, tasks in sorted(registered.items()) if not _knows_our_task(tasks)]
        if not lacking:
            return ()
        who = ", ".join(lacking)
        return [f'imports: {who} discard our jobs: deploy imports = ("anyjob_celery.app",) there before jobs are sent']

    def native_worker(self, options: WorkerOptions) -> NativeCommand:
        theirs = self.app.conf.worker_concurrency
        if theirs not in (None, options.concurrency):
            reason = f"worker_concurrency = {theirs} is the application's; `anyjob worker` has --concurrency"
            log_event(logger, logging.WARNING, "sets its own", concurrency=options.concurrency, reason=reason)
        return super().native_worker(options)

    def holds(self, message: Any) -> bool:
        return self._holds(message, self.config.enqueue_timeout)

    def close(self) -> None:
        """Close our own connections, and not the application's."""
        self._on.close()

    def application(self, executor: JobExecutor, *, stop_timeout: float) -> Any:  # noqa: ARG002  # their jobs stop as ever
        stop = StopFlag()
        self.app.register_task(JobTask(self, executor, stop))
        self.app.steps["worker"].update((AddJobTasks, TellJobs))
        self.app.anyjob = TellJobs.Options(self, executor, stop)
        return self.app


def _find(config: BackendConfig) -> Celery:
    """Return the application that the URL names."""
    try:
        named = read_object_url(config.url, "app")
    except ValueError as error:
        raise ConfigurationError(f"backends.{config.alias}.url: {error}") from None
    name = NamedObject(named if ":" in named else f"{named}:app", f"backends.{config.alias}.url: app")
    if not named:
        raise ConfigurationError(f"{name.where}: name the application, as celery://?app=shop.celery:app.")
    found = name.load()
    if not isinstance(found, Celery):
        raise ConfigurationError(f"{name}: that is no Celery application.")
    return found


def _knows_our_task(tasks: Any) -> bool:
    """Whether a worker's answer names the task; its settings may follow the name."""
    return isinstance(tasks, list) and any(str(each).split(" ")[0] == TASK for each in tasks)


_ANSWER: Final = 1.0
_NO_OPTIONS: Final[Mapping[str, None]] = dict.fromkeys(
    ("expires", "time_limit", "soft_time_limit", "compression", "delivery_mode", "exchange", "routing_key")
)
"""Explicit, because else Celery takes them from a task of the application's that has the job's name."""
_PARKED: Final = frozenset({JobState.ABANDONED})

_CAN: Final = Capabilities(
    delay=Quality.APPROXIMATE,
    bulk=BulkAtomicity.BATCH,
    listing=_PARKED,
    removal=_PARKED,
    moving=ALL_STATES - {JobState.RUNNING},
    counts={JobState.ABANDONED: Quality.EXACT},  # the others are among the application's own messages
    durable=True,
    exact_loss_count=False,
)

_TRANSPORTS: Final[Mapping[str, type[AppOnRedis | AppOnAmqp]]] = {"redis": AppOnRedis, "amqp": AppOnAmqp}
