"""The differences between an application's own `RedisBroker` and `RabbitmqBroker`: promises, levels, inspectors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any, Final

from dramatiq import Broker
from dramatiq.common import dq_name, q_name

from anyjob.extend import (
    BackendConfig,
    BulkAtomicity,
    Capabilities,
    ConfigurationError,
    JobEnvelope,
    JobInspector,
    JobPriority,
    JobState,
    Quality,
    ReadNative,
    StoredJob,
)
from anyjob_amqp import LEVELS, NATIVES_CAN, AmqpAddress, AmqpInspector, AmqpNames, Links, Publisher, ReadMessage
from anyjob_amqp import NotedNames as NamesOnAmqp
from anyjob_dramatiq.amqp_backend import names_of
from anyjob_dramatiq.broker import forbidden_options
from anyjob_dramatiq.names import root_of
from anyjob_dramatiq.native import DramatiqKeys, Read, envelope_in, on_amqp, reader_of_natives
from anyjob_redis import NativePlaces, ParkedJobs, RedisInspector, inspector_of_natives, risks_of_held
from anyjob_redis import NotedNames as NamesOnRedis
from anyjob_redis.scheduled import state_at

__all__ = ["ExistingBroker", "actor_of", "existing_broker", "queue_of"]

Resend = Callable[[JobEnvelope], None]


class ExistingBroker(ABC):
    """A broker of the user's own, as far as its transport matters. Connections of ours open on first use."""

    kind: str
    """The name of Dramatiq's class."""
    levels: Sequence[JobPriority]
    """The levels that are told apart by the queue and the actor."""

    noted: NamesOnRedis | NamesOnAmqp
    """Notes the queues that a call named when it sent a job: no other process knows of them."""

    def __init__(self, broker: Any, config: BackendConfig) -> None:
        self.broker = broker
        self.config = config
        self._in_note: set[str] = set()

    @property
    @abstractmethod
    def capabilities(self) -> Capabilities: ...

    @abstractmethod
    def inspect(self, resend: Resend) -> AmqpInspector | RedisInspector:
        """Return the inspector of our jobs that no worker has in its memory, and of the parked ones."""

    @abstractmethod
    def natives(self, read: ReadNative, queues: Iterable[str], resend: Resend) -> JobInspector:
        """Return the inspector of the application's own messages, as `JobBackend.native_inspector` does."""

    def options_of(self, envelope: JobEnvelope) -> dict[str, Any]:  # noqa: ARG002  # for a transport that has levels
        """Return the options of a job's message."""
        return {}

    def look_for_risks(self) -> Sequence[str]:
        return ()

    def close(self) -> None:
        """Close our own connections."""
        return

    def level_of(self, envelope: JobEnvelope) -> JobPriority:
        """Return the level in the names of a job's queue and actor."""
        return envelope.priority if envelope.priority in self.levels else JobPriority.NORMAL

    def queues_of_jobs(self) -> Sequence[str]:
        """Return the native queues in which jobs of ours may be, as far as this process knows."""
        return sorted({*self._of_settings(), *map(q_name, self.broker.get_declared_queues()), *self.noted})

    def note(self, envelopes: Sequence[JobEnvelope]) -> None:
        """Note the queues that jobs are about to be sent to, except those that every process knows."""
        queues = {queue_of(each.queue, self.level_of(each)) for each in envelopes}
        if new := queues - self._in_note:
            if unknown := new - self._of_settings():
                self.noted.add(unknown)
            self._in_note |= new

    def _of_settings(self) -> set[str]:
        logical = self.config.queues or self.config.known_queues()
        return {queue_of(each, level) for each in logical for level in self.levels}

    def read_job(self, queue: str, _name: str, data: bytes) -> StoredJob | None:
        """Return the job in a message if that is exactly ours, including the names of its queue and its actor."""
        found = envelope_in(data, forbidden=forbidden_options(self.broker.middleware) - {"eta"})
        if found is None:
            return None
        frame, envelope = found
        level = self.level_of(envelope)
        native = queue_of(envelope.queue, level)
        named = (queue, q_name(frame.queue_name), frame.actor_name)
        if named != (native, native, actor_of(envelope.name, level)):
            return None
        due = 0.0 if envelope.due_at is None else envelope.due_at.timestamp()
        return StoredJob(envelope.id, state_at(due, self.config.clock), frame.args[0].encode())

    def reader_of_natives(self, read: ReadNative) -> Read:
        return reader_of_natives(read, lambda queue, data: self.read_job(queue, "", data) is not None)


