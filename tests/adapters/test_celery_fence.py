"""What a Celery worker lost meanwhile is not its own any more: it settles nothing, and acknowledges nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from unittest.mock import Mock

import amqp
import pytest
from amqp.exceptions import AMQPError
from celery_jobs import FailsAtItsGates, KeepsTheLock
from celery_worlds import CeleryAmqpWorld, celery_amqp_harness

from anyjob.seams.stored import JobState
from anyjob.testing.conformance.processes import QUEUES
from anyjob.testing.probes.journal import wait_until
from anyjob_amqp import read_url
from anyjob_celery.fence import is_held_on_amqp

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[CeleryAmqpWorld]:
    """Give a world on RabbitMQ whose workers know the jobs of celery_jobs.py."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    harness = celery_amqp_harness()
    with harness.open(tmp_path) as world:
        assert isinstance(world, CeleryAmqpWorld)
        yield world
    harness.close()


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo"])
def test_each_lost_connection_costs_one_run(world: CeleryAmqpWorld, tmp_path: Path, pool: str) -> None:
    proxy, url = world.proxy()
    options = {"pool": pool}
    world.start_worker(
        imports=["celery_jobs", "anyjob.testing.probes.jobs"],
        backends={"main": {"url": url, "queues": list(QUEUES), "options": options}},
    )
    gates = world.new_gate()
    world.manager.enqueue(FailsAtItsGates(str(world.journal.path), "cut", str(gates)))
    for number in range(1, 6):
        _wait_for_try(world, number)
        proxy.cut()
        Path(f"{gates}-{number}").touch()
    world.wait_parked(timeout=30)
    world.enqueue("sentinel", delay=1)
    world.journal.wait(1, "end", "sentinel", timeout=30)
    assert len(world.wait_parked()) == 1
    assert len(world.journal.entries("begin", "cut")) <= 10
    assert "fenced id=" in (tmp_path / "worker-0.log").read_text()


@pytest.mark.parametrize("has_new_connection", [True, False])
def test_a_dead_connection_is_told_to_the_loop_that_listens_there(
    world: CeleryAmqpWorld, *, has_new_connection: bool
) -> None:
    proxy, url = world.proxy()
    address = read_url(url.partition("+")[2], "test")
    connection = amqp.Connection(f"{address.host}:{address.port}", address.user, address.password)
    connection.connect()
    loop, message = Mock(), Mock(channel=connection.channel())
    message.consumer = Mock(call_soon=loop, task_consumer=Mock())
    assert is_held_on_amqp(message, 5.0)
    proxy.cut()
    assert not is_held_on_amqp(message, 5.0)
    tell, *told = loop.call_args.args
    if has_new_connection:
        tell(*told)
    else:
        message.consumer.task_consumer.channel = message.channel
        with pytest.raises((AMQPError, OSError)):
            tell(*told)
    connection.collect()


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_job_that_keeps_the_lock_leaves_no_more_copies_than_connections_were_lost(
    world: CeleryAmqpWorld, tmp_path: Path, pool: str
) -> None:
    options = {"pool": pool, "broker_heartbeat": 1}
    world.start_worker(
        imports=["celery_jobs", "anyjob.testing.probes.jobs"],
        concurrency=2,
        max_losses=2,
        backends={"main": {"url": world.url, "queues": list(QUEUES), "options": options}},
    )
    world.manager.enqueue(KeepsTheLock(str(world.journal.path), "keeps", 6))
    world.journal.wait(1, "end", "keeps", timeout=60)
    if pool == "threads":  # taken for lost each time, as its `silence_bound` says
        parked = world.wait_parked(timeout=60)[0]
        assert parked.failure is not None
        assert "JobLostError" in parked.failure.error_type
    world.enqueue("sentinel", delay=1)
    world.journal.wait(1, "end", "sentinel", timeout=30)
    # What a connection had in hand that was lost just now waits for a moment.
    wait_until(lambda: world.manager.inspect().count()[JobState.WAITING] == 0, what="nothing to wait")
    begun, parked_count = len(world.journal.entries("begin", "keeps")), len(world.jobs(JobState.ABANDONED))
    if pool == "threads":
        # A connection that is lost while a loss is being counted may cost a run for each thread, or leave one copy. How
        # often it is lost is the heartbeat's affair, and so the machine's.
        lost = (tmp_path / "worker-0.log").read_text().count("Connection to broker lost")
        assert begun <= 2 * (1 + lost)
        assert 1 <= parked_count <= 1 + lost
    else:
        assert (begun, parked_count) == (1, 0)


def _wait_for_try(world: CeleryAmqpWorld, number: int) -> None:
    """Wait for the n-th try. One job at a time: it is only delivered when what came before it is acknowledged."""
    wait_until(
        lambda: number in {each.try_count for each in world.journal.entries("begin", "cut")},
        timeout=30,
        what=f"try {number}",
    )
