"""A Redis that is full or a replica, on each library: nothing gets in; workers start, drain what fills it, go on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("dramatiq")
pytest.importorskip("rq")

from dramatiq_worlds import DramatiqRedisHarness
from harnesses import RQHarness
from redis import Redis
from servers import PrivateRedis, RedisHarness

from anyjob.base.errors import EnqueueError
from anyjob.testing.probes.jobs import Failing, FailingOnce
from anyjob.testing.probes.journal import wait_until

pytestmark = pytest.mark.timeout(90)

HARNESSES: dict[str, type[RedisHarness[Any]]] = {"rq": RQHarness, "dramatiq": DramatiqRedisHarness}


@pytest.fixture(params=HARNESSES)
def server(tmp_path: Path) -> PrivateRedis:
    return PrivateRedis(tmp_path)


@pytest.fixture
def world(request: pytest.FixtureRequest, server: PrivateRedis, tmp_path: Path) -> Iterator[Any]:
    harness = HARNESSES[request.node.callspec.params["server"]](server)
    with harness.open(tmp_path) as world:
        yield world
    harness.close()


@pytest.fixture
def client(world: Any, server: PrivateRedis) -> Iterator[Redis]:  # the server runs
    with server.client() as client:
        yield client


def test_a_worker_starts_on_a_full_server_and_drains_it(world: Any, client: Redis) -> None:
    world.enqueue("now")
    world.enqueue("later", delay=0.5)
    world.manager.enqueue(Failing(str(world.journal.path), "again", times=1))
    world.manager.enqueue(FailingOnce(str(world.journal.path), "parked"))
    client.config_set("maxmemory", 1)
    with pytest.raises(EnqueueError) as caught:
        world.manager.enqueue(world.probe("refused"), job_id="refused")
    assert (caught.value.rejected, caught.value.in_doubt) == (("refused",), ())
    world.start_worker()
    world.journal.wait(3, "end", "now", "later", "again", timeout=30)
    assert len(world.wait_parked()) == 1
    client.config_set("maxmemory", 0)
    world.enqueue("accepted")
    wait_until(lambda: "accepted" in world.journal.begun(), timeout=20)
    assert "refused" not in world.journal.begun()


def test_a_worker_goes_on_after_a_failover(world: Any, client: Redis) -> None:
    world.enqueue("before")
    world.start_worker()
    world.journal.wait(1, timeout=30)
    client.execute_command("REPLICAOF", "127.0.0.1", "1")
    with pytest.raises(EnqueueError) as caught:
        world.enqueue("refused")
    assert caught.value.rejected
    client.execute_command("REPLICAOF", "NO", "ONE")
    world.enqueue("after")
    world.journal.wait(2, timeout=30)
    assert world.journal.begun() == ["before", "after"]
