"""What the tests of RQ share: an application on a fake Redis, with a clock to move, and one on a real server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fakeredis
import pytest
from rq_world import World
from servers import PrivateRedis, redis_url

from anyjob import JobManager, JobRegistry
from anyjob.seams.backend import BackendConfig
from anyjob.testing import FakeClock
from anyjob_rq import RQBackend, RQSimpleJobWorker


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def registry() -> JobRegistry:
    return JobRegistry()


@pytest.fixture
def fake() -> fakeredis.FakeRedis:
    return fakeredis.FakeRedis()


@pytest.fixture
def backend(fake: fakeredis.FakeRedis, clock: FakeClock) -> RQBackend:
    return RQBackend(BackendConfig(alias="main", url="rq+redis://fake", clock=clock), connection=fake)


@pytest.fixture
def manager(backend: RQBackend, registry: JobRegistry, clock: FakeClock) -> Iterator[JobManager]:
    manager = JobManager(backend, registry=registry, clock=clock)
    yield manager
    manager.close()


@pytest.fixture
def make_worker(backend: RQBackend, manager: JobManager) -> Callable[..., RQSimpleJobWorker]:
    def make(*queues: str, **options: Any) -> RQSimpleJobWorker:
        return RQSimpleJobWorker(queues or "*", backend=backend, executor=manager.executor, **options)

    return make


@pytest.fixture
def drain(make_worker: Callable[..., RQSimpleJobWorker]) -> Callable[..., bool]:
    """Run what is due, by a worker of its own in this process."""
    return lambda *queues, **options: make_worker(*queues).work(burst=True, **options)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """An application on the shared server, in a namespace of its own."""
    with World(redis_url(), tmp_path) as world:
        yield world


@pytest.fixture
def private_redis(tmp_path: Path) -> Iterator[PrivateRedis]:
    directory = tmp_path / "redis"
    directory.mkdir()
    server = PrivateRedis(directory).start()
    yield server
    server.kill()
