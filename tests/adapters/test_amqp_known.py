"""Who has a message that RabbitMQ delivers again to the process that had it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from anyjob_amqp.consuming import AmqpDelivery
from anyjob_amqp.deliveries import KnownDeliveries


def delivery(body: bytes = b"body", link: Any = None) -> AmqpDelivery:
    message: Any = SimpleNamespace(
        body=body, properties={}, headers=None, delivery_tag=1, delivery_info={"redelivered": True}
    )
    held_over: Any = link or object()
    return AmqpDelivery(message, "default", held_over)


def test_what_was_settled_is_settled() -> None:
    known, first, again = KnownDeliveries(), delivery(), delivery()
    known.add(first)
    known.settle(first)
    assert known.recognise(again) is again
    assert known.recognise(delivery(b"another")) is None


def test_what_still_runs_has_it_again() -> None:
    known, first, again = KnownDeliveries(), delivery(), delivery()
    known.add(first)
    assert known.recognise(again) is first
    assert first.link is again.link


def test_what_was_left_is_nobodys() -> None:
    known, first = KnownDeliveries(), delivery()
    known.add(first)
    assert known.leave(first, first.link)
    assert known.recognise(delivery()) is None
    known.settle(first)  # it ended all the same
    assert known.recognise(delivery()) is None


def test_what_was_delivered_again_can_not_be_left_by_its_old_link() -> None:
    known, first = KnownDeliveries(), delivery()
    known.add(first)
    old = first.link
    known.recognise(delivery())
    assert not known.leave(first, old)


def test_a_twin_over_the_same_link_is_another_message() -> None:
    known, link = KnownDeliveries(), object()
    known.add(delivery(link=link))
    assert known.recognise(delivery(link=link)) is None


def test_what_was_given_back_is_nobodys() -> None:
    known, first = KnownDeliveries(), delivery()
    known.add(first)
    first.ended = True
    assert known.recognise(delivery()) is None
