"""Somebody deletes a queue of ours while everything runs: all that was, and will be, on its way to it arrives."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from amqp_worlds import amqp_harness
from celery_worlds import celery_amqp_harness
from dramatiq_worlds import dramatiq_amqp_harness
from rabbit import PrivateRabbit, RabbitHarness, RabbitWorld

from anyjob.testing.probes.jobs import FailingByDefault
from anyjob.testing.probes.journal import wait_until

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.skipif(not PrivateRabbit.is_installed(), reason="there is no RabbitMQ here to be started"),
]


MAKERS = {"celery": celery_amqp_harness, "dramatiq": dramatiq_amqp_harness, "plain": amqp_harness}


@pytest.fixture(scope="module", params=sorted(MAKERS))
def harness(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitHarness]:
    with closing(MAKERS[request.param](tmp_path_factory.mktemp("node"))) as harness:
        yield harness


@pytest.fixture
def world(harness: RabbitHarness, tmp_path: Path) -> Iterator[RabbitWorld]:
    with harness.open(tmp_path) as world:
        assert isinstance(world, RabbitWorld)
        yield world


def delete_queue(world: RabbitWorld) -> None:
    with world.connect() as connection, connection.channel() as channel:
        channel.queue_delete(world.names.queue("default"))


def test_under_a_worker_and_a_producer(world: RabbitWorld) -> None:
    world.start_worker(retry={"max_tries": 2, "first_wait": 3.0})
    world.enqueue("warm", "warm-later", delay=1)
    world.manager.enqueue(FailingByDefault(str(world.journal.path), "retried"))
    world.enqueue("delayed-before", delay=4)
    world.journal.wait(3, "begin", timeout=30)
    delete_queue(world)
    world.enqueue("at-once", delay=0)
    world.enqueue("delayed-after", delay=2)
    expected = sorted(["warm", "warm-later", *["retried"] * 2, "delayed-before", "at-once", "delayed-after"])
    wait_until(
        lambda: sorted(world.journal.begun()) == expected,
        timeout=30,
        what=lambda: f"{expected}, not {world.journal.begun()}",
    )


def test_under_a_producer_alone(world: RabbitWorld) -> None:
    world.enqueue("warm", delay=1)
    world.enqueue("delayed-before", delay=3)
    delete_queue(world)
    world.enqueue("at-once")
    world.enqueue("delayed-after", delay=1)
    world.start_worker()
    wait_until(
        lambda: {"at-once", "delayed-after", "delayed-before"} <= {each.label for each in world.journal.entries("end")},
        timeout=30,
        what=lambda: f"all to run, not only {world.journal.begun()}",
    )
