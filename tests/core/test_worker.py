from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import pytest

import anyjob
from anyjob import (
    InvalidOptionError,
    JobEnvelope,
    JobExecutionContext,
    JobManager,
    JobObserver,
    JobPriority,
    JobRegistry,
    JobState,
    JobWorker,
    RetryPolicy,
    SystemClock,
    UnsupportedCapabilityError,
    WorkerOptions,
    background_job,
    current_job,
)
from anyjob.extend import StoreBackend
from anyjob.seams.backend import BackendConfig
from anyjob.seams.outcome import Completed, Outcome, Retry
from anyjob.seams.source import JobClaim
from anyjob.seams.store import JobStore
from anyjob.stores.memory import InMemoryJobStore
from anyjob.stores.store_backend import memory_backend
from anyjob.testing import FakeClock

ABP_TRIES = [0, 60, 180, 420, 900, 1860, 3780, 7620, 15300, 30660, 61380, 122820]

WaitUntil = Callable[[Callable[[], object]], None]


class Gate:
    """A job, `gate`, that blocks until the test lets it go on."""

    def __init__(self, registry: JobRegistry) -> None:
        self.entered = threading.Semaphore(0)
        self.opened = threading.Event()
        self.finished: list[int] = []
        self.stops_seen: list[bool] = []

        @background_job("gate", registry=registry)
        def gate(number: int = 0) -> None:
            self.entered.release()
            self.opened.wait(10)
            self.stops_seen.append(current_job().should_stop)
            self.finished.append(number)


@pytest.fixture
def gate(registry: JobRegistry) -> Gate:
    return Gate(registry)


def counts(manager: JobManager) -> dict[str, int]:
    return {state.value: number for state, number in manager.inspect().count().items() if number}


# Retries under a moved clock


def test_a_job_that_always_fails_is_tried_twelve_times_then_parked_and_runs_when_requeued(
    registry: JobRegistry, manager: JobManager, clock: FakeClock
) -> None:
    start, tries, broken = clock.now(), [], True

    @background_job("fail", registry=registry)
    def fail() -> None:
        tries.append((clock.now() - start).total_seconds())
        if broken:
            raise ConnectionError("no luck")

    job_id = manager.enqueue_by_name("fail", {})
    manager.drain()
    while (due := manager.backend().store.next_due_at(None)) is not None:  # type: ignore[attr-defined]
        clock.travel(to=due - timedelta(microseconds=1))
        assert manager.drain() == 0
        clock.travel(to=due)
        assert manager.drain() == 1
    assert tries == ABP_TRIES

    (parked,) = manager.inspect().scan(_abandoned()).jobs
    assert parked.id == job_id
    assert parked.failure is not None
    assert (parked.failure.error_type, parked.failure.message, parked.failure.tries) == (
        "ConnectionError",
        "no luck",
        12,
    )

    broken = False
    assert manager.inspect().retry(job_id)
    assert manager.drain() == 1
    assert counts(manager) == {}


def _abandoned() -> Any:
    from anyjob import JobFilter

    return JobFilter(states=frozenset({JobState.ABANDONED}))


def test_a_requeued_job_has_its_whole_budget_again(
    registry: JobRegistry, manager: JobManager, clock: FakeClock
) -> None:
    seen = []

    @background_job("fail", registry=registry, retry=RetryPolicy(max_tries=2))
    def fail() -> None:
        seen.append(current_job().try_count)
        raise ValueError

    job_id = manager.enqueue_by_name("fail", {})
    for _ in range(3):
        manager.drain()
        clock.travel(60)
        manager.drain()
        clock.travel(days=30)
        assert counts(manager) == {"abandoned": 1}
        assert manager.inspect().retry(job_id)
    assert seen == [1, 2] * 3


# Order


def test_higher_priority_first_even_at_a_busy_worker(registry: JobRegistry, manager: JobManager) -> None:
    ran: list[str] = []

    @background_job("low", registry=registry, priority=JobPriority.LOW)
    def low(number: int) -> None:
        ran.append(f"low {number}")
        if number == 2:
            for urgent in range(5):
                manager.enqueue_by_name("high", {"number": urgent})

    @background_job("high", registry=registry, priority=JobPriority.HIGH)
    def high(number: int) -> None:
        ran.append(f"high {number}")

    for number in range(6):
        manager.enqueue_by_name("low", {"number": number})
    assert manager.drain() == 11
    lows, highs = [f"low {n}" for n in range(6)], [f"high {n}" for n in range(5)]
    assert ran == [*lows[:3], *highs, *lows[3:]]


def test_a_worker_serves_its_queues_only(registry: JobRegistry, manager: JobManager, gate: Gate) -> None:
    gate.opened.set()
    for queue in ("mail", "report", "mail"):
        manager.enqueue_by_name("gate", {}, queue=queue)
    assert manager.worker(options=WorkerOptions(queues=("mail",))).drain() == 2
    assert counts(manager) == {"waiting": 1}


# Drain


