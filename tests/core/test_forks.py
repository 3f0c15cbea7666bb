"""A forked child begins with locks of its own, whoever in the parent held them, and with none of its threads."""

# ruff: noqa: SLF001  # locks are held by their private names

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import threading
import traceback
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

import pytest

from anyjob import JobFilter, JobManager, JobRegistry, WorkerOptions, background_job, current
from anyjob.base import forks
from anyjob.base.clock import SystemClock
from anyjob.run.executor import JobExecutor
from anyjob.seams.backend import BackendConfig
from anyjob.stores.memory import InMemoryJobStore
from anyjob.stores.store_backend import _report_unrun, memory_backend

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")


def in_child(action: Callable[[], object]) -> None:
    """Run `action` in a forked child; fail if it fails there, or isn't done in ten seconds."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(10)
            action()
            code = 0
        except BaseException:  # noqa: BLE001  # nothing of the test's own may run on in the child
            traceback.print_exc()
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    assert not os.WIFSIGNALED(status), "the child hung"
    assert os.waitstatus_to_exitcode(status) == 0


@contextmanager
def held(lock: AbstractContextManager[Any]) -> Iterator[None]:
    """Let another thread hold a lock for the length of the context."""
    taken, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with lock:
            taken.set()
            leave.wait(30)

    holder = threading.Thread(target=hold)
    holder.start()
    assert taken.wait(10)
    try:
        yield
    finally:
        leave.set()
        holder.join()


@pytest.fixture
def own() -> Iterator[JobManager]:
    """A manager on the system's clock, with jobs of each kind."""
    registry = JobRegistry()
    backend = memory_backend(BackendConfig(alias="default", url="memory:"))
    manager = JobManager(backend, registry=registry)

    @background_job("plain", registry=registry)
    def plain() -> None: ...

    @background_job("limited", registry=registry, time_limit=60)
    def limited() -> None: ...

    @background_job("slow", registry=registry)
    async def slow() -> None:
        await asyncio.sleep(0)

    yield manager
    manager.close()


def run(manager: JobManager, name: str) -> None:
    manager.enqueue_by_name(name, {})
    assert manager.drain() == 1


def run_in_worker(manager: JobManager) -> None:
    done = threading.Event()
    manager.registry.register_handler("tell", lambda _: done.set())
    with manager.start_worker():
        manager.enqueue_by_name("tell", None)
        assert done.wait(10)


def send_async(manager: JobManager) -> None:
    assert asyncio.run(manager.aenqueue_by_name("plain", {}))


def make_backend(manager: JobManager) -> None:
    """Make it as if for the first time."""
    backend = manager.backend()
    made = JobManager({"default": lambda: backend}, registry=manager.registry)
    made.backends._lock = manager.backends._lock
    assert made.backend() is backend


def configure(manager: JobManager) -> None:
    before = current._manager
    try:
        current.configure(manager)
    finally:
        current._manager = before


LOCKS: dict[str, tuple[Callable[[Any], AbstractContextManager[Any]], Callable[[JobManager], object]]] = {
    "store": (lambda own: own.backend().store._lock, lambda own: run(own, "plain")),
    "its workers": (lambda own: own.backend().store._listeners._lock, run_in_worker),
    "registry": (lambda own: own.registry._lock, lambda own: own.registry.register_handler("new", print)),
    "time limits": (lambda own: own.executor._invoker._limits._changed, lambda own: run(own, "limited")),
    "loop": (lambda own: own.executor._invoker.loop._lock, lambda own: run(own, "slow")),
    "senders": (lambda own: own._senders._lock, send_async),
    "settings": (lambda _: current._lock, configure),
    "backends": (lambda own: own.backends._lock, make_backend),
}


@pytest.mark.parametrize("used_before", [False, True])
@pytest.mark.parametrize("which", LOCKS)
def test_a_child_does_not_wait_for_a_lock_of_its_parent_s(own: JobManager, which: str, used_before: bool) -> None:
    lock_of, use = LOCKS[which]
    if used_before:
        use(own)
        own.drain()
    with held(lock_of(own)):
        in_child(lambda: use(own))
    use(own)


def test_a_fork_waits_while_another_thread_makes_a_backend() -> None:
    making, go_on, registry = threading.Event(), threading.Event(), JobRegistry()

    def make() -> Any:
        making.set()
        assert go_on.wait(10)
        logging.getLogger("anyjob.made")  # as every import does; a fork holds the lock that this takes
        return memory_backend(BackendConfig(alias="default", url="memory:"))

    manager = JobManager({"default": make}, registry=registry)
    maker = threading.Thread(target=manager.backend)
    maker.start()
    assert making.wait(10)
    threading.Timer(0.05, go_on.set).start()
    in_child(lambda: go_on.is_set() or pytest.fail("forked while a backend was made"))
    maker.join()


def test_a_fork_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forks, "_PATIENCE", 0.01)
    with held(forks.forks_wait()):
        in_child(lambda: forks.forks_wait().__enter__())
    with forks.forks_wait():
        in_child(lambda: forks.forks_wait().__enter__())


def test_a_worker_does_not_run_in_a_child_and_can_be_started_there(own: JobManager) -> None:
    with own.start_worker(options=WorkerOptions(concurrency=2)) as worker:

        def child() -> None:
            assert not worker.running
            assert worker.stop()
            ran = threading.Event()
            own.registry.register_handler("here", lambda _: ran.set())
            with worker.start():
                own.enqueue_by_name("here", None)
                assert ran.wait(10)
            own.close()

        with held(worker._lock):
            in_child(child)
        assert worker.running


def test_a_child_runs_jobs_on_threads_of_its_own(own: JobManager) -> None:
    for name in ("limited", "slow"):
        run(own, name)
    send_async(own)
    own.drain()
    for name in ("limited", "slow"):
        in_child(partial(run, own, name))
    in_child(lambda: send_async(own))
    in_child(own.close)
    run(own, "slow")


def test_a_child_has_none_of_the_jobs_that_its_parent_keeps_in_memory(
    own: JobManager, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        own.enqueue_by_name("plain", {})
    store = own.backend().store  # type: ignore[attr-defined]

    def child() -> None:
        with caplog.at_level(logging.WARNING):
            _report_unrun(weakref.ref(store))
        assert "waiting" not in caplog.text
        assert own.drain() == 0
        assert own.inspect().scan(JobFilter()).jobs == []
        run(own, "plain")

    in_child(child)
    assert own.drain() == 2


def test_what_is_gone_is_no_longer_renewed() -> None:
    gc.collect()
    before = len(forks._begins)
    made: list[object] = [InMemoryJobStore(), JobExecutor(JobRegistry(), clock=SystemClock())]
    assert len(forks._begins) > before
    made.clear()
    gc.collect()
    assert len(forks._begins) == before
