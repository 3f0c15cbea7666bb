"""What a Celery application with quorum queues delays in the broker: kombu has queues for that, the same for all.

On a node of the tests' own, for these queues have no other names.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import closing

import pytest
from celery_natives import CHOSEN, OwnApp, ReadSends
from kombu import Exchange, Queue
from kombu.transport.native_delayed_delivery import (
    bind_queue_to_native_delayed_delivery_exchange,
    declare_native_delayed_delivery_exchanges_and_queues,
)
from rabbit import PrivateRabbit
from servers import unavailable

from anyjob.testing.probes.journal import wait_until


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateRabbit]:
    if not PrivateRabbit.is_installed():
        unavailable("there is no RabbitMQ program to start a private one")
    with closing(PrivateRabbit(tmp_path_factory.mktemp("rabbit"))) as node:
        node.start()
        yield node


@pytest.fixture
def quorum(node: PrivateRabbit) -> Iterator[OwnApp]:
    """Return an application with quorum queues, one of whose names ends as another's."""
    name = f"quorum{secrets.token_hex(5)}"
    settings = {"broker_transport_options": {"client_properties": {"connection_name": name}, "confirm_publish": True}}
    shop = OwnApp(name, node.url, settings)
    shop.app.conf.task_queues = [
        Queue(each, Exchange(each, "topic"), each, queue_arguments={"x-queue-type": "quorum"})
        for each in (name, f"{name}.mail", f"x.{name}.mail")
    ]
    with closing(shop), shop.app.connection_for_write() as connection:
        declare_native_delayed_delivery_exchanges_and_queues(connection, "quorum")  # as a worker does
        for queue in shop.app.amqp.queues.values():
            queue(connection.default_channel).declare()
            bind_queue_to_native_delayed_delivery_exchange(connection, queue)
        yield shop


@pytest.mark.timeout(120)
def test_what_celery_delays_in_queues_is_read_and_taken(quorum: OwnApp) -> None:
    later = quorum.send(1, countdown=3600)
    mail = quorum.send(2, countdown=3600, queue=quorum.mail, headers={"tenant": "a"})
    other = quorum.send(3, countdown=3600, queue=f"x.{quorum.mail}")
    now = quorum.send(4)
    wait_until(lambda: {*quorum.read()} == {later, mail, other, now}, what="all to be in a queue")
    read = quorum.read()
    assert {each.id: each.queue for each in read.values()} == {
        later: quorum.name,
        mail: quorum.mail,
        other: f"x.{quorum.mail}",
        now: quorum.name,
    }
    assert read[mail].headers == {"tenant": "a"}
    assert read[mail].due_at is not None
    assert [*quorum.read(quorum.mail)] == [mail]
    inspector = quorum.backend().native_inspector(ReadSends(quorum.clock), [quorum.mail])
    with inspector.hold(CHOSEN, holder="mover", ahead=1) as taken:
        assert inspector.acknowledge(list(taken)) == [True]
    assert {*quorum.read()} == {later, other, now}


@pytest.mark.timeout(120)
def test_an_applications_delayed_messages_are_not_anothers(quorum: OwnApp, node: PrivateRabbit) -> None:
    settings = {"broker_transport_options": {"client_properties": {"connection_name": "another"}}}
    sent = quorum.send(1, countdown=3600)
    wait_until(lambda: {*quorum.read()} == {sent}, what="it to be in a queue")
    with closing(OwnApp(f"{quorum.name}another", node.url, settings)) as another:
        another.app.conf.task_queues = [Queue(another.name, queue_arguments={"x-queue-type": "quorum"})]
        assert another.read() == {}
    assert {*quorum.read()} == {sent}
