"""Publishes so that nothing is lost in silence: confirmed, mandatory, in bounded time, and told apart if it fails."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from amqp import Message
from amqp.spec import Basic
from msgspec import Struct

from anyjob.extend import EnqueueError, describe_error
from anyjob_amqp.deadline import Deadline
from anyjob_amqp.links import AMQP_ERRORS, Link, Links
from anyjob_amqp.topology import Route

__all__ = ["Parcel", "Publisher"]


class Parcel(Struct, frozen=True, gc=False):
    """A message to be published. Its `message_id` is the parcel's id, by which the broker names a returned message."""

    id: str
    route: Route
    message: Message


class Publisher:
    """Publishes batches. Thread-safe.

    Every message is confirmed; all of a batch are under way before it waits for the first confirmation. A message that
    can't be routed, because its queue was deleted, is returned and published once more with all declared anew.
    """

    def __init__(self, links: Links, timeout: float) -> None:
        self._links = links
        self._timeout = timeout

    def publish(self, parcels: Sequence[Parcel]) -> None:
        """Return when the broker has taken on every message; raise `EnqueueError` otherwise.

        The timeout is for all of it, from the connecting on, and begins anew with each confirmation: many messages may
        take longer, but not a broker that doesn't answer, or that blocks publishers because it lacks memory or disk.
        """
        deadline = Deadline(self._timeout)
        accepted: list[str] = []
        for start in range(0, len(parcels), _BATCH):
            batch = _Batch(parcels[start : start + _BATCH])
            rest = parcels[start + _BATCH :]
            with _told(batch, accepted, rest, self._links.where), self._links.link(deadline) as link:
                _publish(batch, link, deadline)
            accepted.extend(batch.accepted)


class _Batch:
    """Messages that travel over one link together."""

    def __init__(self, parcels: Sequence[Parcel]) -> None:
        self.unsent = deque(parcels)
        self.under_way: dict[int, Parcel] = {}
        self.accepted: list[str] = []
        self.refused: list[str] = []

    def send(self, link: Link, deadline: Deadline) -> None:
        """Publish the unsent messages and wait for every confirmation; returned messages are unsent then."""
        link.returned.clear()
        with link.connection.transport.having_timeout(deadline.left()):
            while self.unsent:
                parcel = self.unsent.popleft()
                # In doubt from here on: a failed write may have been complete.
                self.under_way[link.published + 1] = parcel
                link.publish(parcel.message, parcel.route)

        def confirmed(method: object, tag: int, multiple: bool = False, _requeue: bool = False) -> None:
            deadline.extend()
            for each in [each for each in self.under_way if each <= tag] if multiple else [tag]:
                parcel = self.under_way.pop(each)
                if method == Basic.Nack:
                    self.refused.append(parcel.id)
                elif parcel.id in link.returned:  # a return comes before its confirmation
                    self.unsent.append(parcel)
                else:
                    self.accepted.append(parcel.id)

        while self.under_way:
            link.channel.wait([Basic.Ack, Basic.Nack], callback=confirmed)


class _NotTakenError(Exception):
    pass


def _publish(batch: _Batch, link: Link, deadline: Deadline) -> None:
    for again in (False, True):
        places = {parcel.route.place for parcel in batch.unsent}
        for place in places:
            link.prepare(place, again=again)
        link.note((place.note for place in places if place.note is not None), again=again)
        batch.send(link, deadline)
        if not batch.unsent:
            break
    if batch.unsent or batch.refused:
        raise _NotTakenError("a queue is full, or somebody keeps deleting it")


@contextmanager
def _told(batch: _Batch, accepted: Sequence[str], rest: Sequence[Parcel], where: str) -> Iterator[None]:
    try:
        yield
    except (*AMQP_ERRORS, _NotTakenError) as error:
        raise EnqueueError(
            f"RabbitMQ ({where}) did not take every job: {_reason(error)}",
            accepted=[*accepted, *batch.accepted],
            rejected=[*batch.refused, *(parcel.id for parcel in (*batch.unsent, *rest))],
            in_doubt=[parcel.id for parcel in batch.under_way.values()],
        ) from error


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, _NotTakenError) else describe_error(error)


_BATCH: Final = 500
