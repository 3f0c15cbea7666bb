"""Dramatiq on RabbitMQ: with the broker's own priorities and delays, and an inspector of parked jobs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

from anyjob.extend import BackendConfig, JobEnvelope
from anyjob_amqp import HEARTBEAT, LEVELS, AmqpInspector, AmqpNames, AmqpQueuesBackend, capabilities_of, message_of
from anyjob_dramatiq.amqp_source import AmqpSource
from anyjob_dramatiq.backend import Job, OwnDramatiqBackend
from anyjob_dramatiq.frame import encode, unwrap

__all__ = ["DramatiqAmqpBackend", "names_of"]


def names_of(namespace: str) -> AmqpNames:
    """Return the names of our queues: jobs of one application may be on Celery as well, in the same virtual host."""
    return AmqpNames(f"{namespace}.dramatiq")


class DramatiqAmqpBackend(AmqpQueuesBackend, OwnDramatiqBackend):
    """The scheme is `dramatiq+amqp:` or `dramatiq+amqps:`; `options` are those of py-amqp's connection."""

    inspector: AmqpInspector

    def __init__(self, config: BackendConfig) -> None:
        super().__init__(config)
        self.open_queues(
            names_of(config.namespace),
            url=config.url.partition("+")[2],
            options=self.native_config.options,
            capabilities=replace(
                capabilities_of(),
                priority_lag=1,
                # Dramatiq's threads share the interpreter's lock with the one that sends heartbeats.
                silence_bound=timedelta(seconds=HEARTBEAT * 1.5),
            ),
            unwrap=lambda _, body: unwrap(body),
        )

    def send(self, envelopes: Sequence[JobEnvelope], *, once: str | None = None) -> None:
        self.note_mark(once, envelopes)
        OwnDramatiqBackend.send(self, envelopes)

    def publish(self, jobs: Sequence[Job], *, again: bool) -> None:  # noqa: ARG002  # nothing here has an id
        self.send_messages(
            [
                (envelope, message_of(envelope.id, encode(message), LEVELS[envelope.priority]))
                for envelope, message in jobs
            ]
        )

    def options_of(self, envelope: JobEnvelope) -> dict[str, Any]:
        return {"broker_priority": LEVELS[envelope.priority]}

    def messages_source(self) -> AmqpSource:
        return AmqpSource(self.consumer(lambda: None), lambda: self.broker.forbidden)
