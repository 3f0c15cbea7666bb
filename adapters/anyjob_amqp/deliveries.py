"""Messages that were delivered to a worker's process, and how they are known when they are delivered to it again.

A job that keeps the interpreter's lock leaves no time for heartbeats: RabbitMQ closes the connection under it, and
delivers the message again, often to this very process, in which its job still runs, or has just ended. It must not run
beside itself, nor anew.
"""

from __future__ import annotations

from hashlib import blake2b
from threading import Lock
from typing import TYPE_CHECKING, Final

from amqp import Message

from anyjob_amqp.undecodable import fault_in

if TYPE_CHECKING:
    from anyjob_amqp.consuming import ConsumerLink

__all__ = ["AmqpDelivery", "KnownDeliveries"]


class AmqpDelivery:
    """One message that this process holds, and what acknowledges it: a link and a tag."""

    __slots__ = ("body", "digest", "ended", "fault", "id", "link", "lock", "priority", "queue", "redelivered", "tag")

    def __init__(self, message: Message, queue: str, link: ConsumerLink) -> None:
        self.queue = queue
        """The logical one from which it came."""
        self.body = bytes(message.body or b"")  # of none at all it is an empty text
        self.digest = blake2b(self.body, digest_size=16).digest()
        self.id = str(message.properties.get("message_id") or f"tag-{message.delivery_tag}")
        self.priority = int(message.properties.get("priority") or 0)
        self.redelivered = bool(message.delivery_info["redelivered"])
        self.fault = fault_in(message.headers)
        """Why it must not run: a part of it can't be decoded."""
        self.link = link
        self.tag = int(message.delivery_tag)
        self.ended = False
        """It was acknowledged, or given back: it is nobody's business here any more."""
        self.lock = Lock()
        """Held while it is settled, and while it is given back: both would leave two of its job."""


class KnownDeliveries:
    """Tells messages by their bytes: a job that is sent anew, for whatever reason, has others. Thread-safe."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._unsettled: dict[bytes, AmqpDelivery] = {}
        self._settled: dict[bytes, None] = {}

    def add(self, delivery: AmqpDelivery) -> None:
        """Note what was delivered to this process."""
        with self._lock:
            self._unsettled[delivery.digest] = delivery

    def settle(self, delivery: AmqpDelivery) -> None:
        """Note that its outcome was settled, whether or not the broker will hear of it; not if it was left before."""
        with self._lock:
            digest = delivery.digest
            if self._unsettled.get(digest) is delivery:
                del self._unsettled[digest]
                self._settled[digest] = None
            while len(self._settled) > _REMEMBERED:
                del self._settled[next(iter(self._settled))]

    def leave(self, delivery: AmqpDelivery, link: ConsumerLink) -> bool:
        """Note that it is for the next who gets it; return False if it was delivered again, over another link."""
        with self._lock:
            if delivery.link is not link:
                return False
            if self._unsettled.get(delivery.digest) is delivery:
                del self._unsettled[delivery.digest]
            return True

    def recognise(self, again: AmqpDelivery) -> AmqpDelivery | None:
        """Return whose message was delivered again: its own, if it was settled here; that of a job which still runs,
        and holds it over the new link from now on; None if it is new to this process.
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
