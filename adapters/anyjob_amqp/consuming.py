"""One connection that consumes, and its deliveries: a thread reads it, any thread acknowledges over it."""

from __future__ import annotations

import select
import threading
from collections import deque
from collections.abc import Callable, Collection
from contextlib import suppress
from hashlib import blake2b
from itertools import takewhile
from time import monotonic
from typing import Any, Final

from amqp import Message

from anyjob_amqp.deadline import Deadline
from anyjob_amqp.links import AMQP_ERRORS
from anyjob_amqp.private import socket_of
from anyjob_amqp.server import RabbitServer
from anyjob_amqp.undecodable import fault_in

__all__ = ["HEARTBEAT", "AmqpDelivery", "ConsumerLink"]

HEARTBEAT: Final = 60
"""Seconds, whatever the server proposes. RabbitMQ ends a connection that sent nothing for two heartbeats, and the last
one may be half a heartbeat old when a job takes the interpreter's lock."""


class AmqpDelivery:
    """One message that this process holds, and its receipt: a link and a tag."""

    __slots__ = ("body", "digest", "ended", "fault", "id", "link", "lock", "priority", "queue", "redelivered", "tag")

    def __init__(self, message: Message, queue: str, link: ConsumerLink) -> None:
        self.queue = queue
        """The logical queue from which it was delivered."""
        self.body = bytes(message.body or b"")  # for no body at all it is an empty text
        self.digest = blake2b(self.body, digest_size=16).digest()
        self.id = str(message.properties.get("message_id") or f"tag-{message.delivery_tag}")
        self.priority = int(message.properties.get("priority") or 0)
        self.redelivered = bool(message.delivery_info["redelivered"])
        self.fault = fault_in(message.headers)
        """Why it must not run: a part of it can't be decoded."""
        self.link = link
        self.tag = int(message.delivery_tag)
        self.ended = False
        """Whether it was acknowledged, or given back: then this process no longer deals with it."""
        self.lock = threading.Lock()
        """Locked while it is settled, and while it is given back: both at once would leave two messages of its job."""


