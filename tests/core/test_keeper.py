"""What a process claimed, and the worker over sources that are no stores."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from typing import Any

import pytest

from anyjob import (
    EnqueueError,
    JobEnvelope,
    JobManager,
    JobRegistry,
    JobWorker,
    SystemClock,
    WorkerOptions,
    background_job,
    current_job,
)
from anyjob.extend import StoreBackend
from anyjob.run.keeper import ClaimKeeper
from anyjob.seams.capabilities import Capabilities, Quality
from anyjob.seams.outcome import Completed, Outcome
from anyjob.seams.source import JobClaim
from anyjob.stores.memory import InMemoryJobStore
from anyjob.testing import FakeClock

WaitUntil = Callable[[Callable[[], object]], None]


class OneStepStore(InMemoryJobStore):
    """Settles and claims in one call, which waits for `gate`, and whose first `lost` answers get lost."""

    def __init__(self, clock: Any) -> None:
        super().__init__(clock)
        self.gate, self.entered = threading.Event(), threading.Semaphore(0)
        self.gate.set()
        self.lost = 0
        self.calls: list[tuple[int, int]] = []
        self.threads: list[int] = []

    def settle_and_claim(
        self, ended: Sequence[tuple[JobClaim, Outcome]], *, limit: int, **options: Any
    ) -> tuple[Sequence[bool], Sequence[JobClaim]]:
        self.calls.append((len(ended), limit))
        self.threads.append(threading.get_ident())
        self.entered.release()
        assert self.gate.wait(10)
        held = [self.settle(claim, outcome) for claim, outcome in ended]
        claims = self.claim(limit=limit, **options) if limit else ()
        if self.lost:
            self.lost -= 1
            self.release(claims)  # as if their leases had ended
            raise EnqueueError("the answer got lost")
        return held, claims


def manager_of(store: InMemoryJobStore, registry: JobRegistry) -> JobManager:
    can = Capabilities(priority=Quality.EXACT, delay=Quality.EXACT, in_process=True)
    return JobManager(StoreBackend(store, can), registry=registry, clock=store.clock)


@pytest.fixture
def store(clock: FakeClock) -> OneStepStore:
    return OneStepStore(clock)


@pytest.fixture
def ran(registry: JobRegistry) -> list[int]:
    numbers: list[int] = []

    @background_job("note", registry=registry)
    def note(number: int) -> None:
        numbers.append(number)

    return numbers


def enqueue_notes(manager: JobManager, count: int) -> None:
    manager.enqueue_many([manager.prepare_by_name("note", {"number": number}) for number in range(count)])


def test_jobs_that_end_at_the_same_time_are_settled_in_one_call(
    registry: JobRegistry, store: OneStepStore, ran: list[int], wait_until: WaitUntil
) -> None:
    manager = manager_of(store, registry)
    enqueue_notes(manager, 8)
    keeper = ClaimKeeper(store, manager.executor)
    claims = keeper.claim(4)
    store.gate.clear()
    with ThreadPoolExecutor(4) as threads:
        first = threads.submit(keeper.settle_and_claim, claims[0], Completed())
        assert store.entered.acquire(timeout=10)
        others = [threads.submit(keeper.settle_and_claim, each, Completed()) for each in claims[1:]]
        wait_until(lambda: len(keeper._combiner._waiting) == 3)  # type: ignore[union-attr]  # noqa: SLF001
        store.gate.set()
        got = [each.result(10) for each in (first, *others)]
    assert store.calls == [(1, 1), (3, 3)]
    assert [len(each) for each in got] == [1] * 4
    assert len({each.id for (each,) in got} | {each.id for each in claims}) == 8
    assert sorted(keeper.held, key=id) == sorted((each for (each,) in got), key=id)


def test_one_thread_hands_nothing_over_to_another(registry: JobRegistry, store: OneStepStore, ran: list[int]) -> None:
    manager = manager_of(store, registry)
    enqueue_notes(manager, 3)
    assert manager.drain() == 3
    assert (ran, store.calls) == ([0, 1, 2], [(1, 1)] * 3)
    assert set(store.threads) == {threading.get_ident()}


def test_what_ran_is_settled_again_after_a_lost_answer_by_each_of_those_who_wait(
    registry: JobRegistry,
    store: OneStepStore,
    ran: list[int],
    clock: FakeClock,
    wait_until: WaitUntil,
    caplog: pytest.LogCaptureFixture,
) -> None:
    manager = manager_of(store, registry)
    enqueue_notes(manager, 5)
    store.lost = 1
    with manager.start_worker():
        wait_until(lambda: "not settled" in caplog.text)
        clock.travel(0.1)
        wait_until(lambda: len(ran) == 5)
    assert sorted(ran) == [0, 1, 2, 3, 4]
    assert not any(manager.inspect().count().values())


def test_an_outcome_is_kept_for_a_server_that_is_away_for_long_until_the_keeper_is_closed(
    registry: JobRegistry, clock: FakeClock, ran: list[int], wait_until: WaitUntil, caplog: pytest.LogCaptureFixture
) -> None:
    class Away(InMemoryJobStore):
        away = True

        def settle(self, claim: JobClaim, outcome: Outcome) -> bool:
            if self.away:
                raise EnqueueError("no route to host")
            return super().settle(claim, outcome)

    store = Away(clock)
    manager = manager_of(store, registry)
    enqueue_notes(manager, 2)
    keeper = ClaimKeeper(store, manager.executor)
    with ThreadPoolExecutor(1) as thread:
        (claim,) = keeper.claim()
        settled = thread.submit(keeper.settle, claim, Completed())
        for number in range(20):  # 70 s and more
            wait_until(partial(_has_tried, caplog, number + 1))
            keeper.keep()
            clock.travel(5)
        store.away = False
        clock.travel(5)
        assert settled.result(10)
        store.away = True
        (claim,) = keeper.claim()
        settled = thread.submit(keeper.settle, claim, Completed())
        wait_until(partial(_has_tried, caplog, 21))
        keeper.close()
        with pytest.raises(EnqueueError, match="no route"):
            settled.result(10)
    assert keeper.held == []


def _has_tried(caplog: pytest.LogCaptureFixture, times: int) -> bool:
    return caplog.text.count("not settled") >= times


def test_what_is_held_is_handed_back_uncharged_and_said(
    registry: JobRegistry, store: OneStepStore, ran: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    manager = manager_of(store, registry)
    enqueue_notes(manager, 1)
    keeper = ClaimKeeper(store, manager.executor)
    (claim,) = keeper.claim()
    assert keeper.holds(claim)
    assert keeper.hand_back() == [claim]
    assert f"released id={claim.id}" in caplog.text
    assert (keeper.held, keeper.holds(claim)) == ([], False)
    assert not keeper.settle(claim, Completed())
    assert f"fenced id={claim.id}" in caplog.text
    assert manager.drain() == 1


class ThreadBoundSource(InMemoryJobStore):
    """May be called from one thread only, waits for jobs in `claim`, and was told by its broker of a redelivery."""

    one_thread = waits = True
    poll = 60.0

    def __init__(self, clock: Any) -> None:
        super().__init__(clock)
        self.callers: set[int] = set()
        self.stirred = threading.Event()
        self.redelivered: set[str] = set()

    def claim(self, *, queues: Any, limit: int, lease: timedelta, worker: str) -> Sequence[JobClaim]:
        self.callers.add(threading.get_ident())
        claims = super().claim(queues=queues, limit=limit, lease=lease, worker=worker)
        if not claims and not self.stirred.wait(self.poll):
            raise AssertionError("nobody interrupted")
        self.stirred.clear()
        return [JobClaim(each.id, each.raw, each.token, self._first(each.id)) for each in claims]

    def _first(self, job_id: str) -> bool:
        is_new = job_id not in self.redelivered
        self.redelivered.add(job_id)
        return is_new

    def settle(self, claim: JobClaim, outcome: Outcome) -> bool:
        self.callers.add(threading.get_ident())
        return super().settle(claim, outcome)

    def renew(self, claims: Sequence[JobClaim], lease: timedelta) -> Sequence[JobClaim]:
        self.callers.add(threading.get_ident())
        return super().renew(claims, lease)

    def insert(self, envelopes: Sequence[JobEnvelope], **options: Any) -> None:
        super().insert(envelopes, **options)
        self.stirred.set()

    def interrupt(self) -> None:
        self.stirred.set()


def test_a_source_that_waits_in_one_thread_and_knows_of_redeliveries_is_run(
    registry: JobRegistry, wait_until: WaitUntil
) -> None:
    store = ThreadBoundSource(SystemClock())
    manager = manager_of(store, registry)
    losses: list[int] = []

    @background_job("look", registry=registry)
    def look() -> None:
        losses.append(current_job().lost_count)

    worker = JobWorker(store, manager.executor, WorkerOptions(concurrency=3))
    with worker.start():
        wait_until(lambda: worker.idle == 3)
        for _ in range(6):
            manager.enqueue_by_name("look", {})
        wait_until(lambda: len(losses) == 6)
    assert losses == [1] * 6
    assert len(store.callers) == 1
    assert threading.get_ident() not in store.callers


def test_threads_that_rest_have_one_of_them_look(
    registry: JobRegistry, clock: FakeClock, ran: list[int], wait_until: WaitUntil
) -> None:
    class Counting(InMemoryJobStore):
        claims = 0

        def claim(self, **options: Any) -> Sequence[JobClaim]:
            self.claims += 1
            return super().claim(**options)

    store = Counting(clock)
    manager = manager_of(store, registry)
    with manager.start_worker(options=WorkerOptions(concurrency=8)) as worker:
        wait_until(lambda: worker.idle == 8 and clock._waiting)  # noqa: SLF001
        before = store.claims
        manager_of(store, registry)  # another process: it wakes nobody here
        store.insert([manager.prepare_by_name("note", {"number": number}) for number in range(5)])
        clock.travel(store.poll)
        wait_until(lambda: len(ran) == 5)
        assert store.claims - before <= 1 + 5 + 1  # the look, one after each job, and one of who looks on


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_forked_child_holds_nothing_of_its_parents(
    registry: JobRegistry, store: OneStepStore, ran: list[int]
) -> None:
    manager = manager_of(store, registry)
    enqueue_notes(manager, 1)
    keeper = ClaimKeeper(store, manager.executor)
    keeper.claim()
    child = os.fork()
    if not child:
        os._exit(len(keeper.held))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert len(keeper.held) == 1