def test_drain_runs_what_jobs_enqueue_and_stops_at_its_limit(registry: JobRegistry, manager: JobManager) -> None:
    ran = []

    @background_job("chain", registry=registry)
    def chain(left: int) -> None:
        ran.append(left)
        if left:
            manager.enqueue_by_name("chain", {"left": left - 1})

    manager.enqueue_by_name("chain", {"left": 9})
    assert manager.worker().drain(max_jobs=0) == 0
    assert manager.worker().drain(max_jobs=4) == 4
    assert manager.drain() == 6
    assert ran == list(range(9, -1, -1))


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()])
def test_a_job_that_exits_is_a_failed_try_of_drain_and_its_neighbour_runs(
    registry: JobRegistry, manager: JobManager, error: BaseException
) -> None:
    ran = []

    @background_job("exit", registry=registry, retry=None)
    def leave(number: int) -> None:
        ran.append(number)
        if number == 1:
            raise error

    for number in (1, 2):
        manager.enqueue_by_name("exit", {"number": number})
    assert manager.drain() == 2
    assert ran == [1, 2]
    assert counts(manager) == {"abandoned": 1}


@pytest.mark.usefixtures("python_heeds_ctrl_c")
@pytest.mark.parametrize("is_async", [False, True])
def test_a_ctrl_c_leaves_drain_and_costs_the_job_nothing(
    registry: JobRegistry, manager: JobManager, *, is_async: bool
) -> None:
    seen = []

    def look() -> None:
        seen.append((current_job().try_count, current_job().lost_count))
        if len(seen) == 1:
            signal.raise_signal(signal.SIGINT) if not is_async else os.kill(os.getpid(), signal.SIGINT)

    async def alook() -> None:
        look()
        if len(seen) == 1:
            await asyncio.Event().wait()  # until it is cancelled

    background_job("look", registry=registry, retry=None)(alook if is_async else look)
    manager.enqueue_by_name("look", {})
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        manager.drain()
    assert signal.getsignal(signal.SIGINT) is before
    assert counts(manager) == {"waiting": 1}
    assert manager.drain() == 1
    assert seen == [(1, 0), (1, 0)]


@pytest.mark.usefixtures("python_heeds_ctrl_c")
def test_a_ctrl_c_that_hits_a_drain_within_a_job_ends_both(registry: JobRegistry, manager: JobManager) -> None:
    seen = []

    @background_job("outer", registry=registry, retry=None)
    def outer() -> None:
        seen.append("outer")
        if len(seen) == 1:
            manager.drain()

    @background_job("inner", registry=registry, retry=None)
    def inner() -> None:
        seen.append("inner")
        signal.raise_signal(signal.SIGINT)

    for name in ("outer", "inner"):
        manager.enqueue_by_name(name, {})
    with pytest.raises(KeyboardInterrupt):
        manager.drain()
    assert (seen, counts(manager)) == (["outer", "inner"], {"waiting": 2})


@pytest.mark.usefixtures("python_heeds_ctrl_c")
def test_a_ctrl_c_that_somebody_swallowed_ends_drain_all_the_same(
    make_manager: Callable[..., JobManager], registry: JobRegistry
) -> None:
    class Interrupted(JobObserver):
        def succeeded(self, job: JobExecutionContext, result: object) -> None:
            signal.raise_signal(signal.SIGINT)

    manager = make_manager(observers=[Interrupted()])
    background_job("nothing", registry=registry)(lambda: None)
    for _ in range(2):
        manager.enqueue_by_name("nothing", {})
    with pytest.raises(KeyboardInterrupt):
        manager.drain()
    assert counts(manager) == {"waiting": 1}  # the first had succeeded, and is settled


TENANT: ContextVar[Any] = ContextVar("TENANT", default=None)


@pytest.mark.parametrize("is_async", [False, True])
def test_drain_runs_jobs_in_an_empty_context_as_workers_do(
    registry: JobRegistry, manager: JobManager, *, is_async: bool
) -> None:
    seen = []

    def look() -> None:
        seen.append(TENANT.get())
        TENANT.set("the job's")

    async def alook() -> None:
        look()

    background_job("look", registry=registry)(alook if is_async else look)
    token = TENANT.set("the test's")
    try:
        manager.enqueue_many([manager.prepare_by_name("look", {}) for _ in range(2)])
        assert manager.drain() == 2
        assert (seen, TENANT.get()) == ([None, None], "the test's")
    finally:
        TENANT.reset(token)


def test_an_async_job_that_drain_runs_is_not_led_back_to_the_loop_that_waits_for_it(
    registry: JobRegistry, manager: JobManager
) -> None:
    """As asgiref's `sync_to_async` leads: by a context variable, to the thread that is blocked in `drain`."""

    @background_job("led", registry=registry, retry=None)
    async def led() -> None:
        if (loop := TENANT.get()) is not None:
            await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(asyncio.sleep(0), loop))

    async def test() -> int:
        TENANT.set(asyncio.get_running_loop())
        manager.enqueue_by_name("led", {})
        rescue = threading.Timer(10, manager.executor.close)  # so that a failure blocks nobody for ever
        rescue.start()
        try:
            return manager.drain()
        finally:
            rescue.cancel()

    assert asyncio.run(test()) == 1
    assert counts(manager) == {}


