"""Celery's worker on a Redis that refuses: it goes on when the server is well again, and drains one that is full."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from celery_worlds import CeleryRedisHarness, CeleryRedisWorld
from redis import Redis
from servers import PrivateRedis

from anyjob.base.errors import EnqueueError
from anyjob.testing.conformance.processes import WorkerProcess
from anyjob.testing.probes.jobs import Failing
from anyjob.testing.probes.journal import wait_until

pytestmark = pytest.mark.timeout(90)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> PrivateRedis:
    return PrivateRedis(tmp_path_factory.mktemp("redis"))


@pytest.fixture(scope="module")
def harness(server: PrivateRedis) -> Iterator[CeleryRedisHarness]:
    harness = CeleryRedisHarness(server)
    yield harness
    harness.close()


@pytest.fixture
def world(harness: CeleryRedisHarness, tmp_path: Path) -> Iterator[CeleryRedisWorld]:
    with harness.open(tmp_path) as world:
        yield world


@contextmanager
def read_only(client: Redis, _namespace: str) -> Iterator[None]:
    """As a master that another one took over from."""
    client.execute_command("REPLICAOF", "127.0.0.1", "1")
    try:
        yield
    finally:
        client.execute_command("REPLICAOF", "NO", "ONE")


@contextmanager
def without_replicas(client: Redis, _namespace: str) -> Iterator[None]:
    """As a master that must not write without them."""
    client.config_set("min-replicas-to-write", 1)
    try:
        yield
    finally:
        client.config_set("min-replicas-to-write", 0)


@contextmanager
def misplaced_wake(client: Redis, namespace: str) -> Iterator[None]:
    """Some other type where the tokens are that wake workers."""
    client.set(f"{namespace}:wake:default", "no list")
    try:
        yield
    finally:
        client.delete(f"{namespace}:wake:default")


Fault = Callable[[Redis, str], AbstractContextManager[None]]


@pytest.mark.parametrize("fault", [read_only, without_replicas, misplaced_wake])
def test_a_worker_goes_on_when_redis_is_well_again(world: CeleryRedisWorld, fault: Fault) -> None:
    worker = world.start_worker()
    assert isinstance(worker, WorkerProcess)
    world.enqueue("before")
    world.journal.wait(1)
    with world.client() as client:
        with fault(client, world.namespace):
            wait_until(lambda: "takes nothing" in worker.log.read_text(), what="the worker to be refused")
        world.enqueue("after")
    world.journal.wait(2)
    assert worker.process.poll() is None
    assert worker.log.read_text().count("takes nothing") == 1  # an absence is told once
    assert world.journal.begun() == ["before", "after"]


@pytest.mark.parametrize("fault", [read_only, without_replicas])
def test_a_worker_that_starts_meanwhile_goes_on_as_well(world: CeleryRedisWorld, fault: Fault) -> None:
    world.enqueue("job")
    with world.client() as client, fault(client, world.namespace):
        worker = world.start_worker()
        assert isinstance(worker, WorkerProcess)
        wait_until(lambda: "takes nothing" in worker.log.read_text(), what="the worker to be refused")
    world.journal.wait(1)
    assert worker.process.poll() is None


def test_something_else_in_a_queues_place_holds_up_no_other_queue(world: CeleryRedisWorld) -> None:
    with world.client() as client:
        client.set(f"{world.namespace}:celery:a", "no list")
        client.set(f"{world.namespace}:celery:b\x06\x162", "no list")
        world.start_worker()
        world.enqueue("job")
        world.journal.wait(1)
        with pytest.raises(EnqueueError) as refused:
            world.manager.enqueue(world.probe("nowhere"), queue="b")
        assert len(refused.value.rejected) == 1
        client.delete(f"{world.namespace}:celery:b\x06\x162")
        world.manager.enqueue(world.probe("there"), queue="b")
        world.journal.wait(2)


def test_workers_start_on_a_full_server_and_drain_it(world: CeleryRedisWorld, server: PrivateRedis) -> None:
    world.enqueue("a", "b")
    world.enqueue("later", delay=0.3)
    world.manager.enqueue(Failing(str(world.journal.path), "once", times=1))
    world.put(b"garbage")
    with server.full():
        with pytest.raises(EnqueueError) as refused:
            world.enqueue("too much")
        assert len(refused.value.rejected) == 1
        worker = world.start_worker()
        world.wait_parked(1)
        wait_until(lambda: len(world.jobs()) == 1, what="all but the garbage to be done")
        assert isinstance(worker, WorkerProcess)
        assert worker.process.poll() is None
    assert sorted(world.journal.begun()) == ["a", "b", "later", "once", "once"]
