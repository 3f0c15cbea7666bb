"""A worker process's side of RabbitMQ: the messages that were delivered and are not begun, and those whose jobs run."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from functools import partial
from time import monotonic
from typing import Any, Final

from amqp.exceptions import NotFound

from anyjob.extend import EnqueueError, JobLogger, describe_error, in_each_process, log_event
from anyjob_amqp.consuming import HEARTBEAT, AmqpDelivery, ConsumerLink
from anyjob_amqp.deadline import Deadline
from anyjob_amqp.deliveries import KnownDeliveries
from anyjob_amqp.links import AMQP_ERRORS, Links

__all__ = ["AmqpConsumer"]

logger = JobLogger("anyjob.worker")


class AmqpConsumer:
    """Has messages delivered for a worker, as many as it has begun or asks for, over one connection with a thread.

    The next `take` makes a lost connection anew; the messages that the lost one held are the broker's again.
    Thread-safe; a child of a fork begins with no message. `declare` makes a queue, `publish_again` sends messages anew
    as they were, and `wake` is called when a message was delivered for which no thread waits.
    """

    def __init__(
        self,
        links: Links,
        timeout: float,
        *,
        native: Callable[[str], str],
        declare: Callable[[str], None],
        publish_again: Callable[[Sequence[AmqpDelivery]], None],
        wake: Callable[[], None],
    ) -> None:
        self._links = links
        self._timeout = timeout
        self._native = native
        self._declare = declare
        self._publish_again = publish_again
        self._wake = wake
        in_each_process(self._begin)

    def _begin(self) -> None:
        self._link: ConsumerLink | None = None
        self._opening = threading.Lock()
        self._changed = threading.Condition()
        self._arrived: list[AmqpDelivery] = []
        self._running: set[AmqpDelivery] = set()
        self._asked = 0
        self._waiting = 0
        self._asked_at = 0.0
        self._owed_at = 0.0
        self._declared: set[str] = set()
        self._known = KnownDeliveries()
        self._limits_channels = True
        self._tried: tuple[float, EnqueueError] | None = None

    def take(self, queues: Sequence[str], count: int, *, patience: float = 0.0) -> Sequence[AmqpDelivery]:
        """Return up to `count` messages of `queues`, the highest priority first. If the queues have any, wait for them.

        If they have none, wait for some for `patience` seconds. Raises `EnqueueError`.
        """
        self._flush()
        if found := self._pop(queues, count):
            return found
        with self._changed:
            self._asked += count
            wanted = self._asked + len(self._running)
        try:
            link = self._consuming(queues, wanted)
            return self._await(queues, count, link, patience)
        finally:
            with self._changed:
                self._asked -= count

    def holds(self, delivery: AmqpDelivery) -> bool:
        """Whether this process still holds a message; if not, the worker that gets it next runs its job."""
        link = delivery.link
        while not self._holds(link):
            if self._known.leave(delivery, link):
                with self._changed:
                    self._running.discard(delivery)
                return False
            link = delivery.link  # it was redelivered just now
        return True

    def is_lost(self, delivery: AmqpDelivery) -> bool:
        """Whether the connection that delivered a message is lost, and the message was not redelivered to here."""
        return not self._holds(delivery.link)

    def acknowledge(self, delivery: AmqpDelivery, *, at_once: bool = True) -> bool:
        """Remove a message for good, because its outcome was settled; return whether it was still held.

        If not `at_once`, the next `take` acknowledges it, and then the broker delivers another message: none to a
        worker that stops. If no thread takes any more, nothing more is delivered, and it is acknowledged within a
        second.
        """
        self._known.settle(delivery)
        self._owed_at = monotonic()
        return self._end(delivery, partial(delivery.link.acknowledge, at_once=at_once))

    def give_back(self, deliveries: Collection[AmqpDelivery]) -> None:
        """Give messages back, uncharged.

        A rejected message keeps its place, but counts as redelivered, which is a loss for the worker that gets it next.
        So it is sent anew, behind the others of its level; only if that fails is it rejected.
        """
        held = [each for each in deliveries if self.holds(each)]
        try:
            self._publish_again(held)
        except EnqueueError as error:
            log_event(logger, logging.WARNING, "gives back what counts as lost", reason=error)
            end = ConsumerLink.reject
        else:
            end = ConsumerLink.acknowledge
        for each in held:
            if self._known.leave(each, each.link):
                self._end(each, lambda delivery: end(delivery.link, delivery))

    def stop(self) -> None:
        """Have nothing more delivered; `close` gives back the messages that are not begun."""
        with self._opening, suppress(*AMQP_ERRORS):
            if self._link is not None:
                self._link.stop_consuming()

    def close(self) -> None:
        """Give back the messages that are not begun, and close the connection. A later `take` opens another."""
        with self._opening:
            link = self._link
            if link is None:
                return
            with suppress(*AMQP_ERRORS):
                link.stop_consuming()
                link.flush()
            self.give_back(self._all_arrived())
            self._forget(link)
        link.close()

    def _flush(self) -> None:
        link = self._link
        if link is not None and link.owes:
            try:
                link.flush()
            except AMQP_ERRORS as error:
                self._lose(link, error)

    def _pop(self, queues: Sequence[str], count: int) -> Sequence[AmqpDelivery]:
        with self._changed:
            self._asked_at = monotonic()
            found = sorted((each for each in self._arrived if each.queue in queues), key=_by_level)[:count]
            for each in found:
                self._arrived.remove(each)
                self._running.add(each)
            return found

    def _await(self, queues: Sequence[str], count: int, link: ConsumerLink, patience: float) -> Sequence[AmqpDelivery]:
        until = monotonic() + max(patience, _SOON)
        while (link.unanswered or patience) and (left := until - monotonic()) > 0:
            if found := self._pop(queues, count):
                return found
            with self._changed:
                if link is not self._link:
                    return ()
                if not any(each.queue in queues for each in self._arrived):
                    self._waiting += 1
                    self._changed.wait(left)
                    self._waiting -= 1
        if link.unanswered:
            try:
                link.catch_up(self._native)
            except AMQP_ERRORS as error:
                self._lose(link, error)
        return self._pop(queues, count)

    def _consuming(self, queues: Sequence[str], count: int) -> ConsumerLink:
        """Return the link, over which `queues` are consumed. Raises `EnqueueError`."""
        link = self._link
        if link is not None and link.has_room(queues, count):
            return link
        with self._opening:
            link = self._link or self._open()
            try:
                for queue in queues:
                    if queue not in self._declared:
                        self._declare(queue)
                        self._declared.add(queue)
                link.consume(queues, count, self._native)
            except AMQP_ERRORS as error:
                self._lose(link, error)
                raise _away(error) from error
            return link

    def _open(self) -> ConsumerLink:
        if self._tried is not None and monotonic() < self._tried[0] + _BETWEEN_TRIES:
            raise EnqueueError(str(self._tried[1])) from self._tried[1]  # each thread of a worker asks
        try:
            connection = self._links.connect(Deadline(self._timeout), heartbeat=HEARTBEAT, name="anyjob worker")
            connection.deadline = None
            link = ConsumerLink(
                *(connection, self._timeout, self._on_delivery, self._on_cancelled),
                limits_channels=self._limits_channels,
            )
        except AMQP_ERRORS as error:
            away = _away(error)
            self._tried = monotonic(), away
            raise away from error
        self._tried = None
        self._declared.clear()
        self._link = link
        # A daemon: a process that ends closes its connections.
        threading.Thread(target=self._look_after, args=(link,), name="anyjob-rabbitmq", daemon=True).start()
        return link

    def _look_after(self, link: ConsumerLink) -> None:
        while self._link is link:
            try:
                link.wait(_LONGEST_WAIT)
                link.read()
            except AMQP_ERRORS as error:
                self._lose(link, error)
                return
            self._let_go_of_unclaimed(link)

    def _let_go_of_unclaimed(self, link: ConsumerLink) -> None:
        """Have nothing more delivered, and give back delivered messages, if no thread asks: the worker stops."""
        now = monotonic()
        owes = link.owes and now > max(self._asked_at, self._owed_at) + _SOON
        if not owes and (not self._arrived or now < self._asked_at + _UNCLAIMED):
            return
        with self._opening:
            if self._link is not link:
                return
            try:
                link.stop_consuming()
                link.flush()
            except AMQP_ERRORS as error:
                self._lose(link, error)
            self.give_back(self._all_arrived())

    def _all_arrived(self) -> Collection[AmqpDelivery]:
        with self._changed:
            arrived, self._arrived = self._arrived, []
        return arrived

    def _on_delivery(self, delivery: AmqpDelivery) -> None:
        """Hand out delivered messages; the link that reads is locked."""
        had = self._known.recognise(delivery) if delivery.redelivered else None
        if had is delivery:
            log_event(
                logger, logging.INFO, "acknowledged", id=delivery.id, reason="settled before its connection was lost"
            )
            self._end(delivery, delivery.link.acknowledge)
            return
        if had is not None:
            log_event(logger, logging.INFO, "held again", id=delivery.id, reason="its job still runs here")
            delivery.link.replace_held(delivery.tag, had)
            return
        self._known.add(delivery)
        with self._changed:
            self._arrived.append(delivery)
            waited_for = len(self._arrived) <= self._waiting
            self._changed.notify()
        if not waited_for:
            self._wake()

    def _on_cancelled(self, queue: str) -> None:
        """Note that a queue was deleted: the next `take` declares and consumes it again."""
        log_event(logger, logging.WARNING, "declared again", queue=queue, reason="somebody deleted it")
        self._declared.discard(queue)
        self._wake()

    def _holds(self, link: ConsumerLink) -> bool:
        return link is self._link and not link.is_cut()

    def _end(self, delivery: AmqpDelivery, end: Callable[[AmqpDelivery], None]) -> bool:
        with self._changed:
            self._running.discard(delivery)
        link = delivery.link
        if delivery.ended or not self._holds(link):
            return False
        delivery.ended = True
        try:
            end(delivery)
        except AMQP_ERRORS as error:
            self._lose(link, error)
            return False
        return True

    def _lose(self, link: ConsumerLink, error: Exception) -> None:
        self._limits_channels = link.limits_channels  # the server may have refused that just now
        if self._forget(link):
            logger.warning("lost the connection to RabbitMQ: %s", describe_error(error))
        link.drop()
        self._wake()

    def _forget(self, link: ConsumerLink) -> bool:
        with self._changed:
            ours = self._link is link
            if ours:
                self._link = None
                for each in self._arrived:
                    self._known.leave(each, link)
                self._arrived.clear()
                self._changed.notify_all()
        return ours


def _by_level(delivery: AmqpDelivery) -> int:
    return -delivery.priority


def _away(error: Any) -> EnqueueError:
    what = "has not such a queue" if isinstance(error, NotFound) else "can't be reached, or closed the connection"
    return EnqueueError(f"RabbitMQ {what}: {describe_error(error)}")


_SOON: Final = 0.05
"""Seconds in which the broker usually delivers a message that it has room for; after that, the broker is asked."""
_LONGEST_WAIT: Final = 1.0
_UNCLAIMED: Final = 5.0
_BETWEEN_TRIES: Final = 0.5