def test_observers_hear_of_what_goes_back_at_a_stop_and_of_what_was_lost(
    make_manager: Callable[..., JobManager], clock: FakeClock, gate: Gate, wait_until: WaitUntil
) -> None:
    heard: list[tuple[str, str, int]] = []

    class Heard(JobObserver):
        def released(self, envelope: JobEnvelope) -> None:
            heard.append(("released", envelope.id, envelope.lost_count))

        def lost(self, envelope: JobEnvelope) -> None:
            heard.append(("lost", envelope.id, envelope.lost_count))

        def cancelled(self, envelope: JobEnvelope) -> None:
            heard.append(("cancelled", envelope.id, envelope.lost_count))

    manager = make_manager(observers=[Heard()])
    worker = manager.start_worker()
    job_id = manager.enqueue_by_name("gate", {})
    assert gate.entered.acquire(timeout=10)
    finished: list[bool] = []
    stopper = threading.Thread(target=lambda: finished.append(worker.stop(timeout=30)))
    stopper.start()
    _travel_until(clock, wait_until, lambda: finished)
    stopper.join(10)
    assert heard == [("released", job_id, 0)]
    gate.opened.set()
    store = manager.backend().store  # type: ignore[attr-defined]
    store.claim(queues=None, limit=1, lease=timedelta(seconds=60), worker="gone")
    clock.travel(60)
    assert manager.drain() == 1
    assert heard[1:] == [("lost", job_id, 1)]
    late = manager.enqueue_by_name("gate", {}, delay=60)
    assert not manager.inspect().cancel(job_id)
    assert manager.inspect().cancel(late)
    assert heard[2:] == [("cancelled", late, 0)]


# Threads


def test_a_local_enqueue_wakes_an_idle_worker_at_once(registry: JobRegistry, wait_until: WaitUntil) -> None:
    store = InMemoryJobStore(SystemClock())
    manager = _manager_of(store, registry)
    took: list[float] = []

    @background_job("when", registry=registry)
    def when(sent: float) -> None:
        took.append(time.monotonic() - sent)

    manager.backend().source().poll = 60  # type: ignore[union-attr]
    with manager.start_worker() as worker:
        for number in range(1, 21):
            wait_until(lambda: worker.idle)  # to measure from sleep
            manager.enqueue_by_name("when", {"sent": time.monotonic()})
            wait_until(partial(_has, took, number))
    assert sorted(took)[10] < 0.1


def _has(items: Sequence[object], number: int) -> bool:
    return len(items) == number


def _logged(caplog: pytest.LogCaptureFixture, text: str) -> bool:
    return text in caplog.text


def _manager_of(store: JobStore, registry: JobRegistry, lease: float = 30.0) -> JobManager:
    from anyjob.extend import StoreBackend
    from anyjob.seams.capabilities import Capabilities, Quality

    can = Capabilities(priority=Quality.EXACT, delay=Quality.EXACT, in_process=True)
    return JobManager(StoreBackend(store, can, lease=lease), registry=registry, clock=store.clock)


def test_a_worker_sleeps_until_a_job_is_due(
    registry: JobRegistry, manager: JobManager, clock: FakeClock, gate: Gate, wait_until: WaitUntil
) -> None:
    gate.opened.set()
    manager.backend().source().poll = 3600  # type: ignore[union-attr]
    with manager.start_worker() as worker:
        manager.enqueue_by_name("gate", {"number": 1}, delay=90)
        wait_until(lambda: worker.idle)
        clock.travel(89)
        wait_until(lambda: worker.idle)
        assert gate.finished == []
        clock.travel(1)
        wait_until(lambda: gate.finished == [1])


def test_jobs_run_at_the_same_time_as_told(manager: JobManager, gate: Gate, wait_until: WaitUntil) -> None:
    with manager.start_worker(options=WorkerOptions(concurrency=3)):
        manager.enqueue_many([gate_job(manager, number) for number in range(4)])
        for _ in range(3):
            assert gate.entered.acquire(timeout=10)
        assert counts(manager) == {"running": 3, "waiting": 1}
        gate.opened.set()
        wait_until(lambda: sorted(gate.finished) == [0, 1, 2, 3])


def gate_job(manager: JobManager, number: int) -> JobEnvelope:
    return manager.prepare_by_name("gate", {"number": number})


def test_two_workers_run_each_job_once(registry: JobRegistry, manager: JobManager, wait_until: WaitUntil) -> None:
    ran: list[int] = []

    @background_job("note", registry=registry)
    def note(number: int) -> None:
        ran.append(number)

    with manager.start_worker(options=WorkerOptions(concurrency=2)), manager.start_worker():
        for number in range(300):
            manager.enqueue_by_name("note", {"number": number})
        wait_until(lambda: len(ran) >= 300)
    assert sorted(ran) == list(range(300))


def test_whatever_a_job_raises_the_worker_lives_on(
    registry: JobRegistry, manager: JobManager, wait_until: WaitUntil
) -> None:
    ran = []

    class Strange(BaseException):
        pass

    errors: list[type[BaseException]] = [
        SystemExit,
        KeyboardInterrupt,
        Strange,
        GeneratorExit,
        asyncio.CancelledError,
        MemoryError,
        RecursionError,
    ]

    @background_job("raise", registry=registry, retry=None)
    def raise_it(number: int) -> None:
        ran.append(number)
        if number < len(errors):
            raise errors[number]

    with manager.start_worker():
        for number in range(len(errors) + 1):
            manager.enqueue_by_name("raise", {"number": number})
        wait_until(lambda: len(ran) == len(errors) + 1)
        wait_until(lambda: counts(manager) == {"abandoned": len(errors)})
    assert ran == list(range(len(errors) + 1))  # once each


