"""Recognises the messages that come to a worker process again, because a connection of its own was lost.

A job that keeps the interpreter's lock leaves no time for heartbeats: RabbitMQ closes its connection under it, and
hands the message out again, often to this very process, in which its job still runs, or has just ended. It must not run
beside itself, nor anew.
"""

from __future__ import annotations

from hashlib import blake2b
from threading import Lock
from typing import TYPE_CHECKING, Final

from anyjob_dramatiq.frame import Delivery

if TYPE_CHECKING:
    from anyjob_dramatiq.amqp_source import AmqpPlace

__all__ = ["KnownDeliveries"]


class KnownDeliveries:
    """Tells messages by their bytes: a job that is sent anew, for whatever reason, has others. Thread-safe."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._unsettled: dict[bytes, Delivery] = {}
        self._settled: dict[bytes, None] = {}

    def add(self, delivery: Delivery) -> None:
        """Note what was handed out to this process."""
        with self._lock:
            self._unsettled[_digest(delivery)] = delivery

    def settle(self, delivery: Delivery) -> None:
        """Note that what it led to was done, whether or not the broker will hear of it; of what was left, nothing."""
        with self._lock:
            digest = _digest(delivery)
            if self._unsettled.get(digest) is delivery:
                del self._unsettled[digest]
                self._settled[digest] = None
            while len(self._settled) > _REMEMBERED:
                del self._settled[next(iter(self._settled))]

    def leave(self, delivery: Delivery, place: AmqpPlace) -> bool:
        """Note that it is for the next who gets it; return False if it is here again, not from `place`."""
        with self._lock:
            if delivery.place is not place:
                return False
            digest = _digest(delivery)
            if self._unsettled.get(digest) is delivery:
                del self._unsettled[digest]
            return True

    def recognise(self, again: Delivery) -> Delivery | None:
        """Return whose affair it is that comes again: its own, if it was settled here; of a job that still has it, over
        a connection that was lost, which holds it from now on; or None, of nobody here.
        """
        with self._lock:
            digest = _digest(again)
            if digest in self._settled:
                return again
            had = self._unsettled.get(digest)
            if had is None or had.released or had.place.channel is again.place.channel:
                return None
            had.place = again.place
            return had


def _digest(delivery: Delivery) -> bytes:
    return blake2b(delivery.place.body, digest_size=16).digest()


_REMEMBERED: Final = 1_000
