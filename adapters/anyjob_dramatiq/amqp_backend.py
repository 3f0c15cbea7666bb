"""Dramatiq on RabbitMQ: priorities and delays of the broker's own, and what it lets be seen."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import amqp
from dramatiq import Message

from anyjob.base.envelope import JobEnvelope
from anyjob.seams.backend import BackendConfig
from anyjob_amqp import (
    LEVELS,
    AmqpInspector,
    AmqpNames,
    KnownQueues,
    Links,
    MoveJournal,
    Parcel,
    Publisher,
    RabbitServer,
    capabilities_of,
    jobs_in,
    read_url,
    refuse_unknown_options,
)
from anyjob_dramatiq.amqp_parameters import HEARTBEAT
from anyjob_dramatiq.amqp_source import AmqpPlace, AmqpSource
from anyjob_dramatiq.backend import Job, OwnDramatiqBackend
from anyjob_dramatiq.frame import Delivery, encode, unwrap

__all__ = ["DramatiqAmqpBackend", "names_of"]


def names_of(namespace: str) -> AmqpNames:
    """Return the names of our queues: jobs of one application may be on Celery as well, in the same virtual host."""
    return AmqpNames(f"{namespace}.dramatiq")


class DramatiqAmqpBackend(OwnDramatiqBackend):
    """The scheme is `dramatiq+amqp:` or `dramatiq+amqps:`; `options` are those of py-amqp's connection, which sends."""

    inspector: AmqpInspector
    marks: MoveJournal

    def __init__(self, config: BackendConfig) -> None:
        super().__init__(config)
        refuse_unknown_options(self.native_config.options, f"backends.{config.alias}.options")
        self._address = read_url(config.url.partition("+")[2], config.alias)
        self._names = names_of(config.namespace)
        self._links = Links(self._address, config.enqueue_timeout, self.native_config.options)
        self._publisher = Publisher(self._links, config.enqueue_timeout)
        self.marks = MoveJournal(self._links, self._publisher, self._names)
        self._queues = KnownQueues(self._names, config, self._links)
        self.capabilities = replace(
            capabilities_of(),
            priority_lag=1,
            # Dramatiq's threads share the interpreter's lock with the one that sends heartbeats.
            silence_bound=timedelta(seconds=HEARTBEAT * 1.5),
        )
        self.inspector = AmqpInspector(
            self._links,
            self._publisher,
            self._names,
            queues=self._queues,
            read=jobs_in(lambda _, body: unwrap(body)),
            resend=self.resend,
            clock=config.clock,
            capabilities=self.capabilities,
        )

    def publish(self, jobs: Sequence[Job], *, again: bool) -> None:  # noqa: ARG002  # nothing here has an id
        now = self.config.clock.now()
        self._publisher.publish([self._parcel(envelope, message, now) for envelope, message in jobs])

    def options_of(self, envelope: JobEnvelope) -> dict[str, Any]:
        return {"broker_priority": LEVELS[envelope.priority]}

    def messages_source(self) -> AmqpSource:
        return AmqpSource(
            self._address,
            self.config.enqueue_timeout,
            native=self._names.queue,
            declare=self._declare,
            publish_again=self._publish_again,
            forbidden=lambda: self.broker.forbidden,
        )

    def send(self, envelopes: Sequence[JobEnvelope], *, once: str | None = None) -> None:
        if once is not None:
            self.marks.note(once, [envelope.id for envelope in envelopes])
        super().send(envelopes)

    def look_for_risks(self) -> Sequence[str]:
        server = RabbitServer.behind(self._links)
        return [*server.risk_of_several([*self._queues], limits_channels=server.limits_channels)]

    def close(self) -> None:
        self._links.close()

    def _parcel(self, envelope: JobEnvelope, message: Message[Any], now: datetime) -> Parcel:
        wait = 0.0 if envelope.due_at is None else (envelope.due_at - now).total_seconds()
        route = self._names.route(envelope.queue, math.ceil(wait))  # whole seconds, and never early
        return Parcel(envelope.id, route, _native(envelope.id, encode(message), LEVELS[envelope.priority]))

    def _publish_again(self, place: AmqpPlace, delivery: Delivery) -> None:
        message = _native(delivery.id, place.body, place.priority)
        self._publisher.publish([Parcel(delivery.id, self._names.route(place.queue), message)])

    def _declare(self, queue: str) -> None:
        with self._links.link() as link:
            link.prepare(self._names.route(queue).place, again=True)


def _native(job_id: str, body: bytes, priority: int) -> amqp.Message:
    return amqp.Message(body, content_type="application/json", delivery_mode=2, priority=priority, message_id=job_id)
