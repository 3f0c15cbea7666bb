"""RQ's worker without a fork, on a fake server with a clock to move: what our class makes of RQ's worker."""

from __future__ import annotations

import logging
import random
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import fakeredis
import pytest
import redis
from envelopes import make_envelope
from rq import Queue
from rq.suspension import suspend
from rq.utils import now as rq_now
from rq.worker import Worker, WorkerStatus
from rq.worker_pool import WorkerPool

from anyjob import JobManager, JobPriority, JobRegistry, RetryLater, RetryPolicy, current_job
from anyjob.base.errors import ConfigurationError
from anyjob.seams.stored import JobFilter, JobState
from anyjob.testing import FakeClock
from anyjob_rq import RQBackend, RQJobWorker, RQSimpleJobWorker

Drain = Callable[..., bool]
MakeWorker = Callable[..., RQSimpleJobWorker]


@pytest.fixture
def ran(registry: JobRegistry) -> list[Any]:
    ran: list[Any] = []
    registry.register_handler("note", ran.append)
    return ran


def test_order_is_level_then_arrival_across_queues(
    manager: JobManager, drain: Drain, ran: list[Any], clock: FakeClock
) -> None:
    for number, priority in enumerate([*JobPriority, *JobPriority]):
        manager.enqueue_by_name("note", f"{priority.name} {number}", priority=priority)
    manager.enqueue_by_name("note", "HIGH of another", priority=JobPriority.HIGH, queue="other")
    manager.enqueue_by_name("note", "later", delay=5, priority=JobPriority.HIGH)

    assert drain("default", "other")

    assert ran == [
        *("HIGH 4", "HIGH 9", "HIGH of another", "ABOVE_NORMAL 3", "ABOVE_NORMAL 8", "NORMAL 2", "NORMAL 7"),
        *("BELOW_NORMAL 1", "BELOW_NORMAL 6", "LOW 0", "LOW 5"),
    ]
    clock.travel(5)
    assert drain()
    assert ran[-1] == "later"
    assert not drain()


def test_queues_that_are_not_named_are_left(manager: JobManager, backend: RQBackend, drain: Drain, ran: Any) -> None:
    manager.enqueue_by_name("note", "a", queue="mail")
    assert not drain("default")
    assert backend.inspector.count()[JobState.WAITING] == 1
    assert drain("default", "mail")


def test_all_queues_take_turns(manager: JobManager, drain: Drain, ran: list[Any]) -> None:
    for queue in ("a", "b", "c"):
        for number in range(3):
            manager.enqueue_by_name("note", f"{queue}{number}", queue=queue)
    drain("*")
    assert ran == ["a0", "b0", "c0", "a1", "b1", "c1", "a2", "b2", "c2"]


def test_named_queues_take_turns_if_rq_is_told_so(manager: JobManager, drain: Drain, ran: list[Any]) -> None:
    for word in ("a0", "a1", "b0", "b1"):
        manager.enqueue_by_name("note", word, queue=word[0])
    drain("b", "a", dequeue_strategy="round_robin")
    assert ran == ["b0", "a0", "b1", "a1"]


def test_a_new_queue_is_found_while_running(manager: JobManager, registry: JobRegistry, drain: Drain) -> None:
    ran: list[Any] = []
    registry.register_handler("spawn", lambda word: manager.enqueue_by_name("note", word, queue="born"))
    registry.register_handler("note", ran.append)
    manager.enqueue_by_name("spawn", "x")
    drain()
    assert ran == ["x"]


def test_max_jobs_counts_what_ran(manager: JobManager, backend: RQBackend, drain: Drain, ran: list[Any]) -> None:
    for number in range(3):
        manager.enqueue_by_name("note", number)
    drain(max_jobs=2)
    assert ran == [0, 1]
    assert backend.inspector.count()[JobState.WAITING] == 1


