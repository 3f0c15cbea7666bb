"""Celery over RabbitMQ."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

from amqp import Message

from anyjob.base.envelope import JobEnvelope, write_envelope
from anyjob.seams.backend import BackendConfig
from anyjob.seams.capabilities import Quality
from anyjob_amqp import (
    JOB_QUEUE,
    LEVELS,
    AmqpInspector,
    AmqpNames,
    KnownQueues,
    Links,
    MoveJournal,
    Parcel,
    Publisher,
    capabilities_of,
    jobs_in,
    read_url,
    refuse_unknown_options,
)
from anyjob_celery.backend import OwnCeleryBackend
from anyjob_celery.frame import ForeignMessageError, body_of, open_frame
from anyjob_celery.server import risks_of_own

__all__ = ["AmqpCeleryBackend"]


class AmqpCeleryBackend(OwnCeleryBackend):
    """Celery over RabbitMQ: `celery+amqp://` and `celery+amqps://`."""

    marks: MoveJournal

    def __init__(self, config: BackendConfig) -> None:
        super().__init__(config)
        self._clock = config.clock
        self._names = AmqpNames(config.namespace)
        options = self.transport_options
        refuse_unknown_options(options, f"backends.{config.alias}.options.broker_transport_options", also=_OF_KOMBU)
        if "broker_use_ssl" in self.options:
            options = {**options, "ssl": self.options["broker_use_ssl"]}
        self._links = Links(read_url(self.url, config.alias), config.enqueue_timeout, options)
        self._publisher = Publisher(self._links, config.enqueue_timeout)
        self.marks = MoveJournal(self._links, self._publisher, self._names)
        self._queues = KnownQueues(self._names, config, self._links)
        # The broker sees a connection end at once; Celery sees a dead child of its pool within 5 s.
        self.capabilities = replace(capabilities_of(), redelivery_bound=timedelta(seconds=6))
        if self.native_delay:
            self.capabilities = replace(self.capabilities, delay=Quality.APPROXIMATE)
        self.capabilities = self.pooled(self.capabilities, self._silence())
        self.inspector = AmqpInspector(
            self._links,
            self._publisher,
            self._names,
            queues=self._queues,
            read=jobs_in(_envelope_in),
            resend=self.resend,
            clock=config.clock,
            capabilities=self.capabilities,
        )

    def send(self, envelopes: Sequence[JobEnvelope], *, once: str | None = None) -> None:
        if once is not None:
            self.marks.note(once, [envelope.id for envelope in envelopes])
        publications = [self.publication(envelope) for envelope in envelopes]
        headers = [each.headers for each in publications]
        self._publisher.publish(list(map(self._parcel, envelopes, headers)))
        for each in publications:
            each.done()

    def look_for_risks(self) -> Sequence[str]:
        return [*risks_of_own(self._links, [*self._queues])]

    def close(self) -> None:
        self._links.close()

    def native_queue(self, logical: str) -> Mapping[str, Any]:
        from kombu import Exchange, binding  # which a producer does without

        name, due = self._names.queue(logical), Exchange(self._names.due, "topic")
        return {
            "name": name,
            "routing_key": name,
            "alias": logical,
            "queue_arguments": dict(JOB_QUEUE),
            "bindings": [binding(due, self._names.due_key(logical))],  # as `AmqpNames.route` has it
        }

    def transport_settings(self, stop: threading.Event) -> Mapping[str, Any]:  # noqa: ARG002
        namespace = self.config.namespace
        transport = "SSLJobTransport" if self.url.startswith("amqps:") else "JobTransport"
        return {
            "broker_transport": f"anyjob_celery.amqp_transport:{transport}",
            "broker_transport_options": self.transport_options,
            # A job in the main process leaves no time for heartbeats: RabbitMQ would take the worker for dead.
            **({"broker_heartbeat": 0} if self.pool == "solo" else {}),
            "broker_channel_error_retry": True,  # else a job longer than consumer_timeout ends the worker
            "task_default_exchange": "",
            "control_exchange": namespace,
            "event_exchange": f"{namespace}:events",
            "event_queue_prefix": f"{namespace}:events",
        }

    def _silence(self) -> timedelta | None:
        """Return how long RabbitMQ waits for a sign of life: two heartbeats, of which it wants one a minute."""
        seconds = 0 if self.pool == "solo" else min(float(self.options.get("broker_heartbeat", 120)), _HEARTBEAT)
        return timedelta(seconds=2 * seconds) if seconds else None

    def holds(self, message: Any) -> bool:
        from anyjob_celery.fence import is_held_on_amqp  # for workers, who have kombu

        return is_held_on_amqp(message, self.config.enqueue_timeout)

    def _parcel(self, envelope: JobEnvelope, headers: Mapping[str, Any]) -> Parcel:
        seconds = 0
        if envelope.due_at is not None and not self.native_delay:
            seconds = math.ceil((envelope.due_at - self._clock.now()).total_seconds())
        message = Message(
            body_of(write_envelope(envelope)),
            content_type="application/json",
            content_encoding="utf-8",
            application_headers=headers,
            delivery_mode=2,
            priority=LEVELS[envelope.priority],
            correlation_id=envelope.id,
            message_id=envelope.id,
            reply_to="",
        )
        return Parcel(envelope.id, self._names.route(envelope.queue, seconds), message)


_HEARTBEAT = 60.0
# By which kombu connects anew; what sends, and connects once, passes over them.
_OF_KOMBU = ("max_retries", "interval_start", "interval_step", "interval_max", "connect_retries_timeout", "errback")


def _envelope_in(message: Message, body: bytes) -> bytes:
    try:
        return open_frame(message.headers, body).raw
    except ForeignMessageError:
        return body
