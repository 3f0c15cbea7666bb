"""Jobs on a broker of the user's own: it gets an actor for each job, and nothing else of it is changed."""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Sequence
from datetime import timedelta
from typing import Any

from dramatiq import Actor, Broker, Message, get_encoder
from dramatiq.common import q_name
from dramatiq.encoder import PickleEncoder
from dramatiq.errors import DramatiqError

from anyjob.extend import (
    BackendConfig,
    ConfigurationError,
    EnqueueError,
    JobEnvelope,
    JobExecutor,
    JobInspector,
    JobLogger,
    NamedObject,
    ReadNative,
    UnsupportedCapabilityError,
    WorkerOptions,
    log_event,
    read_object_url,
    send_one_by_one,
    write_envelope,
)
from anyjob_dramatiq.backend import DramatiqBackend
from anyjob_dramatiq.begun import BegunMessages
from anyjob_dramatiq.broker import ACTOR_OPTIONS
from anyjob_dramatiq.existing_inspectors import actor_of, existing_broker, queue_of
from anyjob_dramatiq.guard import JobGuard
from anyjob_dramatiq.safety import risks_of, risks_of_actors

__all__ = ["ExistingDramatiqBackend"]

logger = JobLogger("anyjob.worker")


class ExistingDramatiqBackend(DramatiqBackend):
    """A broker of the user's own: `dramatiq://?broker=module:attribute`, a `RedisBroker` or a `RabbitmqBroker`.

    Jobs are sent by its own `enqueue` and run by its own workers, beside its actors. Its settings decide the promises:
    each risk is logged (`risks`), and a capability that the settings don't give is not declared. Delays are Dramatiq's
    own. Queues have the names that the application gives them.

    A worker knows our actors if it imports `anyjob_dramatiq.app` (`dramatiq shop:broker anyjob_dramatiq.app`, or
    `anyjob worker`). A job of an unknown name waits for a deploy, as on every backend, and a copy of it stays in
    Dramatiq's dead-letter queue. A worker without that import only moves our jobs to the dead-letter queue.
    """

    def __init__(self, config: BackendConfig) -> None:
        self.config = config
        refused = [key for key, value in config.options.items() if (key, value) != ("delay", "native")]
        if refused:
            raise ConfigurationError(
                f"backends.{config.alias}.options: {', '.join(refused)}: the broker has settings of its own. There is "
                'delay = "native", and it is so without being said.'
            )
        self.broker = _find(config)
        self._existing = existing_broker(self.broker, config)
        self.capabilities = self._existing.capabilities
        self.inspector = self._existing.inspect(self.resend)
        self._serves = False
        self.risks = risks_of(self.broker, self._existing.kind)
        for risk in self.risks:
            log_event(logger, logging.WARNING, "unsafe", backend=config.alias, reason=risk)

    def send(self, envelopes: Sequence[JobEnvelope], *, once: str | None = None) -> None:  # noqa: ARG002  # nowhere to note it
        def send(envelope: JobEnvelope) -> None:
            self.broker.enqueue(self._message(envelope), delay=self._delay(envelope))

        try:
            self._existing.note(envelopes)
        except EnqueueError as error:
            raise EnqueueError(str(error), rejected=[envelope.id for envelope in envelopes]) from error
        send_one_by_one(envelopes, send, _errors(), "Dramatiq")

    def close(self) -> None:
        """Close our own connections, and not the broker's."""
        self._existing.close()

    def native_inspector(self, read: ReadNative, queues: Collection[str] | None = None) -> JobInspector:
        if isinstance(get_encoder(), PickleEncoder):
            raise UnsupportedCapabilityError(
                f"Backend {self.config.alias!r}: its messages are pickled (PickleEncoder), and to read these would run "
                "what anybody put in there. Let its workers finish them."
            )
        named = sorted(map(q_name, self.broker.get_declared_queues() if queues is None else queues))
        return self._existing.natives(read, named, self.resend)

    def look_for_risks(self) -> Sequence[str]:
        return [*self._existing.look_for_risks(), *risks_of_actors(self.broker, self._existing.kind)]

    def worker_broker(self, executor: JobExecutor, options: WorkerOptions) -> Broker:  # noqa: ARG002  # as theirs is
        begun = BegunMessages(getattr(self.broker, "client", None), self.config.namespace)
        guard, self._serves = JobGuard(self.broker, executor, self.settle, begun), True
        first = self.broker.middleware[0] if self.broker.middleware else None
        self.broker.add_middleware(guard, before=type(first) if first else None)
        queues = self.config.queues or executor.registry.queues()
        for level in self._existing.levels:
            for queue in queues:
                self.broker.declare_queue(queue_of(queue, level))
            for name in executor.registry.names:
                Actor(
                    guard.run,
                    broker=self.broker,
                    actor_name=actor_of(name, level),
                    queue_name=queue_of(min(queues), level),
                    priority=100 - level,  # Dramatiq's lower is sooner
                    options={**ACTOR_OPTIONS, "time_limit": math.inf, "max_age": None, "notify_shutdown": False},
                )
        return self.broker

    def _message(self, envelope: JobEnvelope) -> Message[Any]:
        # As text: the encoder is the application's, and may change numbers.
        level = self._existing.level_of(envelope)
        return Message(
            queue_name=queue_of(envelope.queue, level),
            actor_name=actor_of(envelope.name, level),
            args=(write_envelope(envelope).decode(),),
            kwargs={},
            options=self._options_of(envelope),
            message_id=envelope.id,
        )

    def _options_of(self, envelope: JobEnvelope) -> dict[str, Any]:
        options = dict(self._existing.options_of(envelope))
        if self._serves and envelope.try_count:
            options["retries"] = envelope.try_count  # middleware recognises a retry by it
        return options

    def _delay(self, envelope: JobEnvelope) -> int | None:
        if envelope.due_at is None:
            return None
        left = (envelope.due_at - self.config.clock.now()) / timedelta(milliseconds=1)
        return math.ceil(left) + 1 if left > 0 else None  # Dramatiq cuts its now to milliseconds


def _find(config: BackendConfig) -> Broker:
    try:
        named = read_object_url(config.url, "broker")
    except ValueError as error:
        raise ConfigurationError(f"backends.{config.alias}.url: {error}") from None
    name = NamedObject(named, f"backends.{config.alias}.url: broker")
    if ":" not in named:
        raise ConfigurationError(f"{name}: name the broker, as dramatiq://?broker=shop.tasks:broker.")
    found = name.load()
    if not isinstance(found, Broker):
        raise ConfigurationError(f"{name}: that is no broker of Dramatiq's.")
    return found


def _errors() -> tuple[type[Exception], ...]:
    """Return the errors that a broker raises; Dramatiq passes pika's on as they are."""
    import pika.exceptions
    import redis

    return (DramatiqError, OSError, redis.RedisError, pika.exceptions.AMQPError)