def test_retries_are_ours(
    manager: JobManager, backend: RQBackend, registry: JobRegistry, drain: Drain, clock: FakeClock
) -> None:
    tries: list[int] = []

    def fail(_args: Any) -> None:
        tries.append(current_job().try_count)
        raise RetryLater(7) if len(tries) == 1 else ValueError("no")

    registry.register_handler("fail", fail, retry=RetryPolicy(max_tries=3, first_wait=10))
    job_id = manager.enqueue_by_name("fail", None)
    drain()
    found = backend.inspector.find(job_id)
    assert found is not None
    assert found.state is JobState.SCHEDULED
    for seconds in (6, 1, 19, 1):
        clock.travel(seconds)
        drain()
    assert tries == [1, 2, 3]
    found = backend.inspector.find(job_id)
    assert found is not None
    assert found.state is JobState.ABANDONED


def test_an_unknown_name_waits_for_newer_code(
    manager: JobManager, backend: RQBackend, registry: JobRegistry, drain: Drain, clock: FakeClock
) -> None:
    backend.send([make_envelope(clock.now(), "new", "not.yet")])
    drain()
    assert backend.inspector.count()[JobState.SCHEDULED] == 1
    ran: list[Any] = []
    registry.register_handler("not.yet", ran.append)
    clock.travel(30)
    drain()
    assert ran == ["new"]


def test_what_comes_early_is_sent_back_uncharged(
    backend: RQBackend, fake: fakeredis.FakeRedis, drain: Drain, ran: list[Any], clock: FakeClock
) -> None:
    backend.send([make_envelope(clock.now(), "early", delay=timedelta(seconds=5))])
    name = "anyjob:default:normal"
    fake.zrem(f"rq:scheduled:{name}", "anyjob-J-early")
    fake.rpush(f"rq:queue:{name}", "anyjob-J-early")
    drain()
    assert ran == []
    assert fake.zscore(f"rq:scheduled:{name}", "anyjob-J-early") == clock.now().timestamp() + 5
    assert not fake.exists(f"rq:queue:{name}")
    clock.travel(5)
    drain()
    assert ran == ["early"]


def test_rq_sees_the_worker_its_job_and_its_counts(
    manager: JobManager, registry: JobRegistry, fake: fakeredis.FakeRedis, make_worker: MakeWorker
) -> None:
    seen: list[Any] = []

    def look(word: str) -> None:
        (worker,) = Worker.all(connection=fake)
        queue = Queue("anyjob:default:normal", connection=fake)
        seen.append((worker.name, worker.get_state(), worker.get_current_job_id(), queue.started_job_registry.count))
        if word == "bad":
            raise ValueError(word)

    registry.register_handler("look", look, retry=None)
    good = manager.enqueue_by_name("look", "good")
    bad = manager.enqueue_by_name("look", "bad")
    worker = make_worker()
    worker.work(burst=True)

    assert seen == [(worker.name, WorkerStatus.BUSY, f"anyjob-J-{job_id}", 1) for job_id in (good, bad)]
    worker.refresh()  # type: ignore[no-untyped-call]
    assert (worker.successful_job_count, worker.failed_job_count) == (1, 1)
    assert worker.total_working_time > 0
    assert Queue("anyjob:default:normal", connection=fake).started_job_registry.count == 0
    assert not fake.keys("rq:execution*")
    assert Worker.all(connection=fake) == []


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
def test_what_a_job_exits_with_is_a_failed_try_and_not_the_workers_end(
    manager: JobManager, backend: RQBackend, registry: JobRegistry, drain: Drain, error: type[BaseException]
) -> None:
    def leave(_args: Any) -> None:
        tries.append(current_job().try_count)
        raise error

    tries: list[int] = []
    registry.register_handler("leave", leave, retry=None)
    manager.enqueue_by_name("leave", None)
    drain()
    assert tries == [1]
    (parked,) = backend.inspector.scan(JobFilter()).jobs
    assert parked.failure is not None
    assert parked.failure.error_type == error.__name__


