"""An in-memory world on a clock that the test moves."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from anyjob import JobManager, JobRegistry, current
from anyjob.extend import JobStore, StoreBackend
from anyjob.seams.backend import BackendConfig
from anyjob.stores.store_backend import memory_backend
from anyjob.testing import FakeClock

if TYPE_CHECKING:
    from click.testing import Result


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
def server(backend: StoreBackend) -> StoreBackend:
    """A backend that says its jobs live elsewhere."""
    backend.capabilities = replace(backend.capabilities, in_process=False)
    return backend


@pytest.fixture
def anyjob(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Run the command in this process, as if it were a fresh one."""
    from click.testing import CliRunner

    from anyjob.cli import load

    monkeypatch.setattr(current, "_manager", None)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setitem(sys.modules, "shop", sys)  # so that it is forgotten at the end
    del sys.modules["shop"]

    def run(*argv: str, **environ: str) -> Result:
        result = CliRunner(env={"ANYJOB_CONFIG": "", **environ}).invoke(load(), argv)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return run


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
