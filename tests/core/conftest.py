"""An in-memory world on a clock that the test moves."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from anyjob import JobManager, JobRegistry, JobStore, StoreBackend
from anyjob.backend import BackendConfig
from anyjob.store_backend import memory_backend
from anyjob.testing import FakeClock


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def registry() -> JobRegistry:
    return JobRegistry()


@pytest.fixture
def backend(clock: FakeClock) -> StoreBackend:
    return memory_backend(BackendConfig(alias="default", url="memory:", clock=clock))


@pytest.fixture
def store(backend: StoreBackend) -> JobStore:
    return backend.store


@pytest.fixture
def make_manager(backend: StoreBackend, registry: JobRegistry, clock: FakeClock) -> Iterator[Callable[..., JobManager]]:
    made: list[JobManager] = []

    def make(**options: Any) -> JobManager:
        manager = JobManager(options.pop("backends", backend), registry=registry, clock=clock, **options)
        made.append(manager)
        return manager

    yield make
    for manager in made:
        manager.close()


@pytest.fixture
def manager(make_manager: Callable[..., JobManager]) -> JobManager:
    return make_manager()


@pytest.fixture
def wait_until() -> Callable[[Callable[[], object]], None]:
    """Wait on a condition, with a deadline that only a failing test reaches."""

    def wait(condition: Callable[[], object], timeout: float = 10.0) -> None:
        deadline = time.monotonic() + timeout
        pause = threading.Event()
        while not condition():
            assert time.monotonic() < deadline, "the condition never came true"
            pause.wait(0.002)

    return wait