class ConsumerLink:
    """A connection with one channel, until it is lost. Thread-safe; raises what py-amqp raises.

    The socket is waited for without the lock, and read or written with it: TLS allows no two at a time.

    The channel must hold no more messages than were asked for. With one queue its consumers' limits see to that, which
    cost the broker least: a thread that asks for more is one more consumer. With several queues the channel's limit
    does, for all of them together, so that each held message is run. Where the broker no longer has such limits,
    several queues may have delivered a few messages that are not begun.
    """

    def __init__(
        self,
        connection: Any,
        timeout: float,
        on_delivery: Callable[[AmqpDelivery], None],
        on_cancelled: Callable[[str], None],
        *,
        limits_channels: bool = True,
    ) -> None:
        self.connection = connection
        self.limits_channels = limits_channels and RabbitServer(connection.server_properties).limits_channels
        """Whether it can limit how many messages all its consumers hold together, as far as is known by now."""
        self.unanswered = False
        """Whether the broker may deliver a message by itself, because it was told of room for more."""
        self._lock = threading.RLock()
        self._timeout = timeout
        self._on_delivery = on_delivery
        self._on_cancelled = on_cancelled
        self._channel = connection.channel()
        self._socket = socket_of(connection)
        self._ticked = 0.0
        self._held: dict[int, AmqpDelivery] = {}
        """By tag, in the order of delivery."""
        self._done: deque[int] = deque()
        self._room: dict[str, float] = {}
        """How many messages the consumers of each queue may hold."""
        self._tags: dict[str, str] = {}
        """The queue of each consumer."""
        self._limit = 0
        """How many the channel may hold; 0: as many as its consumers."""
        self._limit_of_each = 0.0

    def is_cut(self) -> bool:
        """Whether either side has closed the connection, asked of the system: this process may have been paused, and
        resumed before it read that the connection was closed.
        """
        if self._socket.fileno() < 0:  # closed by this side
            return True
        poll = select.poll()
        poll.register(self._socket, _CLOSED)
        return bool(poll.poll(0))

    def wait(self, seconds: float) -> bool:
        """Wait until there is data to read; return whether there is."""
        if self._socket.fileno() < 0:
            raise OSError("the connection was closed")
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        return bool(poll.poll(seconds * 1000))

    def read(self) -> None:
        """Read the data that has arrived, without waiting for more, and send heartbeats."""
        with self._lock:
            with suppress(TimeoutError):
                while self.connection.connected:
                    self.connection.drain_events(timeout=0)
            if not self.connection.connected:  # py-amqp would connect anew
                raise OSError("the connection was closed")
            if monotonic() > self._ticked + 1:
                self._ticked = monotonic()
                self.connection.heartbeat_tick()

    def has_room(self, queues: Collection[str], count: int) -> bool:
        """Whether up to `count` messages of these queues are delivered already before any is acknowledged."""
        room = self._room
        together = len(room) > 1 and self.limits_channels
        return all(room.get(queue, 0) >= count for queue in queues) and (not together or self._limit >= count)

    def consume(self, queues: Collection[str], count: int, native: Callable[[str], str]) -> None:
        """Have up to `count` messages of these queues delivered before any is acknowledged."""
        with self._lock, self._bounded():
            if self.limits_channels and len({*queues, *self._room}) > 1:
                self._limit_together(count)
            for queue in queues:
                while (room := self._room.get(queue, 0)) < count:
                    if not self._limit:
                        self._limit_consumers(count - int(room))
                    self._add_consumer(queue, native(queue))
                    self._room[queue] = room + self._limit_of_each

    def _limit_together(self, count: int) -> None:
        """Limit how many messages all consumers hold together. Set no other limit afterwards: it ends this one."""
        if not self._room:
            self._limit_consumers(0)
        if self._limit < count:
            try:
                self._channel.basic_qos(0, count, a_global=True)
            except AMQP_ERRORS:  # a RabbitMQ may refuse, and close the connection
                self.limits_channels = False
                raise
            self._limit = count
            self.unanswered = True

    def _limit_consumers(self, count: int) -> None:
        """Limit how many messages each further consumer holds; 0 is no limit."""
        self._channel.basic_qos(0, count, a_global=False)
        self._limit_of_each = count or float("inf")
        self._limit = 0

    def _add_consumer(self, queue: str, native: str) -> None:
        def deliver(message: Message) -> None:
            delivery = AmqpDelivery(message, queue, self)
            self._held[delivery.tag] = delivery
            self._on_delivery(delivery)

        tag = f"{queue}.{len(self._tags)}"
        self._tags[tag] = queue
        self._channel.basic_consume(native, tag, nowait=True, callback=deliver, on_cancel=self._cancelled)
        self.unanswered = True

    def _cancelled(self, tag: str) -> None:
        """Note that a queue was deleted."""
        queue = self._tags.get(tag)
        if queue in self._room:
            del self._room[queue]
            self._on_cancelled(queue)

    def catch_up(self, native: Callable[[str], str]) -> None:
        """Return when all messages are read that the broker delivers without a further acknowledgement."""
        with self._lock, self._bounded():
            self.unanswered = False
            for queue in self._room:  # messages on their way to us arrive before this answer
                self._channel.queue_declare(native(queue), passive=True)

    def stop_consuming(self) -> None:
        """Have nothing more delivered; delivered messages are still held."""
        with self._lock, self._bounded():
            for tag, queue in self._tags.items():
                if queue in self._room:
                    self._channel.basic_cancel(tag)
            self._room.clear()
            self._limit = 0

    def acknowledge(self, delivery: AmqpDelivery, *, at_once: bool = True) -> None:
        """Remove a message for good: at once, with those that other threads acknowledge meanwhile, or by `flush`."""
        self._done.append(delivery.tag)
        if at_once:
            self.flush()

    @property
    def owes(self) -> bool:
        """Whether there are messages that `flush` has to acknowledge."""
        return bool(self._done)

    def flush(self) -> None:
        """Acknowledge the messages that `acknowledge` left."""
        with self._lock:
            self._acknowledge_done()

    def replace_held(self, tag: int, delivery: AmqpDelivery) -> None:
        """Note to whom a message belongs that was delivered just now."""
        with self._lock:
            self._held[tag] = delivery

    def _acknowledge_done(self) -> None:
        done: set[int] = set()
        while self._done:
            done.add(self._done.popleft())
        done &= self._held.keys()
        if not done:
            return
        self.unanswered = True
        oldest = list(takewhile(done.__contains__, self._held))
        if oldest:
            self._channel.basic_ack(oldest[-1], multiple=True)
        for tag in done.difference(oldest):
            self._channel.basic_ack(tag)
        for tag in done:
            del self._held[tag]

    def reject(self, delivery: AmqpDelivery) -> None:
        """Give a message back to its place; it counts as redelivered."""
        with self._lock:
            if self._held.pop(delivery.tag, None) is not None:
                self._channel.basic_reject(delivery.tag, requeue=True)

    def close(self) -> None:
        """Close the connection; held messages are the broker's again."""
        with self._lock, suppress(*AMQP_ERRORS), self._bounded():
            self.connection.close()
        self.drop()

    def drop(self) -> None:
        """Close it without a handshake: the other end does not answer."""
        with self._lock:
            self.connection.collect()

    def _bounded(self) -> _Bound:
        return _Bound(self.connection, self._timeout)


class _Bound:
    """Bounds the time of the calls over a connection."""

    def __init__(self, connection: Any, timeout: float) -> None:
        self._connection = connection
        self._timeout = timeout

    def __enter__(self) -> None:
        self._connection.deadline = Deadline(self._timeout)

    def __exit__(self, *_: object) -> None:
        self._connection.deadline = None


# RDHUP, which Linux has, also where data is left to be read before the end.
_CLOSED: Final = getattr(select, "POLLRDHUP", 0) | select.POLLHUP | select.POLLERR
