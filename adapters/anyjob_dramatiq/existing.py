"""Jobs on a broker of the user's own: an actor for each is added to it, and nothing of theirs is changed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

from dramatiq import Actor, Broker, Message
from dramatiq.errors import DramatiqError

from anyjob.backend import BackendConfig, send_one_by_one
from anyjob.capabilities import BulkAtomicity, Capabilities, Quality
from anyjob.envelope import JobEnvelope, JobPriority, write_envelope
from anyjob.errors import ConfigurationError
from anyjob.executor import JobExecutor
from anyjob.log import JobLogger
from anyjob.shelf import JobShelf
from anyjob.store import JobState
from anyjob.worker import WorkerOptions
from anyjob_amqp import LEVELS, AmqpAddress, AmqpShelf, Links, Publisher
from anyjob_dramatiq.amqp_backend import names_of
from anyjob_dramatiq.backend import DramatiqBackend, load_object
from anyjob_dramatiq.broker import ACTOR_OPTIONS
from anyjob_dramatiq.guard import JobGuard
from anyjob_dramatiq.names import root_of
from anyjob_dramatiq.safety import risks_of
from anyjob_redis import ParkedJobs, RedisShelf

__all__ = ["ExistingDramatiqBackend"]

logger = JobLogger("anyjob.worker")


class ExistingDramatiqBackend(DramatiqBackend):
    """A broker of the user's own: `dramatiq://?broker=module:attribute`, a `RedisBroker` or a `RabbitmqBroker`.

    Jobs are sent by its own `enqueue` and run by its own workers, beside its actors. Its settings decide what is
    promised: what they put at risk is logged, one by one (`risks`), and what they don't give is not declared. Delays
    are Dramatiq's own. Queues have the names that the application gives them.

    A worker knows our actors if it imports `anyjob_dramatiq.app` (`dramatiq shop:broker anyjob_dramatiq.app`, or
    `anyjob worker`). A job that it does not know by name waits for a deploy as ever, and leaves a copy in Dramatiq's
    dead-letter queue, where a worker without that import leaves it alone.
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
        self.kind = _kind_of(self.broker, config.alias)
        self.capabilities = _CAPABILITIES[self.kind](self.broker)
        self.shelf, self._close = _SHELVES[self.kind](self)
        self.risks = risks_of(self.broker, self.kind)
        for risk in self.risks:
            logger.warning("unsafe backend=%s %s", config.alias, risk)

    def send(self, envelopes: Sequence[JobEnvelope]) -> None:
        def send(envelope: JobEnvelope) -> None:
            self.broker.enqueue(self._message(envelope), delay=self._delay(envelope))

        send_one_by_one(envelopes, send, _errors(), "Dramatiq")

    def close(self) -> None:
        """Close our own connections; the broker's are its own."""
        self._close()

    def worker_broker(self, executor: JobExecutor, options: WorkerOptions) -> Broker:  # noqa: ARG002  # as theirs is
        guard = JobGuard(self, executor)
        first = self.broker.middleware[0] if self.broker.middleware else None
        self.broker.add_middleware(guard, before=type(first) if first else None)
        queues = self.config.queues or executor.registry.queues()
        for level in _LEVELS_OF[self.kind]:
            for queue in queues:
                self.broker.declare_queue(_queue(queue, level))
            for name in executor.registry.names:
                Actor(
                    guard.run,
                    broker=self.broker,
                    actor_name=_actor(name, level),
                    queue_name=_queue(min(queues), level),
                    priority=100 - level,  # Dramatiq's lower is sooner
                    options={**ACTOR_OPTIONS, "time_limit": math.inf, "max_age": None, "notify_shutdown": False},
                )
        return self.broker

    def mark_begun(self, native_id: str) -> bool:
        """Note on Redis that a message's job begins; return whether that was noted before, and never settled."""
        if not native_id:
            return False
        client: Any = self.broker.client  # type: ignore[attr-defined]
        return client.set(self._mark(native_id), 1, nx=True, ex=_KEPT) is None

    def unmark(self, native_id: str) -> None:
        """Note that it was settled."""
        if native_id:
            self.broker.client.delete(self._mark(native_id))  # type: ignore[attr-defined]

    def _mark(self, native_id: str) -> str:
        return f"{root_of(self.config.namespace)}:begun:{native_id}"

    def _message(self, envelope: JobEnvelope) -> Message[Any]:
        # As text: the encoder is the application's, and what it makes of numbers is not ours to know.
        level = envelope.priority if envelope.priority in _LEVELS_OF[self.kind] else JobPriority.NORMAL
        return Message(
            queue_name=_queue(envelope.queue, level),
            actor_name=_actor(envelope.name, level),
            args=(write_envelope(envelope).decode(),),
            kwargs={},
            options={"broker_priority": LEVELS[envelope.priority]} if self.kind == _AMQP else {},
            message_id=envelope.id,
        )

    def _delay(self, envelope: JobEnvelope) -> int | None:
        if envelope.due_at is None:
            return None
        left = (envelope.due_at - self.config.clock.now()) / timedelta(milliseconds=1)
        return math.ceil(left) + 1 if left > 0 else None  # Dramatiq cuts its now to milliseconds


