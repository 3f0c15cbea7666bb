"""One worker process's side of RabbitMQ: one connection, looked after by the leading consumer, to take all over."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import takewhile
from typing import Any, Final

from dramatiq import Message
from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import AMQPError

from anyjob.base.error_text import describe_error
from anyjob.base.errors import EnqueueError
from anyjob.base.log import JobLogger, log_event
from anyjob_amqp import AmqpAddress, fault_in
from anyjob_dramatiq.amqp_again import KnownDeliveries
from anyjob_dramatiq.amqp_parameters import parameters_of
from anyjob_dramatiq.frame import Delivery, decode, faulty
from anyjob_dramatiq.intake import JobSource
from anyjob_dramatiq.private_pika import is_cut, open_connection

__all__ = ["AmqpPlace", "AmqpSource"]

logger = JobLogger("anyjob.worker")


@dataclass(frozen=True, slots=True)
class AmqpPlace:
    """Where a message was taken from, and what it was: to be acknowledged there, or published again."""

    channel: BlockingChannel
    tag: int
    queue: str
    body: bytes
    priority: int


class AmqpSource(JobSource):
    """Takes from the queues of one broker, over one channel whose limit is the number of threads.

    The limit of one queue is its consumer's, which costs the broker less; that of several is the channel's, for all of
    them together, so that what is held runs. Where the broker has no such limits any more, a worker of several queues
    may hold a few that it has not begun.

    A connection that is lost is made anew; what it held is the broker's again.
    """

    def __init__(
        self,
        address: AmqpAddress,
        timeout: float,
        *,
        native: Callable[[str], str],
        declare: Callable[[str], None],
        publish_again: Callable[[AmqpPlace, Delivery], None],
        forbidden: Callable[[], Set[str]],
    ) -> None:
        self._parameters = parameters_of(address, timeout)
        self._native = native
        self._declare = declare
        self._publish_again = publish_again
        self._forbidden = forbidden
        self._arrived: deque[Message[Any]] = deque()
        self._held: dict[int, Delivery] = {}
        """By tag, in their order; to be changed by the thread that looks after the connection, and by no other."""
        self._done: deque[AmqpPlace] = deque()
        """What is to be acknowledged; any thread adds to it, also what a channel before this one delivered."""
        self._known = KnownDeliveries()
        self._consumed: dict[str, str] = {}
        self._channel: Any = None  # pika is untyped: a BlockingChannel, or None
        self._limits_channels = True

    def open(self, threads: int, find_queue: Callable[[str], None]) -> None:  # noqa: ARG002  # nothing tells of queues
        self._threads = threads

    def take(self, queues: Sequence[str], count: int) -> Sequence[Message[Any]]:
        try:
            channel = self._connected()
            for queue in queues:
                if queue not in self._consumed:
                    self._consume(channel, queue)
            if not self._arrived:
                channel.connection.process_data_events(_LONGEST_WAIT)
        except (AMQPError, OSError) as error:
            self._drop()
            raise EnqueueError(
                f"RabbitMQ can't be reached, or closed the connection: {describe_error(error)}"
            ) from error
        return [self._arrived.popleft() for _ in range(min(count, len(self._arrived)))]

    def rest(self, wait: Callable[[], None]) -> None:
        """Answer heartbeats, and pass on acknowledgements."""
        if self._channel is None:
            wait()
            return
        try:
            self._channel.connection.process_data_events(_LONGEST_WAIT)
        except (AMQPError, OSError) as error:
            logger.warning("lost the connection to RabbitMQ: %r", error)
            self._drop()

    def stop_taking(self) -> None:
        channel = self._channel
        if channel is not None:
            with suppress(AMQPError):
                channel.connection.add_callback_threadsafe(partial(self._cancel, channel))

    def holds(self, delivery: Delivery) -> bool:
        place = delivery.place
        while not self._holds(place):
            if self._known.leave(delivery, place):  # who asks does so to settle it, and won't now
                return False
            place = delivery.place  # it came again just now
        return True

    def _holds(self, place: AmqpPlace) -> bool:
        channel = place.channel
        return channel is self._channel and bool(channel.is_open) and not is_cut(channel.connection)

    def acknowledge(self, delivery: Delivery) -> bool:
        self._known.settle(delivery)
        return self._acknowledge(delivery)

    def _acknowledge(self, delivery: Delivery) -> bool:
        if not self._holds(delivery.place):
            return False
        delivery.released = True
        self._done.append(delivery.place)
        return self._call(self._acknowledge_done, delivery.place)

    def give_back(self, *deliveries: Delivery) -> None:
        """Reject what was not begun: it keeps its place, though it counts as delivered. Publish anew what was begun."""
        for delivery in deliveries:
            with delivery.lock:
                self._give_back(delivery)

    def _give_back(self, delivery: Delivery) -> None:
        if delivery.settled:
            self.acknowledge(delivery)
        elif self.holds(delivery) and delivery.begun:
            self._publish_again(delivery.place, delivery)
            self._known.leave(delivery, delivery.place)
            self._acknowledge(delivery)
        elif self.holds(delivery):
            delivery.released = True
            self._known.leave(delivery, delivery.place)
            self._call(self._reject, delivery.place)

    def give_back_all(self) -> Sequence[str]:
        left = [each for each in self._held.values() if not each.released]
        self.give_back(*left)
        return [each.id for each in left if not each.settled]

    def close(self) -> None:
        if self._channel is None:
            return
        done = threading.Event()
        with suppress(AMQPError, OSError):
            self._channel.connection.add_callback_threadsafe(done.set)
            if not done.wait(_LONGEST_WAIT * 3):  # nobody looks after the connection any more
                self._channel.connection.process_data_events(0)
                self._drop()

    def _acknowledge_done(self, place: AmqpPlace) -> None:
        """Acknowledge all that is done, in as few frames as will do: each is a write of its own."""
        if place.channel is not self._channel or not place.channel.is_open:
            return
        done: set[int] = set()
        while self._done:
            each = self._done.popleft()
            if each.channel is self._channel:  # else its tag is somebody else's here
                done.add(each.tag)
        done &= self._held.keys()
        oldest = list(takewhile(done.__contains__, self._held))
        if oldest:
            place.channel.basic_ack(oldest[-1], multiple=True)
        for tag in done.difference(oldest):
            place.channel.basic_ack(tag)
        for tag in done:
            del self._held[tag]

    def _reject(self, place: AmqpPlace) -> None:
        if place.channel.is_open and self._held.pop(place.tag, None) is not None:
            place.channel.basic_nack(place.tag, requeue=True)

    def _call(self, action: Callable[[AmqpPlace], None], place: AmqpPlace) -> bool:
        """Have the thread that looks after the connection do it, soon."""
        try:
            place.channel.connection.add_callback_threadsafe(partial(action, place))
        except AMQPError:
            return False
        return True

    def _connected(self) -> BlockingChannel:
        if self._channel is None or not self._channel.is_open:
            self._drop()
            self._channel = self._open_channel()
        return self._channel

    def _open_channel(self) -> BlockingChannel:
        channel = open_connection(self._parameters).channel()
        channel.basic_qos(prefetch_count=self._threads)
        channel.add_on_cancel_callback(self._on_cancelled)
        return channel

    def _consume(self, channel: BlockingChannel, queue: str) -> None:
        self._declare(queue)
        if len(self._consumed) == 1 and self._limits_channels:
            try:
                channel.basic_qos(prefetch_count=self._threads, global_qos=True)
            except AMQPError:  # a RabbitMQ may refuse, and close what we asked over
                self._limits_channels = False
                raise
        self._consumed[queue] = channel.basic_consume(self._native(queue), partial(self._on_message, queue))

    def _on_message(self, queue: str, channel: BlockingChannel, method: Any, properties: Any, body: bytes) -> None:
        place = AmqpPlace(channel, method.delivery_tag, queue, body, properties.priority or 0)
        native_id = str(properties.message_id or f"tag-{method.delivery_tag}")
        fault = fault_in(properties.headers)
        if fault is not None:
            message = faulty(body, fault, queue=queue, native_id=native_id, place=place)
        else:
            message = decode(
                body,
                queue=queue,
                forbidden=self._forbidden(),
                native_id=native_id,
                place=place,
                redelivered=method.redelivered,
            )
        delivery: Delivery = message.args[0]
        self._held[method.delivery_tag] = delivery
        known = self._known.recognise(delivery) if method.redelivered else None
        if known is delivery:
            log_event(
                logger, logging.INFO, "acknowledged", id=delivery.id, reason="settled before its connection was lost"
            )
            self._acknowledge(delivery)
            return
        if known is not None:
            log_event(logger, logging.INFO, "held again", id=delivery.id, reason="its job still runs here")
            self._held[method.delivery_tag] = known
            return
        self._known.add(delivery)
        self._arrived.append(message)

    def _cancel(self, channel: BlockingChannel) -> None:
        while self._consumed:
            _, tag = self._consumed.popitem()
            channel.basic_cancel(tag)

    def _on_cancelled(self, frame: Any) -> None:
        """Note that somebody deleted a queue: it is declared and consumed again."""
        tag = frame.method.consumer_tag
        for queue in [queue for queue, each in self._consumed.items() if each == tag]:
            log_event(logger, logging.WARNING, "declared again", queue=queue, reason="somebody deleted it")
            del self._consumed[queue]

    def _drop(self) -> None:
        channel, self._channel = self._channel, None
        for each in (self._consumed, self._arrived, self._held, self._done):
            each.clear()
        if channel is not None and channel.connection.is_open:
            with suppress(AMQPError, OSError):
                channel.connection.close()


_LONGEST_WAIT: Final = 0.1
