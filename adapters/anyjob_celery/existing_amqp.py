"""An application of the user's own on RabbitMQ: takes messages out of its queues from outside."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any, Final

from amqp import Message

from anyjob.extend import BackendConfig, Capabilities, JobEnvelope, JobState, Quality, StoredJob
from anyjob_amqp import (
    LEVELS,
    NATIVES_CAN,
    AmqpAddress,
    AmqpInspector,
    AmqpNames,
    Links,
    MoveJournal,
    NotedNames,
    Publisher,
    ReadMessage,
    body_of,
    fault_in,
)
from anyjob_celery.existing_queues import AppQueues, ReadCarried, read_jobs
from anyjob_celery.native_messages import CarriedMessage
from anyjob_celery.overtaking import most_priority
from anyjob_celery.server import risks_of_existing
from anyjob_celery.settings import Settings

__all__ = ["AppOnAmqp"]


class AppOnAmqp:
    """The queues of an application on RabbitMQ: their capabilities, risks and inspectors."""

    def __init__(self, config: BackendConfig, conf: Settings, queues: AppQueues, connection: Any) -> None:
        self._config = config
        self._conf = conf
        self._queues = queues
        self._names = AmqpNames(config.namespace)
        self._links = Links(
            _address_of(connection), config.enqueue_timeout, {"ssl": connection.ssl} if connection.ssl else {}
        )
        self._publisher = Publisher(self._links, config.enqueue_timeout)
        # A name of its own: `celery+amqp://` under this namespace is another backend.
        native = AmqpNames(f"{config.namespace}:native")
        self.marks = MoveJournal(self._links, self._publisher, native)
        queues.noted = NotedNames(self._links, native.notes, config.enqueue_timeout)
        self.levels = LEVELS
        self.longest_eta = timedelta.max
        self.close = self._links.close

    def capabilities(self, can: Capabilities) -> Capabilities:
        """Return `can` with this transport's capabilities."""
        has_levels = min(map(most_priority, self._queues.declared.values()), default=0) >= max(LEVELS.values())
        priority = Quality.EXACT if self._conf["worker_prefetch_multiplier"] == 1 else Quality.APPROXIMATE
        return replace(
            can,
            priority=priority if has_levels else Quality.NONE,
            priority_across_queues=False,
            redelivery_bound=timedelta(seconds=6),
        )

    def risks(self) -> Iterable[str]:
        """Return the server's risks. Raises `EnqueueError`."""
        return risks_of_existing(self._links, self._queues.declared)

    def inspect(self, can: Capabilities, resend: Callable[[JobEnvelope], None]) -> AmqpInspector:
        """Return the inspector of our jobs in the application's queues."""
        read = self._reader(lambda: self._queues.seen, read_jobs(self._config.clock))
        return self._inspector(self._queues, read, resend, can)

    def native_inspector(
        self, queues: Iterable[str], read: ReadCarried, resend: Callable[[JobEnvelope], None]
    ) -> AmqpInspector:
        """Return the inspector of the messages that `read` shows in these queues."""
        return self._inspector(queues, self._reader(lambda: queues, read), resend, NATIVES_CAN)

    def _inspector(
        self, queues: Iterable[str], read: ReadMessage, resend: Callable[[JobEnvelope], None], can: Capabilities
    ) -> AmqpInspector:
        return AmqpInspector(
            self._links,
            self._publisher,
            self._names,
            queues=queues,
            later=_Delayed(self._queues),
            read=read,
            resend=resend,
            clock=self._config.clock,
            capabilities=can,
        )

    def _reader(self, queues: Callable[[], Iterable[str]], read: ReadCarried) -> ReadMessage:
        def read_message(message: Message, _state: JobState, queue: str) -> StoredJob | None:
            if queue not in _DELAYED:
                return read(_carried_in(message, queue))
            wanted = list(queues())
            goal = self._goal_of(message, wanted)
            return read(_carried_in(message, goal)) if goal in wanted else None

        return read_message

    def _goal_of(self, message: Message, wanted: Iterable[str]) -> str:
        """Return the target queue of a delayed message; "" if that is neither one of these nor a declared one.

        Celery binds a queue by `#.` and its key, so that `mail` gets the messages of `x.mail` as well; here they are
        for `x.mail` alone.
        """
        key = _DELAY.sub("", str((message.delivery_info or {}).get("routing_key", "")), count=1)
        declared = self._queues.declared
        bound = {name: _keys_of(declared[name]) if name in declared else [name] for name in {*declared, *wanted}}
        exact = [name for name in sorted(bound) if key in bound[name]]
        return next(iter(exact or [name for name in sorted(bound) if _fits(key, bound[name])]), "")


class _Delayed:
    """The queues of kombu's native delayed delivery, which all applications of a vhost share; none if this application
    doesn't use them.
    """

    def __init__(self, queues: AppQueues) -> None:
        self._queues = queues

    def __iter__(self) -> Iterator[str]:
        arguments = [queue.queue_arguments or {} for queue in self._queues.declared.values()]
        return iter(_DELAYED if any(each.get("x-queue-type") == "quorum" for each in arguments) else ())


def _carried_in(message: Message, queue: str) -> CarriedMessage:
    told = message.properties
    headers = message.headers
    return CarriedMessage(
        queue=queue,
        other_id=str(told.get("message_id") or f"unnamed-{message.delivery_tag}"),
        headers=headers if isinstance(headers, Mapping) else {},
        body=body_of(message),
        content_type=told.get("content_type"),
        content_encoding=told.get("content_encoding"),
        expiration=told.get("expiration"),
        fault=fault_in(headers),
    )


def _keys_of(queue: Any) -> Sequence[str]:
    if queue.exchange:
        return [queue.routing_key]
    return [each.routing_key for each in queue.bindings or ()]


def _fits(key: str, patterns: Sequence[str]) -> bool:
    return any(_matches(["#", *pattern.split(".")], key.split(".")) for pattern in patterns)


def _matches(pattern: Sequence[str], words: Sequence[str]) -> bool:
    """Whether a topic exchange would match the words with the pattern."""
    if not pattern:
        return not words
    if pattern[0] == "#":
        return any(_matches(pattern[1:], words[first:]) for first in range(len(words) + 1))
    return bool(words) and pattern[0] in ("*", words[0]) and _matches(pattern[1:], words[1:])


def _address_of(connection: Any) -> AmqpAddress:
    return AmqpAddress(
        host=connection.hostname or "localhost",
        port=connection.port or connection.transport.default_port,
        user=connection.userid or "guest",
        password=connection.password or "guest",
        vhost=connection.virtual_host or "/",
        tls=bool(connection.ssl),
    )


_DELAYED: Final = tuple(f"celery_delayed_{level}" for level in range(28))
_DELAY: Final = re.compile(r"^(?:[01]\.){28}")