def test_what_breaks_between_a_jobs_end_and_its_acknowledgement_is_counted_and_parked_in_the_end(
    manager: JobManager, backend: RQBackend, drain: Drain, ran: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    acknowledge = backend.messages.acknowledge

    def break_down(holder: str, entry: bytes, counter: str = "", seconds: float = 0.0) -> bool:
        if counter == "successful_job_count":
            raise RuntimeError("ours, or of whoever looks on")
        return acknowledge(holder, entry, counter, seconds)

    monkeypatch.setattr(backend.messages, "acknowledge", break_down)
    manager.enqueue_by_name("note", "done")
    drain()
    assert ran == ["done"] * 6
    assert backend.inspector.count()[JobState.ABANDONED] == 1
    monkeypatch.undo()
    manager.enqueue_by_name("note", "next")
    drain()
    assert ran[6:] == ["next"]


def test_a_second_signal_interrupts_the_job_uncharged(
    manager: JobManager, backend: RQBackend, registry: JobRegistry, make_worker: MakeWorker
) -> None:
    def listen(_args: Any) -> None:
        signal.raise_signal(signal.SIGTERM)
        assert current_job().should_stop
        signal.raise_signal(signal.SIGTERM)  # within a second: the first one's echo
        worker._shutdown_requested_date = rq_now() - timedelta(seconds=1)  # noqa: SLF001
        signal.raise_signal(signal.SIGTERM)
        pytest.fail("it went on")

    registry.register_handler("listen", listen)
    job_id = manager.enqueue_by_name("listen", None)
    worker = make_worker()
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit):
        worker.work()
    assert signal.getsignal(signal.SIGTERM) is before
    found = backend.inspector.find(job_id)
    assert found is not None
    assert found.envelope is not None
    assert (found.state, found.envelope.lost_count, found.envelope.try_count) == (JobState.WAITING, 0, 0)


def test_what_its_pool_says_before_it_listens_counts(manager: JobManager, make_worker: MakeWorker, ran: Any) -> None:
    manager.enqueue_by_name("note", "a")
    pool = WorkerPool(["default"], connection=redis.Redis())  # whose handlers the child has, until it installs its own
    before = signal.signal(signal.SIGINT, pool.request_stop)
    try:
        signal.raise_signal(signal.SIGINT)
        assert not make_worker().work()
    finally:
        signal.signal(signal.SIGINT, before)
    assert ran == []


def test_a_signal_stops_after_the_job(manager: JobManager, registry: JobRegistry, make_worker: MakeWorker) -> None:
    ran: list[Any] = []

    def stop(word: str) -> None:
        ran.append(word)
        signal.raise_signal(signal.SIGTERM)

    registry.register_handler("stop", stop)
    for word in ("one", "two"):
        manager.enqueue_by_name("stop", word)
    assert make_worker().work()
    assert ran == ["one"]


def test_what_a_dead_worker_of_the_same_name_held_is_given_back(
    manager: JobManager, backend: RQBackend, fake: fakeredis.FakeRedis, registry: JobRegistry
) -> None:
    losses: list[int] = []
    registry.register_handler("note", lambda _args: losses.append(current_job().lost_count))
    manager.enqueue_by_name("note", 1)
    fake.set("anyjob:alive:me", 1)
    assert backend.messages.take("me", [], 0)
    RQSimpleJobWorker("*", "me", backend=backend, executor=manager.executor).work(burst=True)
    assert losses == [1]