class _OnRedis(ExistingBroker):
    kind = "RedisBroker"
    levels = tuple(JobPriority)  # the priority is the actor's and the queue's

    def __init__(self, broker: Any, config: BackendConfig) -> None:
        super().__init__(broker, config)
        self.noted = NamesOnRedis(broker.client, f"{self._root}:native:queues")

    @property
    def capabilities(self) -> Capabilities:
        always = self.broker.maintenance_chance >= 1_000_000
        bound = timedelta(milliseconds=self.broker.heartbeat_timeout) + timedelta(seconds=5)
        seen = frozenset({JobState.WAITING, JobState.ABANDONED})  # a worker takes all delayed messages into its memory
        return replace(
            _CAN,
            listing=seen,
            removal=seen,
            max_delay=timedelta(days=7),
            redelivery_bound=bound if always else None,
        )

    def inspect(self, resend: Resend) -> AmqpInspector | RedisInspector:
        keys = self._keys(_Named(self.queues_of_jobs), self.read_job)
        clock = self.config.clock
        return RedisInspector(
            ParkedJobs(self.broker.client, self._root, clock),
            NativePlaces(self.broker.client, self._root, keys, clock),
            resend=resend,
            clock=clock,
            capabilities=self.capabilities,
        )

    def natives(self, read: ReadNative, queues: Iterable[str], resend: Resend) -> JobInspector:
        keys = self._keys(queues, self.reader_of_natives(read))
        return inspector_of_natives(self.broker.client, self._root, keys, resend=resend, clock=self.config.clock)

    def look_for_risks(self) -> Sequence[str]:
        return risks_of_held(self.broker.client, self._root)

    def _keys(self, queues: Iterable[str], read: Read) -> DramatiqKeys:
        return DramatiqKeys(self.broker.client, self.broker.namespace, queues, read, begun=f"{self._root}:begun:")

    @property
    def _root(self) -> str:
        return root_of(self.config.namespace)


class _OnAmqp(ExistingBroker):
    kind = "RabbitmqBroker"
    levels = (JobPriority.NORMAL,)  # the priority is the message's

    def __init__(self, broker: Any, config: BackendConfig) -> None:
        super().__init__(broker, config)
        given = broker.parameters[0] if isinstance(broker.parameters, list) else broker.parameters
        address = AmqpAddress(
            host=given.host,
            port=given.port,
            user=given.credentials.username,
            password=given.credentials.password,
            vhost=given.virtual_host,
            tls=given.ssl_options is not None,
        )
        self._links = Links(address, config.enqueue_timeout, {})
        names = AmqpNames(f"{names_of(config.namespace).namespace}:native")
        self.noted = NamesOnAmqp(self._links, names.notes, config.enqueue_timeout)

    @property
    def capabilities(self) -> Capabilities:
        has_levels = (self.broker.max_priority or 0) >= max(LEVELS.values())
        levels = Quality.APPROXIMATE if has_levels else Quality.NONE
        return replace(_CAN, priority=levels, priority_across_queues=False, redelivery_bound=timedelta(seconds=5))

    def options_of(self, envelope: JobEnvelope) -> dict[str, Any]:
        return {"broker_priority": LEVELS[envelope.priority]}

    def inspect(self, resend: Resend) -> AmqpInspector | RedisInspector:
        return self._inspector(_Named(self.queues_of_jobs), on_amqp(self.read_job), resend, self.capabilities)

    def natives(self, read: ReadNative, queues: Iterable[str], resend: Resend) -> JobInspector:
        return self._inspector(queues, on_amqp(self.reader_of_natives(read), read), resend, NATIVES_CAN)

    def close(self) -> None:
        self._links.close()

    def _inspector(self, queues: Iterable[str], read: ReadMessage, resend: Resend, can: Capabilities) -> AmqpInspector:
        return AmqpInspector(
            self._links,
            Publisher(self._links, self.config.enqueue_timeout),
            names_of(self.config.namespace),
            queues=queues,
            later=_Named(lambda: map(dq_name, queues)),
            read=read,
            resend=resend,
            clock=self.config.clock,
            capabilities=can,
        )


class _Named(Iterable[str]):
    """Names that are asked for anew each time."""

    def __init__(self, find: Callable[[], Iterable[str]]) -> None:
        self._find = find

    def __iter__(self) -> Iterator[str]:
        return iter(self._find())


def existing_broker(broker: Broker, config: BackendConfig) -> ExistingBroker:
    """Return which of Dramatiq's brokers it is, by name: each works without the other's library."""
    for each in type(broker).__mro__:
        if each.__module__.startswith("dramatiq.brokers.") and each.__name__ in _KINDS:
            return _KINDS[each.__name__](broker, config)
    raise ConfigurationError(
        f"backends.{config.alias}: the broker must be a RedisBroker or a RabbitmqBroker, which have a place for jobs "
        f"that were given up; it is a {type(broker).__name__}."
    )


def queue_of(queue: str, level: JobPriority) -> str:
    """Return the native queue of a logical one, for a level in the queue's name."""
    return queue if level is JobPriority.NORMAL else f"{queue}.{level.name.lower()}"


def actor_of(name: str, level: JobPriority) -> str:
    """Return the name of the actor that runs such a job."""
    return name if level is JobPriority.NORMAL else f"{name}@{level.name.lower()}"


_KINDS: Final[Mapping[str, type[ExistingBroker]]] = {each.kind: each for each in (_OnRedis, _OnAmqp)}
_TO_RUN: Final = frozenset({JobState.WAITING, JobState.SCHEDULED})
_PARKED: Final = frozenset({JobState.ABANDONED})
_CAN: Final = Capabilities(
    priority=Quality.APPROXIMATE,
    delay=Quality.APPROXIMATE,
    bulk=BulkAtomicity.BATCH,
    listing=_PARKED,
    removal=_PARKED,
    moving=_PARKED | _TO_RUN,
    counts={JobState.ABANDONED: Quality.EXACT},  # the others are among the application's own messages
    durable=True,
    exact_loss_count=False,
)
