"""Jobs in RabbitMQ's queues: the base of all backends on RabbitMQ, and the plain one, which our worker runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any
from weakref import WeakSet

from amqp import Message

from anyjob.extend import (
    BackendConfig,
    Capabilities,
    JobBackend,
    JobEnvelope,
    JobFailure,
    JobInspector,
    ReadNative,
    UnsupportedCapabilityError,
    write_envelope,
)
from anyjob_amqp.capabilities import KnownQueues, capabilities_of
from anyjob_amqp.consumer import AmqpConsumer
from anyjob_amqp.consuming import HEARTBEAT, AmqpDelivery
from anyjob_amqp.inspector import AmqpInspector, jobs_in
from anyjob_amqp.links import Links, refuse_unknown_options
from anyjob_amqp.moves import MoveJournal
from anyjob_amqp.publisher import Parcel, Publisher
from anyjob_amqp.server import RabbitServer
from anyjob_amqp.source import AmqpSource
from anyjob_amqp.topology import LEVELS, AmqpNames
from anyjob_amqp.urls import read_url

__all__ = ["AmqpBackend", "AmqpQueuesBackend", "message_of", "names_of"]


class AmqpQueuesBackend(JobBackend):
    """Base of the backends whose jobs are in queues of our own on RabbitMQ. Call `open_queues` first."""

    config: BackendConfig
    inspector: AmqpInspector
    marks: MoveJournal

    def open_queues(
        self,
        names: AmqpNames,
        *,
        url: str,
        options: Mapping[str, Any],
        capabilities: Capabilities,
        unwrap: Callable[[Message, bytes], bytes],
        where: str = "options",
        also: Collection[str] = (),
    ) -> None:
        """Prepare to use the queues of these names; connects to nothing.

        `options` are those of py-amqp's connection, and `unwrap` returns the envelope's bytes in a message with this
        body, or the body if there is none. `where` is the path of the options in the backend's settings, and `also`
        are the other options that are allowed there. Raises `ConfigurationError`.
        """
        config = self.config
        refuse_unknown_options(options, f"backends.{config.alias}.{where}", also=also)
        self.clock = config.clock
        self.capabilities = capabilities
        self.names = names
        self.links = Links(read_url(url, config.alias), config.enqueue_timeout, options)
        self.publisher = Publisher(self.links, config.enqueue_timeout)
        self.marks = MoveJournal(self.links, self.publisher, names)
        self.queues = KnownQueues(names, config, self.links)
        self.inspector = AmqpInspector(
            self.links,
            self.publisher,
            names,
            queues=self.queues,
            read=jobs_in(unwrap),
            resend=self.resend,
            clock=config.clock,
            capabilities=capabilities,
        )

    def send_messages(self, jobs: Sequence[tuple[JobEnvelope, Message]], *, delayed: bool = True) -> None:
        """Send the messages of jobs to their queues, if `delayed` through the delays. Raises as `send`."""
        now = self.clock.now()

        def wait(envelope: JobEnvelope) -> int:  # in whole seconds, and never early
            due_at = envelope.due_at if delayed else None
            return 0 if due_at is None else math.ceil((due_at - now).total_seconds())

        self.publisher.publish(
            [
                Parcel(envelope.id, self.names.route(envelope.queue, wait(envelope)), message)
                for envelope, message in jobs
            ]
        )

    def publish_again(self, deliveries: Sequence[AmqpDelivery]) -> None:
        """Send messages anew as they were. Raises as `send`."""
        self.publisher.publish(
            [
                Parcel(each.id, self.names.route(each.queue), message_of(each.id, each.body, each.priority))
                for each in deliveries
            ]
        )

    def consumer(self, wake: Callable[[], None]) -> AmqpConsumer:
        """Return the consumer of one worker, which calls `wake` when a message arrives and no thread waits for it."""
        return AmqpConsumer(
            self.links,
            self.config.enqueue_timeout,
            native=self.names.queue,
            declare=self.declare_queue,
            publish_again=self.publish_again,
            wake=wake,
        )

    def declare_queue(self, queue: str) -> None:
        """Make a queue, if there is none. Raises what py-amqp raises."""
        with self.links.link() as link:
            link.prepare(self.names.route(queue).place, again=True)

    def park(self, raw: bytes, failure: JobFailure) -> str:
        return self.inspector.park(raw, failure)

    def note_mark(self, once: str | None, envelopes: Sequence[JobEnvelope]) -> None:
        """Note, before jobs are sent, that they will be under this mark, if there is one."""
        if once is not None:
            self.marks.note(once, [envelope.id for envelope in envelopes])

    def look_for_risks(self) -> Sequence[str]:
        server = RabbitServer.behind(self.links)
        return [*server.risk_of_several([*self.queues], limits_channels=self.limits_channels(server))]

    def limits_channels(self, server: RabbitServer) -> bool:
        """Whether the limit of a worker is that of all its queues together."""
        return server.limits_channels

    def close(self) -> None:
        self.links.close()


def names_of(namespace: str) -> AmqpNames:
    """Return the names of the plain backend's queues: the virtual host may have other queues of the application."""
    return AmqpNames(f"{namespace}.jobs")


class AmqpBackend(AmqpQueuesBackend):
    """Jobs in RabbitMQ, run by our own worker: `amqp:` and `amqps:`. Its `options` are py-amqp's connection's."""

    def __init__(self, config: BackendConfig) -> None:
        self.config = config
        self.open_queues(
            names_of(config.namespace),
            url=config.url,
            options=config.options,
            capabilities=replace(
                capabilities_of(),
                bounded_worker=True,
                # A worker's threads share the interpreter's lock with the one that sends heartbeats.
                silence_bound=timedelta(seconds=HEARTBEAT * 1.5),
            ),
            unwrap=lambda _, body: body,
        )
        self._sources: WeakSet[AmqpSource] = WeakSet()

    def send(self, envelopes: Sequence[JobEnvelope], *, once: str | None = None) -> None:
        self.note_mark(once, envelopes)
        self.send_messages(
            [(each, message_of(each.id, write_envelope(each), LEVELS[each.priority])) for each in envelopes]
        )

    def source(self) -> AmqpSource:
        config = self.config
        source = AmqpSource(
            self.consumer,
            clock=config.clock,
            queues=lambda: config.queues or sorted(config.known_queues()),
            settle=self.settle,
        )
        self._sources.add(source)
        return source

    def native_inspector(self, read: ReadNative, queues: Collection[str] | None = None) -> JobInspector:  # noqa: ARG002
        raise UnsupportedCapabilityError(
            f"Backend {self.config.alias!r} has queues of its own, which no application sends to by itself."
        )

    def close(self) -> None:
        for source in list(self._sources):
            source.close()
        super().close()


def message_of(job_id: str, body: bytes, priority: int) -> Message:
    """Return a job's message, which has nothing beside its body."""
    return Message(body, content_type="application/json", delivery_mode=2, priority=priority, message_id=job_id)