def test_a_raising_resolver_is_a_failed_try(
    make_manager: Callable[..., JobManager], registry: JobRegistry, clock: FakeClock
) -> None:
    from dataclasses import dataclass

    from anyjob import BackgroundJob, job_name

    broken, ran = True, []

    def resolver(job: type[Any]) -> Any:
        if broken:
            raise ConnectionError("container is down")
        return job()

    manager = make_manager(resolver=resolver)

    @job_name("counted")
    @dataclass
    class Args:
        number: int

    class Job(BackgroundJob[Args], registry=registry):
        def execute(self, args: Args) -> None:
            ran.append((args.number, current_job().try_count))

    manager.enqueue(Args(1))
    manager.drain()
    assert counts(manager) == {"scheduled": 1}
    broken = False
    clock.travel(60)
    manager.drain()
    assert ran == [(1, 2)]


class BrokenStore(InMemoryJobStore):
    """A storage that is away now and then."""

    failing = 0

    def claim(self, **options: Any) -> Sequence[JobClaim]:
        if self.failing:
            self.failing -= 1
            raise ConnectionError("storage is away")
        return super().claim(**options)


def test_a_store_that_fails_for_a_while_does_not_end_the_worker(
    registry: JobRegistry, clock: FakeClock, gate: Gate, wait_until: WaitUntil, caplog: pytest.LogCaptureFixture
) -> None:
    store = BrokenStore(clock)
    manager = _manager_of(store, registry)
    gate.opened.set()
    store.failing = 3
    with manager.start_worker():
        for pause in (0.1, 0.2, 0.4):
            wait_until(partial(_logged, caplog, f"goes on pause={pause}s"))
            clock.travel(pause)
        manager.enqueue_by_name("gate", {"number": 1})
        wait_until(lambda: gate.finished == [1])


class OneWayStore(InMemoryJobStore):
    """Can't put back what is to be tried again."""

    def settle(self, claim: JobClaim, outcome: Outcome) -> bool:
        if isinstance(outcome, Retry):
            raise TypeError("no row holds this")
        return super().settle(claim, outcome)


def test_an_outcome_that_can_never_be_kept_is_counted_and_parked_in_the_end(
    registry: JobRegistry, clock: FakeClock
) -> None:
    store, begun = OneWayStore(clock), []
    manager = _manager_of(store, registry)

    @background_job("fails", registry=registry)
    def fails() -> None:
        begun.append(current_job().lost_count)
        raise ValueError

    manager.enqueue_by_name("fails", {})
    for _ in range(6):
        with pytest.raises(TypeError):
            manager.drain()
        assert counts(manager) == {"running": 1}  # until its lease ends: not in a tight loop
        clock.travel(60)
    assert manager.drain() == 1
    assert (begun, counts(manager)) == ([0, 1, 2, 3, 4, 5], {"abandoned": 1})


# Leases


def test_a_long_job_keeps_its_lease(manager: JobManager, clock: FakeClock, gate: Gate, wait_until: WaitUntil) -> None:
    store = manager.backend().store  # type: ignore[attr-defined]
    with manager.start_worker():
        manager.enqueue_by_name("gate", {})
        assert gate.entered.acquire(timeout=10)
        for _ in range(12):
            clock.travel(10)
            wait_until(lambda: store._leases and _left(store, clock) > 25)  # noqa: SLF001
        gate.opened.set()
        wait_until(lambda: counts(manager) == {})
    assert gate.finished == [0]


def _left(store: Any, clock: FakeClock) -> float:
    until: float = min(lease.until for lease in store._leases.values())  # noqa: SLF001
    return until - clock.monotonic()