class Flaky:
    """Makes half of the calls that move messages fail, before or after it was done."""

    def __init__(self, backend: RQBackend, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls = 0
        dice = random.Random(20261125)
        original = backend.messages._run  # noqa: SLF001

        def run(*args: Any) -> Any:
            self.calls += 1
            fate = dice.random()
            if fate < 0.25:
                raise redis.ConnectionError("gone before")
            answer = original(*args)
            if fate > 0.75:
                raise redis.TimeoutError("gone after")
            return answer

        monkeypatch.setattr(backend.messages, "_run", run)


def test_a_redis_that_comes_and_goes_loses_and_repeats_nothing(
    manager: JobManager,
    backend: RQBackend,
    fake: fakeredis.FakeRedis,
    make_worker: MakeWorker,
    registry: JobRegistry,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for module in ("absence", "keeper"):
        monkeypatch.setattr(f"anyjob.run.{module}.FIRST_PAUSE", 0.001)
    ran: list[Any] = []

    def note(word: int) -> None:
        ran.append((word, current_job().lost_count, current_job().try_count))
        if word == 3 and current_job().try_count == 1:
            raise RetryLater(0)

    registry.register_handler("note", note)
    for number in range(6):
        manager.enqueue_by_name("note", number)
    flaky = Flaky(backend, monkeypatch)
    caplog.set_level(logging.WARNING, "anyjob.worker")

    make_worker().work(burst=True, max_jobs=7)

    assert sorted(ran) == [(0, 0, 1), (1, 0, 1), (2, 0, 1), (3, 0, 1), (3, 0, 2), (4, 0, 1), (5, 0, 1)]
    assert flaky.calls > 14
    assert "goes on pause=" in caplog.text
    monkeypatch.undo()
    assert sum(backend.inspector.count().values()) == 0
    assert not fake.keys("anyjob:held:*")


def test_a_lapsed_presence_is_renewed_before_anything_is_taken(
    manager: JobManager, fake: fakeredis.FakeRedis, registry: JobRegistry, drain: Drain
) -> None:
    ran: list[Any] = []

    def note(word: int) -> None:
        ran.append(word)
        fake.delete(*fake.keys("anyjob:alive:*"))  # as if Redis had been away for longer than the lease

    registry.register_handler("note", note)
    for number in range(3):
        manager.enqueue_by_name("note", number)
    drain()
    assert ran == [0, 1, 2]


@pytest.mark.parametrize("fails", [False, True])
def test_who_lost_its_lease_settles_nothing(
    manager: JobManager,
    backend: RQBackend,
    fake: fakeredis.FakeRedis,
    registry: JobRegistry,
    drain: Drain,
    caplog: pytest.LogCaptureFixture,
    fails: bool,
) -> None:
    ran: list[tuple[int, int]] = []

    def note(_args: Any) -> None:
        ran.append((current_job().lost_count, current_job().try_count))
        if len(ran) == 1:
            fake.delete(*fake.keys("anyjob:alive:*"))
            assert backend.messages.sweep()  # another worker's, after a long pause of this one
            if fails:
                raise ValueError("too late")

    registry.register_handler("note", note)
    manager.enqueue_by_name("note", 1)
    drain()
    assert ran == [(0, 1), (1, 1)]
    assert "fenced" in caplog.text
    assert sum(backend.inspector.count().values()) == 0


def test_a_worker_may_run_in_a_thread(manager: JobManager, make_worker: MakeWorker, ran: list[Any]) -> None:
    manager.enqueue_by_name("note", "x")
    worker = make_worker()
    thread = threading.Thread(target=lambda: worker.work(max_jobs=1))
    thread.start()
    thread.join()
    assert ran == ["x"]


def test_a_forking_worker_refuses_another_thread(backend: RQBackend, manager: JobManager) -> None:
    worker = RQJobWorker("*", backend=backend, executor=manager.executor)
    with ThreadPoolExecutor(1) as pool, pytest.raises(ConfigurationError, match="needs the main thread"):
        pool.submit(worker.work).result()


def test_a_suspended_burst_ends(manager: JobManager, fake: fakeredis.FakeRedis, drain: Drain, ran: list[Any]) -> None:
    suspend(fake)
    manager.enqueue_by_name("note", "x")
    assert not drain()
    assert ran == []


def test_an_idle_worker_leaves_when_it_may(make_worker: MakeWorker) -> None:
    assert make_worker().work(max_idle_time=0) is False


def test_rqs_scheduler_is_not_started(manager: JobManager, ran: list[Any], make_worker: MakeWorker) -> None:
    manager.enqueue_by_name("note", "x")
    worker = make_worker()
    worker.work(burst=True, with_scheduler=True)
    assert worker.scheduler is None
    assert ran == ["x"]


def test_scans_show_what_runs(
    manager: JobManager, backend: RQBackend, registry: JobRegistry, make_worker: MakeWorker
) -> None:
    seen: list[Any] = []
    registry.register_handler("look", lambda _args: seen.extend(backend.inspector.scan(JobFilter()).jobs))
    manager.enqueue_by_name("look", None)
    worker = make_worker()
    worker.work(burst=True)
    assert [(job.state, job.worker) for job in seen] == [(JobState.RUNNING, worker.name)]
