"""What differs between the versions of RabbitMQ: that nothing is lost by it, and that the doctor tells what is true.

Each test holds on every version: it compares what is told with what happens.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from amqp_worlds import amqp_harness
from celery import Celery
from celery_worlds import celery_amqp_harness
from dramatiq_worlds import dramatiq_amqp_harness
from envelopes import make_envelope
from kombu import Queue
from rabbit import PrivateRabbit, RabbitHarness, RabbitWorld, connect, plain_url
from servers import unavailable

from anyjob.base.clock import SystemClock
from anyjob.seams.backend import BackendConfig
from anyjob.seams.stored import JobFilter, JobState
from anyjob.testing.conformance.processes import QUEUES
from anyjob.testing.probes.journal import wait_until
from anyjob_amqp import RabbitServer
from anyjob_celery.existing import ExistingCeleryBackend

pytestmark = pytest.mark.timeout(120)

MAKERS = {"celery": celery_amqp_harness, "dramatiq": dramatiq_amqp_harness, "plain": amqp_harness}
MORE_THAN_20 = 25


@pytest.fixture(scope="module", params=sorted(MAKERS))
def harness(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitHarness]:
    if not PrivateRabbit.is_installed():
        unavailable("there is no RabbitMQ here to be started")
    with closing(MAKERS[request.param](tmp_path_factory.mktemp("node"))) as harness:
        yield harness


@pytest.fixture
def world(harness: RabbitHarness, tmp_path: Path) -> Iterator[RabbitWorld]:
    with harness.open(tmp_path) as world:
        yield world


def server_of(harness: RabbitHarness) -> RabbitServer:
    with connect(plain_url(harness.url)) as connection:
        return RabbitServer(connection.server_properties)


def ready(world: RabbitWorld, queue: str) -> int:
    with world.connect() as connection, connection.channel() as channel:
        return int(channel.queue_declare(world.names.queue(queue), passive=True).message_count)


def test_a_worker_of_several_queues_holds_what_the_doctor_says(world: RabbitWorld) -> None:
    first, second = QUEUES[:2]
    told = [risk for risk in world.manager.backend().look_for_risks() if risk.startswith("queues:")]
    world.start_worker(queues=[first, second])
    gate = world.new_gate()
    world.manager.enqueue(world.probe("running", gate=str(gate)), queue=first)
    world.journal.wait(1, "begin", "running")
    world.enqueue("behind", queue=second)
    wait_until(lambda: ready(world, second) == (not told), what="it to be held, if that is told")
    world.start_worker(queues=[second])
    world.enqueue("next", queue=second)
    world.journal.wait(1, "begin", "next")
    assert ("behind" in world.journal.begun()) == (not told)
    gate.touch()
    world.journal.wait(3, "end")
    assert sorted(world.journal.begun()) == ["behind", "next", "running"]


def test_a_delayed_job_that_is_looked_at_often_is_neither_lost_nor_early(world: RabbitWorld) -> None:
    world.start_worker()
    world.enqueue("warm")
    world.journal.wait(1, "end")
    due = time.time() + 8
    world.enqueue("later", delay=due - time.time())
    looks, scheduled = 0, JobFilter(states=frozenset({JobState.SCHEDULED}))
    while looks < MORE_THAN_20 and time.time() < due:  # as a mover does that is killed again and again
        with world.manager.inspect().hold(scheduled, holder="looker", ahead=1) as taken:
            looks += next(taken, None) is not None
    assert looks == MORE_THAN_20
    (begun,) = world.journal.wait(1, "begin", "later", timeout=30)
    assert 0 <= begun.at - due <= 3
    assert begun.try_count == 1
    world.enqueue("sentinel")
    world.journal.wait(1, "end", "sentinel")
    assert world.journal.begun() == ["warm", "later", "sentinel"]


@pytest.fixture
def quorum_world(
    harness: RabbitHarness, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RabbitWorld]:
    """Give a world on a node whose queues are quorum queues, if nothing else is said."""
    server = server_of(harness)
    if server.release < (4, 0):
        pytest.skip(f"RabbitMQ {server.version} has no default_queue_type")
    make, folder = MAKERS[harness.library or "plain"], tmp_path_factory.mktemp("quorum")
    with closing(make(folder, "default_queue_type = quorum\n")) as made, made.open(tmp_path) as world:
        yield world


def test_where_queues_are_quorum_queues_all_is_as_ever(quorum_world: RabbitWorld) -> None:
    world = quorum_world
    world.enqueue("at-once", "soon", delay=1)
    world.put(b"not an envelope")
    world.start_worker()
    world.journal.wait(2, "end")
    (parked,) = world.wait_parked()
    for _ in range(MORE_THAN_20):
        assert [job.id for job in world.jobs(JobState.ABANDONED)] == [parked.id]


@pytest.mark.parametrize("arguments", [{}, {"x-delivery-limit": -1}, {"x-dead-letter-exchange": "amq.fanout"}], ids=str)
def test_the_doctor_tells_which_queues_of_an_application_drop_jobs(
    harness: RabbitHarness, arguments: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    if "x-delivery-limit" in arguments and server_of(harness).release < (4, 0):
        pytest.skip("no older RabbitMQ knows of no limit")
    name = f"jobs-{'-'.join(arguments)}"
    module = ModuleType("shop")
    app = module.app = Celery("shop", broker=plain_url(harness.url), set_as_current=False)  # type: ignore[attr-defined]
    app.conf.task_queues = [Queue(name, queue_arguments={"x-queue-type": "quorum", **arguments})]
    monkeypatch.setitem(sys.modules, "shop", module)
    with closing(ExistingCeleryBackend(BackendConfig(alias="main", url="celery://?app=shop:app"))) as backend:
        told = [risk for risk in backend.look_for_risks() if risk.startswith(f"queue {name}:")]
        backend.send([make_envelope(SystemClock().now(), "a", queue=name)])
    with connect(app.conf.broker_url) as connection, connection.channel() as channel:
        delivered = 0
        while delivered < MORE_THAN_20 and (message := _taken(channel, name)) is not None:
            channel.basic_reject(message.delivery_tag, requeue=True)
            delivered += 1
        channel.queue_delete(name)
    dropped = delivered < MORE_THAN_20
    assert dropped == (
        bool(told) or ("x-dead-letter-exchange" in arguments and server_of(harness).drops_after is not None)
    )
    assert not told or f"was delivered {delivered} times" in told[0]


def _taken(channel: Any, queue: str) -> Any:
    """Take a message; None if there is none, which on a quorum queue takes a moment to be sure of."""
    deadline = time.monotonic() + 1
    while time.monotonic() < deadline:
        if (message := channel.basic_get(queue)) is not None:
            return message
    return None
