"""One worker process's side of RabbitMQ, in the terms of Dramatiq's messages."""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set
from typing import Any, Final

from dramatiq import Message

from anyjob_amqp import AmqpConsumer, AmqpDelivery
from anyjob_dramatiq.frame import Delivery, decode, faulty
from anyjob_dramatiq.intake import JobSource

__all__ = ["AmqpSource"]


class AmqpSource(JobSource):
    """Takes delivered messages of one broker's queues; the receipt of a message is its `AmqpDelivery`.

    `forbidden` are the options that would make a message do anything other than to run its job.
    """

    def __init__(self, consumer: AmqpConsumer, forbidden: Callable[[], Set[str]]) -> None:
        self._consumer = consumer
        self._forbidden = forbidden
        self._held: dict[AmqpDelivery, Delivery] = {}

    def open(self, threads: int, find_queue: Callable[[str], None]) -> None:
        """Ignore both: RabbitMQ tells of no new queues, and `take` is told how many messages are wanted."""

    def take(self, queues: Sequence[str], count: int) -> Sequence[Message[Any]]:
        return [self._read(each) for each in self._consumer.take(queues, count, patience=_LONGEST_WAIT)]

    def _read(self, place: AmqpDelivery) -> Message[Any]:
        if place.fault is not None:
            message = faulty(place.body, place.fault, queue=place.queue, native_id=place.id, place=place)
        else:
            message = decode(
                place.body,
                queue=place.queue,
                forbidden=self._forbidden(),
                native_id=place.id,
                place=place,
                redelivered=place.redelivered,
            )
        self._held[place] = message.args[0]
        return message

    def stop_taking(self) -> None:
        self._consumer.stop()

    def holds(self, delivery: Delivery) -> bool:
        return self._consumer.holds(delivery.place)

    def acknowledge(self, delivery: Delivery) -> bool:
        self._held.pop(delivery.place, None)
        held = self._consumer.acknowledge(delivery.place)
        delivery.released |= held
        return held

    def give_back(self, *deliveries: Delivery) -> None:
        for delivery in deliveries:
            with delivery.lock:
                if delivery.settled:
                    self.acknowledge(delivery)
                elif self._held.pop(delivery.place, None) is not None:
                    delivery.released = True
                    self._consumer.give_back([delivery.place])

    def give_back_all(self) -> Sequence[str]:
        left = [each for each in self._held.values() if not each.released]
        self.give_back(*left)
        return [each.id for each in left if not each.settled]

    def close(self) -> None:
        self._consumer.close()


_LONGEST_WAIT: Final = 0.1