def _queue(queue: str, level: JobPriority) -> str:
    return queue if level is JobPriority.NORMAL else f"{queue}.{level.name.lower()}"


def _actor(name: str, level: JobPriority) -> str:
    return name if level is JobPriority.NORMAL else f"{name}@{level.name.lower()}"


def _find(config: BackendConfig) -> Broker:
    named = parse_qs(urlsplit(config.url).query).get("broker", [""])[0]
    where = f"backends.{config.alias}.url: broker={named}"
    if ":" not in named:
        raise ConfigurationError(f"{where}: name the broker, as dramatiq://?broker=shop.tasks:broker.")
    found = load_object(named, where)
    if not isinstance(found, Broker):
        raise ConfigurationError(f"{where}: that is no broker of Dramatiq's.")
    return found


_REDIS, _AMQP = "RedisBroker", "RabbitmqBroker"


def _kind_of(broker: Broker, alias: str) -> str:
    """Return which of Dramatiq's brokers it is, by name: neither's library need be there for the other's sake."""
    for each in type(broker).__mro__:
        if each.__module__.startswith("dramatiq.brokers.") and each.__name__ in _CAPABILITIES:
            return each.__name__
    raise ConfigurationError(
        f"backends.{alias}: the broker must be a RedisBroker or a RabbitmqBroker, which have a place for jobs that "
        f"were given up; it is a {type(broker).__name__}."
    )


def _errors() -> tuple[type[Exception], ...]:
    """Return what a broker raises; pika's errors come through Dramatiq as they are."""
    import pika.exceptions
    import redis

    return (DramatiqError, OSError, redis.RedisError, pika.exceptions.AMQPError)


_KEPT: Final = 7 * 86_400
_PARKED: Final = frozenset({JobState.ABANDONED})
_CAN: Final = Capabilities(
    priority=Quality.APPROXIMATE,
    delay=Quality.APPROXIMATE,
    bulk=BulkAtomicity.BATCH,
    listing=_PARKED,
    removal=_PARKED,
    moving=_PARKED,
    counts={JobState.ABANDONED: Quality.EXACT},
    durable=True,
    exact_loss_count=False,
)


def _on_redis(broker: Any) -> Capabilities:
    always = broker.maintenance_chance >= 1_000_000
    bound = timedelta(milliseconds=broker.heartbeat_timeout) + timedelta(seconds=5)
    return replace(_CAN, max_delay=timedelta(days=7), redelivery_bound=bound if always else None)


def _on_amqp(broker: Any) -> Capabilities:
    levels = Quality.APPROXIMATE if (broker.max_priority or 0) >= max(LEVELS.values()) else Quality.NONE
    return replace(_CAN, priority=levels, priority_across_queues=False, redelivery_bound=timedelta(seconds=5))


_Shelf = tuple[JobShelf, Callable[[], None]]
"""With what closes its connections."""


def _parked_on_redis(backend: ExistingDramatiqBackend) -> _Shelf:
    config = backend.config
    client: Any = backend.broker.client  # type: ignore[attr-defined]
    shelf = RedisShelf(
        ParkedJobs(client, root_of(config.namespace), config.clock),
        resend=backend.resend,
        clock=config.clock,
        capabilities=backend.capabilities,
    )
    return shelf, lambda: None


def _parked_on_amqp(backend: ExistingDramatiqBackend) -> _Shelf:
    config = backend.config
    given: Any = backend.broker.parameters  # type: ignore[attr-defined]
    first = given[0] if isinstance(given, list) else given
    address = AmqpAddress(
        host=first.host,
        port=first.port,
        user=first.credentials.username,
        password=first.credentials.password,
        vhost=first.virtual_host,
        tls=first.ssl_options is not None,
    )
    links = Links(address, config.enqueue_timeout, {})
    shelf = AmqpShelf(
        links,
        Publisher(links, config.enqueue_timeout),
        names_of(config.namespace),
        resend=backend.resend,
        clock=config.clock,
        capabilities=backend.capabilities,
    )
    return shelf, links.close


_CAPABILITIES: Final[Mapping[str, Callable[[Any], Capabilities]]] = {_REDIS: _on_redis, _AMQP: _on_amqp}
_SHELVES: Final[Mapping[str, Callable[[ExistingDramatiqBackend], _Shelf]]] = {
    _REDIS: _parked_on_redis,
    _AMQP: _parked_on_amqp,
}
# On Redis the priority is the actor's and the queue's; on RabbitMQ it is the message's.
_LEVELS_OF: Final[Mapping[str, Sequence[JobPriority]]] = {_REDIS: list(JobPriority), _AMQP: [JobPriority.NORMAL]}