def test_what_a_vanished_worker_ran_is_rescued_and_its_loss_counted(
    registry: JobRegistry, manager: JobManager, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    seen = []

    @background_job("look", registry=registry)
    def look() -> None:
        seen.append((current_job().try_count, current_job().lost_count))

    manager.enqueue_by_name("look", {})
    store = manager.backend().store  # type: ignore[attr-defined]
    store.claim(queues=None, limit=1, lease=timedelta(seconds=60), worker="web1-7")
    assert manager.drain() == 0
    clock.travel(72)
    assert manager.drain() == 1
    assert seen == [(1, 1)]
    assert "lost_by=web1-7 lease_expired=12s" in caplog.text


def test_a_job_that_always_takes_its_worker_along_is_parked(
    registry: JobRegistry, manager: JobManager, clock: FakeClock, gate: Gate
) -> None:
    gate.opened.set()
    manager.enqueue_by_name("gate", {})
    store = manager.backend().store  # type: ignore[attr-defined]
    for _ in range(6):
        assert store.claim(queues=None, limit=1, lease=timedelta(seconds=60), worker="w")
        clock.travel(60)
        store.recover()
    manager.drain()
    assert gate.finished == []
    (parked,) = manager.inspect().scan(_abandoned()).jobs
    assert parked.failure is not None
    assert parked.failure.message == "its process ended 6 times while it ran"


# A wall clock that somebody sets


@pytest.mark.parametrize("step", [-3600, 3600])
def test_leases_are_renewed_at_their_pace_whatever_the_wall_clock_does(
    manager: JobManager, clock: FakeClock, gate: Gate, wait_until: WaitUntil, step: float
) -> None:
    store = manager.backend().store  # type: ignore[attr-defined]
    with manager.start_worker():
        manager.enqueue_by_name("gate", {})
        assert gate.entered.acquire(timeout=10)
        clock.step(step)
        for _ in range(4):
            clock.travel(10)
            wait_until(lambda: store._leases and _left(store, clock) > 25)  # noqa: SLF001
        gate.opened.set()
        wait_until(lambda: counts(manager) == {})
    assert gate.finished == [0]


@pytest.mark.parametrize("step", [-3600, 3600])
def test_what_a_vanished_worker_ran_is_rescued_when_its_lease_is_over_whatever_the_wall_clock_does(
    manager: JobManager, clock: FakeClock, gate: Gate, step: float
) -> None:
    gate.opened.set()
    manager.enqueue_by_name("gate", {})
    manager.backend().store.claim(  # type: ignore[attr-defined]
        queues=None, limit=1, lease=timedelta(seconds=60), worker="gone"
    )
    clock.step(step)
    clock.travel(59)
    assert manager.drain() == 0
    clock.step(3600)  # else the job, made at noon, were due in an hour
    clock.travel(1)
    assert manager.drain() == 1


def test_an_idle_worker_looks_again_though_the_wall_clock_was_set_back(
    manager: JobManager, clock: FakeClock, gate: Gate, wait_until: WaitUntil
) -> None:
    gate.opened.set()
    manager.backend().source().poll = 5  # type: ignore[union-attr]
    with manager.start_worker() as worker:
        wait_until(lambda: worker.idle and clock._waiting)  # noqa: SLF001
        clock.step(-3600)
        manager.backend().store.insert([gate_job(manager, 1)])  # type: ignore[attr-defined]  # as another process would
        clock.travel(5)
        wait_until(lambda: gate.finished == [1])


def test_a_job_runs_when_the_wall_clock_reaches_its_time_however_it_got_there(
    manager: JobManager, clock: FakeClock, gate: Gate, wait_until: WaitUntil
) -> None:
    gate.opened.set()
    manager.enqueue_by_name("gate", {"number": 1}, delay=3600)
    manager.backend().source().poll = 5  # type: ignore[union-attr]
    with manager.start_worker() as worker:
        wait_until(lambda: worker.idle)
        clock.step(3600)
        clock.travel(5)
        wait_until(lambda: gate.finished == [1])


def test_a_stop_takes_no_longer_when_the_wall_clock_is_set_back(
    manager: JobManager, clock: FakeClock, gate: Gate, wait_until: WaitUntil
) -> None:
    worker = manager.start_worker()
    manager.enqueue_by_name("gate", {})
    assert gate.entered.acquire(timeout=10)
    finished: list[bool] = []
    stopper = threading.Thread(target=lambda: finished.append(worker.stop(timeout=30)))
    stopper.start()
    wait_until(lambda: not worker.running)
    clock.step(-3600)
    begun = clock.monotonic()
    _travel_until(clock, wait_until, lambda: finished or clock.monotonic() - begun > 600)
    stopper.join(10)
    assert finished == [False]
    gate.opened.set()


# Stop


def test_stop_waits_for_running_jobs_and_claims_no_more(manager: JobManager, gate: Gate, wait_until: WaitUntil) -> None:
    worker = manager.start_worker()
    manager.enqueue_many([gate_job(manager, number) for number in range(2)])
    assert gate.entered.acquire(timeout=10)
    finished: list[bool] = []
    stopper = threading.Thread(target=lambda: finished.append(worker.stop()))
    stopper.start()
    wait_until(lambda: not worker.running)
    gate.opened.set()
    stopper.join(10)
    assert finished == [True]
    assert gate.finished == [0]
    assert gate.stops_seen == [True]
    assert counts(manager) == {"waiting": 1}
    assert worker.stop()  # again is fine


def test_what_outlasts_the_stop_goes_back_uncharged_and_is_fenced(
    manager: JobManager, clock: FakeClock, gate: Gate, wait_until: WaitUntil, caplog: pytest.LogCaptureFixture
) -> None:
    worker = manager.start_worker()
    manager.enqueue_by_name("gate", {})
    assert gate.entered.acquire(timeout=10)
    finished: list[bool] = []
    stopper = threading.Thread(target=lambda: finished.append(worker.stop(timeout=30)))
    stopper.start()
    _travel_until(clock, wait_until, lambda: finished)
    stopper.join(10)
    assert finished == [False]
    assert counts(manager) == {"waiting": 1}
    (job,) = manager.inspect().scan(_everything()).jobs
    assert job.envelope is not None
    assert (job.envelope.try_count, job.envelope.lost_count) == (0, 0)
    gate.opened.set()  # the thread comes to its end, and may settle nothing
    wait_until(lambda: "fenced" in caplog.text)
    assert counts(manager) == {"waiting": 1}


def _everything() -> Any:
    from anyjob import JobFilter

    return JobFilter()


def _travel_until(clock: FakeClock, wait_until: WaitUntil, condition: Callable[[], object]) -> None:
    def step() -> object:
        clock.travel(5)
        return condition()

    wait_until(step)


def test_async_jobs_are_cancelled_when_the_time_is_up_and_go_back_uncharged(
    registry: JobRegistry, manager: JobManager, clock: FakeClock, wait_until: WaitUntil
) -> None:
    entered, cleaned = threading.Event(), threading.Event()

    @background_job("hang", registry=registry)
    async def hang() -> None:
        entered.set()
        try:
            await asyncio.Event().wait()
        finally:
            cleaned.set()

    worker = manager.start_worker()
    manager.enqueue_by_name("hang", {})
    assert entered.wait(10)
    finished: list[bool] = []
    stopper = threading.Thread(target=lambda: finished.append(worker.stop(timeout=10)))
    stopper.start()
    _travel_until(clock, wait_until, lambda: finished)
    stopper.join(10)
    assert finished == [False]
    assert cleaned.wait(10)
    wait_until(lambda: counts(manager) == {"waiting": 1})
    (job,) = manager.inspect().scan(_everything()).jobs
    assert job.envelope is not None
    assert job.envelope.try_count == 0


def test_a_worker_can_be_started_again_and_not_twice(manager: JobManager, gate: Gate, wait_until: WaitUntil) -> None:
    gate.opened.set()
    worker = manager.start_worker()
    with pytest.raises(InvalidOptionError, match="runs already"):
        worker.start()
    worker.stop()
    manager.enqueue_by_name("gate", {"number": 1})
    with worker.start():
        wait_until(lambda: gate.finished == [1])


def test_a_thread_that_outlived_a_stop_is_not_revived_by_the_next_start(
    manager: JobManager, clock: FakeClock, gate: Gate, wait_until: WaitUntil
) -> None:
    worker = manager.start_worker()
    manager.enqueue_by_name("gate", {"number": 1})
    assert gate.entered.acquire(timeout=10)
    finished: list[bool] = []
    stopper = threading.Thread(target=lambda: finished.append(worker.stop(timeout=0)))
    stopper.start()
    _travel_until(clock, wait_until, lambda: finished)
    before = threading.active_count()
    worker.start()
    assert gate.entered.acquire(timeout=10)  # given back, it runs again, in the new thread
    gate.opened.set()
    wait_until(lambda: len(gate.finished) == 2)
    wait_until(lambda: threading.active_count() <= before + 1)
    worker.stop()


def test_what_worker_options_leave_unsaid_is_the_settings(registry: JobRegistry) -> None:
    with anyjob.override(backend="memory:", lease=10, stop_timeout=3) as manager:
        worker = manager.worker(options=WorkerOptions(concurrency=4))
        assert (worker._lease, worker._options.stops_within) == (10, 3)  # noqa: SLF001
        bound = manager.backend().capabilities.redelivery_bound
        assert bound == timedelta(seconds=worker._lease) * 4 / 3  # noqa: SLF001
        worker = manager.worker(options=WorkerOptions(stop_timeout=0))
        assert worker._options.stops_within == 0  # noqa: SLF001
    in_code = JobManager(memory_backend(BackendConfig(alias="main", url="memory:")), registry=registry)
    worker = in_code.worker(options=WorkerOptions())
    assert in_code.backend().capabilities.redelivery_bound == timedelta(seconds=worker._lease) * 4 / 3  # noqa: SLF001


@pytest.mark.parametrize("wrong", [{"concurrency": 0}, {"stop_timeout": -1}])
def test_options_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidOptionError, match=next(iter(wrong))):
        WorkerOptions(**wrong)


