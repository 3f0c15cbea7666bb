"""Celery over RabbitMQ."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

from amqp import Message

from anyjob.extend import BackendConfig, JobEnvelope, JobExecutor, Quality, write_envelope
from anyjob_amqp import (
    JOB_QUEUE,
    LEVELS,
    AmqpInspector,
    AmqpNames,
    AmqpQueuesBackend,
    RabbitServer,
    capabilities_of,
)
from anyjob_celery.backend import OwnCeleryBackend
from anyjob_celery.frame import ForeignMessageError, body_of, open_frame
from anyjob_celery.server import limits_channels

__all__ = ["AmqpCeleryBackend"]


class AmqpCeleryBackend(AmqpQueuesBackend, OwnCeleryBackend):
    """Celery over RabbitMQ: `celery+amqp://` and `celery+amqps://`."""

    inspector: AmqpInspector

    def __init__(self, config: BackendConfig) -> None:
        super().__init__(config)
        options = self.transport_options
        # The broker notices a lost connection at once; Celery notices a crashed child of its pool within 5 s.
        can = replace(capabilities_of(), redelivery_bound=timedelta(seconds=6))
        if self.native_delay:
            can = replace(can, delay=Quality.APPROXIMATE)
        self.open_queues(
            AmqpNames(config.namespace),
            url=self.url,
            options={**options, "ssl": self.options["broker_use_ssl"]} if "broker_use_ssl" in self.options else options,
            where="options.broker_transport_options",
            also=_OF_KOMBU,
            capabilities=self.pooled(can, self._silence()),
            unwrap=_envelope_in,
        )

    def send(self, envelopes: Sequence[JobEnvelope], *, once: str | None = None) -> None:
        self.note_mark(once, envelopes)
        publications = [self.publication(envelope) for envelope in envelopes]
        headers = [each.headers for each in publications]
        self.send_messages(
            [(envelope, _message(envelope, each)) for envelope, each in zip(envelopes, headers, strict=True)],
            delayed=not self.native_delay,
        )
        for each in publications:
            each.done()

    def limits_channels(self, server: RabbitServer) -> bool:
        return limits_channels(server)

    def application(self, executor: JobExecutor, *, stop_timeout: float) -> Any:
        from anyjob_celery.application import make_application  # imports Celery: a producer doesn't need it

        return make_application(self, executor, stop_timeout=stop_timeout)

    def native_queue(self, logical: str) -> Mapping[str, Any]:
        from kombu import Exchange, binding  # a producer doesn't need it

        name, due = self.names.queue(logical), Exchange(self.names.due, "topic")
        return {
            "name": name,
            "routing_key": name,
            "alias": logical,
            "queue_arguments": dict(JOB_QUEUE),
            "bindings": [binding(due, self.names.due_key(logical))],  # as in `AmqpNames.route`
        }

    def transport_settings(self, stop: threading.Event) -> Mapping[str, Any]:  # noqa: ARG002
        namespace = self.config.namespace
        transport = "SSLJobTransport" if self.url.startswith("amqps:") else "JobTransport"
        return {
            "broker_transport": f"anyjob_celery.amqp_transport:{transport}",
            "broker_transport_options": self.transport_options,
            # A job in the main process leaves no time for heartbeats: RabbitMQ would end its connection.
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
        from anyjob_celery.fence import is_held_on_amqp  # for workers, which have kombu

        return is_held_on_amqp(message, self.config.enqueue_timeout)


def _message(envelope: JobEnvelope, headers: Mapping[str, Any]) -> Message:
    return Message(
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


_HEARTBEAT = 60.0
# kombu uses them to connect anew; a sender, which connects once, ignores them.
_OF_KOMBU = ("max_retries", "interval_start", "interval_step", "interval_max", "connect_retries_timeout", "errback")


def _envelope_in(message: Message, body: bytes) -> bytes:
    try:
        return open_frame(message.headers, body).raw
    except ForeignMessageError:
        return body
