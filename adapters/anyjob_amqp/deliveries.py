"""Recognises messages that are redelivered to the process that had them.

A job that keeps the interpreter's lock leaves no time for heartbeats: RabbitMQ closes the connection under it, and
delivers the message again, often to this very process, in which its job still runs, or has just ended. It must not run
beside itself, nor anew.
"""

from __future__ import annotations

from threading import Lock
from typing import Final

from anyjob_amqp.consuming import AmqpDelivery, ConsumerLink

__all__ = ["KnownDeliveries"]


class KnownDeliveries:
    """Tells messages apart by their bytes: a job that is sent anew, for whatever reason, has others. Thread-safe."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._unsettled: dict[bytes, AmqpDelivery] = {}
        self._settled: dict[bytes, None] = {}

    def add(self, delivery: AmqpDelivery) -> None:
        """Note a message that was delivered to this process."""
        with self._lock:
            self._unsettled[delivery.digest] = delivery

    def settle(self, delivery: AmqpDelivery) -> None:
        """Note that its outcome was settled, whether or not the acknowledgement will reach the broker; not if it was
        left before.
        """
        with self._lock:
            digest = delivery.digest
            if self._unsettled.get(digest) is delivery:
                del self._unsettled[digest]
                self._settled[digest] = None
            while len(self._settled) > _REMEMBERED:
                del self._settled[next(iter(self._settled))]

    def leave(self, delivery: AmqpDelivery, link: ConsumerLink) -> bool:
        """Note that it is for the next worker that gets it; return False if it was redelivered, over another link."""
        with self._lock:
            if delivery.link is not link:
                return False
            if self._unsettled.get(delivery.digest) is delivery:
                del self._unsettled[delivery.digest]
            return True

    def recognise(self, again: AmqpDelivery) -> AmqpDelivery | None:
        """Return the delivery of a redelivered message: the new one itself, if the job was settled here; the first one,
        if its job still runs, which holds the message over the new link from now on; None if it is new to this process.
        """
        with self._lock:
            if again.digest in self._settled:
                return again
            had = self._unsettled.get(again.digest)
            if had is None or had.ended or had.link is again.link:
                return None
            had.link, had.tag = again.link, again.tag
            return had


_REMEMBERED: Final = 1_000