class SlowToSettle(InMemoryJobStore):
    """Loses every lease just before it is settled."""

    def settle(self, claim: JobClaim, outcome: Outcome) -> bool:
        if outcome == Completed():
            self.release([claim])
        return super().settle(claim, outcome)


def test_a_fenced_result_is_said_aloud(
    registry: JobRegistry, clock: FakeClock, gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    gate.opened.set()
    manager = _manager_of(SlowToSettle(clock), registry)
    manager.enqueue_by_name("gate", {})
    JobWorker(manager.backend().store, manager.executor).drain(max_jobs=1)  # type: ignore[attr-defined]
    assert [record.levelno for record in caplog.records if "may have run twice" in record.message] == [logging.WARNING]


def test_a_rescue_wakes_an_idle_worker(registry: JobRegistry, gate: Gate, wait_until: WaitUntil) -> None:
    gate.opened.set()
    store = InMemoryJobStore(SystemClock())
    manager = _manager_of(store, registry, lease=0.3)
    manager.enqueue_by_name("gate", {"number": 1})
    store.claim(queues=None, limit=1, lease=timedelta(milliseconds=50), worker="gone")
    manager.backend().source().poll = 3600  # type: ignore[union-attr]
    with manager.start_worker():
        wait_until(lambda: gate.finished == [1])


# Workers beside each other, and stores that are slow or away


def _hanging_job(registry: JobRegistry) -> tuple[threading.Semaphore, threading.Event]:
    entered, opened = threading.Semaphore(0), threading.Event()

    @background_job("hang", registry=registry, retry=None)
    async def hang() -> None:
        entered.release()
        while not opened.is_set():  # noqa: ASYNC110  # another thread's event
            await asyncio.sleep(0.002)

    return entered, opened


def test_stopping_one_worker_leaves_the_async_jobs_of_another_alone(
    registry: JobRegistry, wait_until: WaitUntil
) -> None:
    manager = _manager_of(InMemoryJobStore(SystemClock()), registry)
    entered, opened = _hanging_job(registry)
    first = manager.start_worker(options=WorkerOptions(queues=("a",)))
    second = manager.start_worker(options=WorkerOptions(queues=("b",)))
    manager.enqueue_by_name("hang", {}, queue="a")
    manager.enqueue_by_name("hang", {}, queue="b")
    for _ in range(2):
        assert entered.acquire(timeout=10)
    assert not first.stop(timeout=0)
    assert counts(manager) == {"waiting": 1, "running": 1}
    opened.set()
    assert second.stop()
    assert counts(manager) == {"waiting": 1}  # the second's was completed, the first's goes on another time


def test_a_worker_can_not_be_started_while_it_stops(manager: JobManager, gate: Gate, wait_until: WaitUntil) -> None:
    worker = manager.start_worker()
    manager.enqueue_by_name("gate", {})
    assert gate.entered.acquire(timeout=10)
    stopper = threading.Thread(target=worker.stop)
    stopper.start()
    wait_until(lambda: not worker.running)
    with pytest.raises(InvalidOptionError, match="runs already"):
        worker.start()
    gate.opened.set()
    stopper.join(10)
    with worker.start():
        assert worker.running


class SlowStore(InMemoryJobStore):
    """Its first claim takes as long as the test wants."""

    def __init__(self, clock: Any) -> None:
        super().__init__(clock)
        self.claiming, self.go_on = threading.Event(), threading.Event()

    def claim(self, **options: Any) -> Sequence[JobClaim]:
        self.claiming.set()
        self.go_on.wait(10)
        return super().claim(**options)


def test_a_slow_store_does_not_hold_up_who_enqueues(registry: JobRegistry, gate: Gate, wait_until: WaitUntil) -> None:
    store = SlowStore(SystemClock())
    manager = _manager_of(store, registry)
    gate.opened.set()
    with manager.start_worker() as worker:
        store.go_on.set()
        wait_until(lambda: worker.idle)
        store.go_on.clear()
        store.claiming.clear()
        manager.enqueue_by_name("gate", {"number": 1})
        assert store.claiming.wait(10)
        manager.enqueue_by_name("gate", {"number": 2})  # would wait for the claim, if that held the lock
        store.go_on.set()
        wait_until(lambda: sorted(gate.finished) == [1, 2])


class ForgetfulStore(InMemoryJobStore):
    """Away when it comes to settling, for a while."""

    failing = 2

    def settle(self, claim: JobClaim, outcome: Outcome) -> bool:
        if self.failing:
            self.failing -= 1
            raise ConnectionError("storage is away")
        return super().settle(claim, outcome)


def test_what_ran_is_settled_once_the_store_is_back_and_does_not_count_as_a_crash(
    registry: JobRegistry, clock: FakeClock, gate: Gate, wait_until: WaitUntil, caplog: pytest.LogCaptureFixture
) -> None:
    manager = _manager_of(ForgetfulStore(clock), registry)
    gate.opened.set()
    with manager.start_worker():
        manager.enqueue_by_name("gate", {"number": 1})
        for pause in (0.1, 0.2):
            wait_until(partial(_logged, caplog, f"pause={pause}s"))
            clock.travel(pause)
        wait_until(lambda: counts(manager) == {})
    assert gate.finished == [1]


def test_in_drain_a_store_that_is_away_is_the_callers_to_know(
    registry: JobRegistry, clock: FakeClock, gate: Gate
) -> None:
    manager = _manager_of(ForgetfulStore(clock), registry)
    gate.opened.set()
    manager.enqueue_by_name("gate", {})
    with pytest.raises(ConnectionError):
        manager.drain()


def test_enqueues_cost_the_lease_keeper_nothing(registry: JobRegistry, gate: Gate, wait_until: WaitUntil) -> None:
    class Counting(InMemoryJobStore):
        recovered = 0

        def recover(self) -> Any:
            self.recovered += 1
            return super().recover()

    store = Counting(SystemClock())
    manager = _manager_of(store, registry)
    gate.opened.set()
    with manager.start_worker():
        for number in range(50):
            manager.enqueue_by_name("gate", {"number": number})
        wait_until(lambda: len(gate.finished) == 50)
        assert store.recovered == 1


def test_closing_the_manager_stops_its_workers_first(
    registry: JobRegistry, make_manager: Callable[..., JobManager], wait_until: WaitUntil
) -> None:
    manager = make_manager()
    entered, opened = _hanging_job(registry)
    worker = manager.start_worker()
    manager.enqueue_by_name("hang", {})
    assert entered.acquire(timeout=10)
    closer = threading.Thread(target=manager.close)
    closer.start()
    wait_until(lambda: not worker.running)
    opened.set()
    closer.join(10)
    assert counts(manager) == {}


def test_a_job_due_at_the_end_of_time_holds_nobody_up(
    registry: JobRegistry, manager: JobManager, clock: FakeClock, gate: Gate
) -> None:
    from msgspec.structs import replace

    gate.opened.set()
    envelope = gate_job(manager, 1)
    never = datetime.max.replace(tzinfo=clock.now().tzinfo)
    store = manager.backend().store  # type: ignore[attr-defined]
    store.insert([replace(envelope, due_at=never)])
    assert store.next_due_at(None) <= never
    manager.enqueue_by_name("gate", {"number": 2})
    assert manager.drain() == 1


@pytest.mark.parametrize(
    ("queues", "message"), [("mail", "queues are a tuple"), (("mial",), "no queue 'mial'. Did you mean 'mail'")]
)
def test_queues_that_a_worker_can_not_serve_are_refused(
    make_manager: Callable[..., JobManager], queues: Any, message: str
) -> None:
    manager = make_manager(queues={"default": ["mail"]})
    with pytest.raises(InvalidOptionError, match=message):
        manager.worker(options=WorkerOptions(queues=queues))


# Workers that end by themselves


@pytest.mark.parametrize("concurrency", [1, 3])
def test_a_burst_runs_what_is_due_with_what_comes_of_it_and_ends(
    registry: JobRegistry, make_manager: Callable[..., JobManager], concurrency: int
) -> None:
    ran: list[int] = []

    @background_job("chain", registry=registry, retry=RetryPolicy(max_tries=2, first_wait=60))
    def chain(left: int) -> None:
        ran.append(left)
        if left:
            manager.enqueue_by_name("chain", {"left": left - 1})
        else:
            raise ConnectionError("to be tried again, later")

    manager = make_manager()
    manager.enqueue_by_name("chain", {"left": 3})
    manager.enqueue_by_name("chain", {"left": 1}, delay=3600)
    worker = manager.start_worker(options=WorkerOptions(burst=True, concurrency=concurrency))
    assert worker.join(10)
    assert not worker.running
    assert ran == [3, 2, 1, 0]
    assert counts(manager) == {"scheduled": 2}
    assert worker.stop()
    assert worker.start().join(10)  # nothing is due: over at once


def test_a_burst_waits_for_the_job_that_still_runs_and_takes_what_that_leads_to(
    gate: Gate, manager: JobManager
) -> None:
    manager.enqueue_by_name("gate", {"number": 1})
    with manager.start_worker(options=WorkerOptions(burst=True, concurrency=2)) as worker:
        assert gate.entered.acquire(timeout=10)
        assert not worker.join(0.0)
        for number in (2, 3):  # both threads run: the one that found nothing was not gone
            manager.enqueue_by_name("gate", {"number": number})
        assert gate.entered.acquire(timeout=10)
        gate.opened.set()
        assert worker.join(10)
    assert sorted(gate.finished) == [1, 2, 3]
    assert gate.stops_seen == [False] * 3


@pytest.mark.parametrize("concurrency", [1, 2])
def test_a_worker_ends_after_so_many_jobs(
    registry: JobRegistry, make_manager: Callable[..., JobManager], concurrency: int
) -> None:
    ran: list[int] = []

    @background_job("note", registry=registry)
    def note(number: int) -> None:
        ran.append(number)

    manager = make_manager(worker_options=WorkerOptions(max_jobs=3, concurrency=concurrency))
    with manager.start_worker() as worker:  # which waits for them
        for number in range(5):
            manager.enqueue_by_name("note", {"number": number})
        assert worker.join(10)
    assert sorted(ran) == [0, 1, 2]
    assert counts(manager) == {"waiting": 2}
    assert manager.drain() == 2


@pytest.mark.parametrize(("enqueued", "left"), [(2, {}), (4, {"waiting": 1})])
def test_a_burst_of_so_many_jobs_ends_with_whichever_comes_first(
    gate: Gate, manager: JobManager, enqueued: int, left: dict[str, int]
) -> None:
    gate.opened.set()
    for _ in range(enqueued):
        manager.enqueue_by_name("gate", {})
    with manager.start_worker(options=WorkerOptions(burst=True, max_jobs=3, concurrency=2)) as worker:
        assert worker.join(10)
    assert counts(manager) == left


def test_queues_may_be_excluded(registry: JobRegistry, make_manager: Callable[..., JobManager]) -> None:
    ran: list[str] = []
    background_job("mail", queue="mail", registry=registry)(lambda: ran.append("mail"))
    background_job("web", queue="web", registry=registry)(lambda: ran.append("web"))
    manager = make_manager()
    for name in ("mail", "web"):
        manager.enqueue_by_name(name, {})
    manager.worker(options=WorkerOptions(exclude_queues=("mail",))).drain()
    assert ran == ["web"]
    with pytest.raises(
        InvalidOptionError, match=r"no queue 'mial' to exclude\. Did you mean 'mail'.*default, mail, web"
    ):
        manager.worker(options=WorkerOptions(exclude_queues=("mial",)))
    with pytest.raises(InvalidOptionError, match="there is no queue to serve"):
        manager.worker(options=WorkerOptions(exclude_queues=("mail", "web", "default")))
    closed = make_manager(queues={"default": ["mail", "bulk"]})
    with pytest.raises(InvalidOptionError, match=r"no queue 'web' to exclude.*: mail, bulk"):
        closed.worker(options=WorkerOptions(exclude_queues=("web",)))


@pytest.mark.parametrize("options", [{"burst": True}, {"max_jobs": 1}])
def test_a_worker_that_cannot_end_by_itself_is_refused(server: StoreBackend, manager: JobManager, options: Any) -> None:
    server.capabilities = replace(server.capabilities, bounded_worker=False)
    with pytest.raises(UnsupportedCapabilityError, match=r"Backend 'default'.*no burst and no max_jobs"):
        manager.worker(options=WorkerOptions(**options))


@pytest.mark.parametrize(
    "options",
    [{"max_jobs": 0}, {"max_jobs": 1.5}, {"exclude_queues": "mail"}, {"queues": ("a",), "exclude_queues": ("b",)}],
)
def test_bounds_that_make_no_sense_are_refused(options: Any) -> None:
    with pytest.raises(InvalidOptionError, match="WorkerOptions"):
        WorkerOptions(**options)
