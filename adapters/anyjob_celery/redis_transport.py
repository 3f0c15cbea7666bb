"""kombu's Redis transport without its window of loss.

kombu pops a message by BRPOP and then writes down that it has it: what a worker popped when it was killed is gone. Here
a script takes a message and notes its holder in one step. A script can't wait, so the channel takes until there is
nothing, and then waits on a token that every send leaves; both go through the hooks by which kombu sends BRPOP and
reads its answer.

Celery's worker ends when Redis refuses a command: for kombu that is no trouble of the connection. Here it is.
"""

from __future__ import annotations

import logging
from queue import Empty
from threading import Event
from time import monotonic
from typing import Any, Final

from kombu.transport import redis, virtual
from msgspec import Struct
from redis.exceptions import NoScriptError, RedisError, ResponseError

from anyjob.extend import JobLogger, log_event
from anyjob_celery.frame import ForeignMessageError
from anyjob_celery.private_kombu import ChannelParts, QoSParts
from anyjob_celery.redis_messages import HeldMessages
from anyjob_celery.redis_wire import read_item

__all__ = ["JobTransport", "TransportPart"]

logger = JobLogger("anyjob.worker")


class TransportPart(Struct, frozen=True):
    """What the application tells its channels, as the transport option `anyjob`."""

    held: HeldMessages
    stop: Event

    def __repr__(self) -> str:
        return type(self).__qualname__

    __json__ = __repr__
    """Its form among the settings that `inspect stats` and Flower show."""


class _Taken(Struct, frozen=True):
    tag: str
    queue: str
    item: bytes


class JobMessage(virtual.Message):
    """A message that was taken, or anything else (an event, a control command) as kombu has it.

    Whatever the item is, it makes a message: one that can't be read has neither headers nor body. What says that it is
    compressed comes as an error: kombu would unpack it, to any size, before anybody could look.
    """

    item: bytes | None = None
    """What the list held, if a script took it."""

    def __init__(self, payload: Any, channel: Any = None, **options: Any) -> None:
        if isinstance(payload, _Taken):
            self.item = payload.item
            payload = _as_kombu_has_it(payload)
        if (payload.get("headers") or {}).get("compression"):
            why = ForeignMessageError("it is compressed, which no message of anyjob is")
            self.errors = [(ForeignMessageError, why, None)]
        super().__init__(payload, channel=channel, **options)


def _as_kombu_has_it(taken: _Taken) -> dict[str, Any]:
    info: dict[str, Any] = {"exchange": "", "routing_key": taken.queue}
    properties: dict[str, Any] = {"delivery_tag": taken.tag, "delivery_info": info}
    try:
        wire = read_item(taken.item)
        body = wire.body_bytes()
    except ForeignMessageError:
        return {"properties": properties, "headers": {}, "body": b""}
    info["redelivered"] = wire.redelivered
    return {
        "properties": {**wire.properties, **properties, "body_encoding": None},  # it is decoded
        "headers": dict(wire.headers),
        "body": body,
        "content-type": wire.content_type,
        "content-encoding": wire.content_encoding,
    }


class JobQoS(QoSParts):
    """Counts what is held; `HeldMessages` holds it, so that a job outlives the channel its message came over."""

    def append(self, message: Any, delivery_tag: str) -> None:
        virtual.QoS.append(self, message, delivery_tag)

    def ack(self, delivery_tag: str) -> None:
        self.channel.anyjob.held.acknowledge(delivery_tag)
        virtual.QoS.ack(self, delivery_tag)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        part = self.channel.anyjob
        if requeue:
            part.held.give_back([delivery_tag], lost=not part.stop.is_set())
        else:
            part.held.acknowledge(delivery_tag)
        virtual.QoS.ack(self, delivery_tag)

    def restore_unacked(self, client: Any = None) -> None:  # noqa: ARG002
        part = self.channel.anyjob
        if part.stop.is_set():  # else the connection was lost, and running jobs are still ours
            part.held.give_back_all()
        self.forget_delivered()

    def restore_visible(self, *_: Any, **__: Any) -> None:
        """Do nothing: `HeldMessages.tend` does it."""


class JobChannel(ChannelParts):
    """Takes by script."""

    QoS = JobQoS
    Message = JobMessage
    from_transport_options = (*redis.Channel.from_transport_options, "anyjob")
    anyjob: TransportPart

    _is_plain = False
    _is_empty = False
    _lacks_script = False
    _refused = False
    _pause_until = 0.0

    def basic_consume(self, queue: str, no_ack: bool = False, *args: Any, **options: Any) -> Any:
        self._is_plain = self._is_plain or no_ack  # replies to `celery inspect`: nobody acknowledges them
        return super().basic_consume(queue, no_ack, *args, **options)

    def bind(self, exchange: str, *args: Any) -> None:
        try:
            super().bind(exchange, *args)
        except ResponseError as error:  # nothing but the replies to control commands needs it
            log_event(logger, logging.WARNING, "not bound", exchange=exchange, reason=error)

    def size_of(self, queue: str) -> int:
        """Count without a transaction, which a full server refuses; what is no list has no messages."""
        with self.conn_or_acquire() as client, client.pipeline(transaction=False) as pipe:
            for each in self.lists_of(queue):
                pipe.llen(each)
            return sum(size for size in pipe.execute(raise_on_error=False) if isinstance(size, int))

    def start_taking(self, timeout: float) -> None:
        if self._is_plain:
            super().start_taking(timeout)
            return
        queues = self.next_queues()
        if not queues or monotonic() < self._pause_until:
            return
        held = self.anyjob.held
        if self._is_empty:
            command = held.messages.wait_command(queues, timeout)
        else:
            command = held.messages.take_command(held.next_tag, queues, whole=self._lacks_script)
        self.send_to_wait(command)

    def read_taken(self, **options: Any) -> Any:
        if self._is_plain:
            return super().read_taken(**options)
        waited, self._is_empty = self._is_empty, False
        try:
            answer = self._answer(**options)
        finally:
            self.end_wait()
        self._refused = self._refused and not (waited or answer)
        if waited or not answer:
            self._is_empty = not waited
            raise Empty
        queue, item = answer[0].decode(), answer[1]
        held = self.anyjob.held
        tag = held.next_tag
        held.add(tag)
        self.end_turn(queue)
        self.deliver(_Taken(tag, queue, item), queue)
        return True

    def _answer(self, **options: Any) -> Any:
        """Return what Redis answers; raise Empty if it refuses, and the errors of a lost connection."""
        connection = self.client.connection
        try:
            answer = self.client.parse_response(connection, "EVALSHA", **options)
        except NoScriptError:
            self._lacks_script = True
            raise Empty from None
        except ResponseError as error:
            connection.disconnect()  # another server may answer to that name by now
            self._pause_until = monotonic() + _PAUSE
            if not self._refused:
                logger.warning("takes nothing, and tries again: %s", error)
            self._refused = True
            raise Empty from None
        except self.connection_errors:
            connection.disconnect()
            raise
        self._lacks_script = False
        return answer


class JobTransport(redis.Transport):
    """Celery's `broker_transport` for our messages."""

    Channel = JobChannel
    connection_errors = (*redis.Transport.connection_errors, RedisError)


_PAUSE: Final = 1.0
"""Seconds after which a server that refuses is asked again."""
