"""The sandbox: what it catches of an application's jobs, how it runs them, and that it leaves nothing behind."""

from __future__ import annotations

import asyncio
import gc
import signal
import threading
import unittest
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

import pytest

import anyjob
from anyjob import (
    AsyncBackgroundJob,
    BackgroundJob,
    ConfigurationError,
    GiveUp,
    InvalidArgsError,
    InvalidOptionError,
    JobManager,
    JobObserver,
    JobPriority,
    JobRegistry,
    JobRoute,
    JobTimeLimitError,
    NotConfiguredError,
    RetryLater,
    RetryPolicy,
    Snooze,
    UnknownJobError,
    background_job,
    current_job,
    job_name,
)
from anyjob.base.clock import SystemClock
from anyjob.seams.backend import BackendConfig
from anyjob.stores.store_backend import memory_backend
from anyjob.testing import JobSandbox, JobSandboxMixin, in_memory

done: list[Any] = []


@job_name("shop.mail", aliases=["shop.letter"])
@dataclass
class Mail:
    to: str
    subject: str = ""


class SendMail(BackgroundJob[Mail]):
    queue = "mail"
    retry = RetryPolicy(max_tries=3, first_wait=60)

    def execute(self, args: Mail) -> None:
        if args.to == "bounce":
            raise ConnectionError("mailbox unavailable")
        if args.to == "hopeless":
            raise GiveUp("no such person")
        if args.to == "later" and current_job().try_count == 1:
            raise RetryLater(30)
        done.append(args.to)


@dataclass
class Ping:
    number: int


class SendPing(AsyncBackgroundJob[Ping]):
    async def execute(self, args: Ping) -> None:
        await asyncio.sleep(0)
        done.append((args.number, asyncio.get_running_loop()))


@background_job("shop.chain")
def chain(left: int, delay: float = 0) -> None:
    done.append(f"{left} begins")
    if left:
        chain.using(delay=delay).enqueue(left - 1, delay)
    done.append(f"{left} ends")


@background_job("shop.achain")
async def achain(left: int) -> None:
    done.append(f"{left} begins")
    if left:
        await achain.aenqueue(left - 1)
    done.append(f"{left} ends")


own = JobRegistry()


@background_job("own.count", registry=own)
def count(number: int) -> None:
    done.append(number)


@pytest.fixture(autouse=True)
def _nothing_done() -> Iterator[None]:
    done.clear()
    yield
    with pytest.raises(NotConfiguredError):
        anyjob.get_manager()  # whatever a sandbox did, it is over


@pytest.fixture
def sandbox(anyjob_sandbox: JobSandbox) -> JobSandbox:
    return anyjob_sandbox


def manager_of(**options: Any) -> JobManager:
    """Make a manager whose backends fail the test when they are made."""

    def fail() -> Any:
        raise AssertionError("a real backend was made")

    return JobManager(dict.fromkeys(("main", "ledger"), fail), **{"registry": own, **options})


# What it catches


def test_an_application_that_configured_nothing_is_caught(sandbox: JobSandbox) -> None:
    SendMail.enqueue(Mail("a"))
    anyjob.get_manager().enqueue(Mail("b"))
    assert sandbox.run() == 2
    assert done == ["a", "b"]


def test_settings_that_are_there_are_used(sandbox: JobSandbox) -> None:
    with anyjob.override(
        backends={"main": {"url": "memory:", "queues": ["mail"]}},
        default="main",
        retry={"max_tries": 2, "first_wait": 1},
    ):
        with pytest.raises(InvalidOptionError, match="has no queue 'default'"):
            chain.enqueue(0)
        SendPing.enqueue(Ping(1), queue="mail")
        assert sandbox.enqueued[0].backend == "main"


def test_explicit_managers_are_caught_whenever_they_were_made(sandbox: JobSandbox) -> None:
    during = manager_of()
    during.enqueue_by_name("own.count", {"number": 1})
    BEFORE.enqueue_by_name("own.count", {"number": 2})
    assert sandbox.run() == 2
    assert sorted(done) == [1, 2]


BEFORE = manager_of(routes=[JobRoute(queue="money", backend="ledger")], queues={"ledger": ["money"]})


def test_routes_and_closed_queues_are_those_of_the_manager(sandbox: JobSandbox) -> None:
    BEFORE.enqueue_by_name("own.count", {"number": 1})
    BEFORE.enqueue_by_name("own.count", {"number": 2}, queue="money")
    BEFORE.enqueue_by_name("own.count", {"number": 3}, queue="money", backend="main")
    assert [job.backend for job in sandbox.enqueued] == ["main", "ledger", "main"]
    assert [BEFORE.inspect(alias).count()[anyjob.JobState.WAITING] for alias in ("main", "ledger")] == [2, 1]
    with pytest.raises(InvalidOptionError, match="has no queue 'other'"):
        BEFORE.worker("ledger", anyjob.WorkerOptions(queues=("other",)))
    with pytest.raises(ConfigurationError, match="Did you mean 'ledger'"):
        BEFORE.backend("leger")


def test_the_manager_s_own_resolver_observers_and_policy_are_at_work(sandbox: JobSandbox) -> None:
    heard: list[str] = []

    class Listener(JobObserver):
        def enqueued(self, envelope: anyjob.JobEnvelope) -> None:
            heard.append("enqueued")
            raise RuntimeError("logged, and goes no further")

        def succeeded(self, job: anyjob.JobExecutionContext, result: object) -> None:
            heard.append(f"succeeded {result}")

    class Built(BackgroundJob[Ping], registry=own):
        def __init__(self, where: list[Any]) -> None:
            self.where = where

        def execute(self, args: Ping) -> None:
            self.where.append(args.number)

    manager = manager_of(resolver=lambda job: job(done), observers=[Listener()], retry=None)
    manager.enqueue(Ping(3))
    sandbox.run()
    assert (done, heard) == ([3], ["enqueued", "succeeded None"])


def test_all_threads_are_caught(sandbox: JobSandbox) -> None:
    thread = threading.Thread(target=SendMail.enqueue, args=(Mail("from a thread"),))
    thread.start()
    thread.join()
    sandbox.assert_enqueued(Mail("from a thread"))


def test_prepared_jobs_and_many_at_once_are_caught(sandbox: JobSandbox) -> None:
    anyjob.get_manager().enqueue_many([SendMail.prepare(Mail("a")), chain.prepare(0), Mail("b")])
    sandbox.assert_enqueued(SendMail, times=2)
    sandbox.assert_enqueued(chain)


def test_the_application_s_own_drain_and_worker_run_in_here(sandbox: JobSandbox) -> None:
    SendMail.enqueue(Mail("a"))
    assert anyjob.get_manager().drain() == 1
    sandbox.assert_ran(SendMail, error=None)


def test_closing_a_manager_in_here_does_no_harm(sandbox: JobSandbox) -> None:
    manager = manager_of()
    manager.enqueue_by_name("own.count", {"number": 1})
    manager.close()
    assert sandbox.run() == 1


# That nothing is left


def test_what_was_before_is_there_again_after_nested_sandboxes() -> None:
    with anyjob.override(backend="memory:") as manager:
        SendMail.enqueue(Mail("real"))
        with in_memory() as outer:
            SendMail.enqueue(Mail("outer"))
            with in_memory() as inner:
                SendMail.enqueue(Mail("inner"))
                inner.assert_enqueued(SendMail, times=1)
            outer.assert_enqueued(SendMail, times=1)
        assert manager.drain() == 1
    assert done == ["real"]


def test_a_manager_that_was_made_in_a_sandbox_is_an_ordinary_one_afterwards() -> None:
    backend = memory_backend(BackendConfig(alias="real", url="memory:"))
    with in_memory() as sandbox:
        manager = JobManager(backend, registry=own)
        manager.enqueue_by_name("own.count", {"number": 1})
        assert sandbox.run() == 1
    manager.enqueue_by_name("own.count", {"number": 2})
    assert manager.backend() is backend
    assert manager.drain() == 1
    assert done == [1, 2]


def test_threads_end_with_the_sandbox() -> None:
    before = set(threading.enumerate())

    @background_job("shop.limited", time_limit=10, registry=own)
    def limited() -> None:
        done.append("limited")

    with in_memory() as sandbox:
        SendPing.enqueue(Ping(1))
        manager_of().enqueue_by_name("shop.limited", {})
        sandbox.run()
        with sandbox.worker(concurrency=2):
            SendMail.enqueue(Mail("a"))
    for thread in set(threading.enumerate()) - before:
        thread.join(5)
    assert set(threading.enumerate()) <= before


def test_a_worker_that_the_application_started_ends_with_the_sandbox() -> None:
    with in_memory():
        SendMail.enqueue(Mail("a"))
        worker = anyjob.get_manager().start_worker()
        assert worker.running
    assert not worker.running


def test_the_sandbox_is_garbage_once_it_is_over() -> None:
    with in_memory() as sandbox:
        SendMail.enqueue(Mail("a"))
        sandbox.run()
        reference = weakref.ref(sandbox)
    del sandbox
    gc.collect()
    assert reference() is None


def test_a_running_worker_of_an_application_s_thread_is_stopped_when_the_test_fails() -> None:
    with pytest.raises(RuntimeError, match="the test fails"), in_memory() as sandbox, sandbox.worker():
        raise RuntimeError("the test fails")
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("anyjob-worker")]


# Running


def test_nothing_runs_until_it_is_told_to(sandbox: JobSandbox) -> None:
    SendMail.enqueue(Mail("a"))
    sandbox.travel(hours=1)
    assert done == []
    assert sandbox.ran == ()


def test_run_runs_what_is_due_and_nothing_that_comes_of_it(sandbox: JobSandbox) -> None:
    chain.enqueue(2)
    assert [sandbox.run() for _ in range(4)] == [1, 1, 1, 0]


def test_a_follow_up_of_higher_priority_waits_for_the_next_run_too(sandbox: JobSandbox) -> None:
    @background_job("shop.urgent", registry=own)
    def urgent(left: int) -> None:
        done.append(left)
        if left:
            manager.enqueue_by_name("shop.urgent", {"left": left - 1}, priority=JobPriority.HIGH)

    manager = manager_of()
    for left in (1, 10):
        manager.enqueue_by_name("shop.urgent", {"left": left})
    assert sandbox.run() == 2
    assert done == [1, 10]
    assert manager.inspect().count()[anyjob.JobState.WAITING] == 2  # given back


def test_run_one_takes_the_first(sandbox: JobSandbox) -> None:
    SendMail.enqueue(Mail("low"), priority=JobPriority.LOW)
    SendMail.enqueue(Mail("high"), priority=JobPriority.HIGH)
    assert sandbox.run_one() is True
    assert done == ["high"]
    assert [sandbox.run_one(), sandbox.run_one()] == [True, False]


def test_run_all_moves_the_clock_from_job_to_job(sandbox: JobSandbox) -> None:
    start = sandbox.now()
    chain.using(delay=5).enqueue(3, delay=3600)
    SendMail.enqueue(Mail("tomorrow"), run_at=start + timedelta(days=1))
    assert sandbox.run_all() == 5
    assert sandbox.now() == start + timedelta(days=1)


def test_jobs_that_enqueue_each_other_for_ever_are_stopped(sandbox: JobSandbox) -> None:
    chain.enqueue(10**6)
    with pytest.raises(AssertionError, match=r"50 jobs ran, and there are more.*'shop\.chain'"):
        sandbox.run_all(max_jobs=50)
    assert sandbox.run() == 1  # the one that was not begun is still there


def test_twelve_tries_over_34_hours(sandbox: JobSandbox) -> None:
    @background_job("shop.never", registry=own)
    def never() -> None:
        raise ConnectionError

    start = sandbox.now()
    manager_of().enqueue_by_name("shop.never", {})
    assert sandbox.run_all(raises=False) == 12
    assert (sandbox.now() - start).total_seconds() == 122_820
    sandbox.assert_abandoned(never, error=ConnectionError, times=1)


def test_time_stands_still_and_never_goes_back(sandbox: JobSandbox) -> None:
    now = sandbox.now()
    assert abs(now - datetime.now(UTC)) < timedelta(minutes=1)
    SendMail.enqueue(Mail("a"), delay=60)
    assert (sandbox.enqueued[0].run_at, sandbox.enqueued[0].delay) == (
        now + timedelta(seconds=60),
        timedelta(minutes=1),
    )
    sandbox.travel_to(now + timedelta(seconds=60))
    assert sandbox.run() == 1
    sandbox.travel(timedelta(days=1), hours=1)
    assert sandbox.now() == now + timedelta(days=1, hours=1, seconds=60)
    with pytest.raises(InvalidOptionError, match="can't travel back"):
        sandbox.travel_to(now)


def test_a_time_limit_counts_by_the_sandbox_s_clock(sandbox: JobSandbox) -> None:
    @background_job("shop.slow", time_limit=10, retry=None, registry=own)
    def slow() -> None:
        sandbox.travel(11)
        for _ in range(1000):  # interrupted in between
            threading.Event().wait(0.01)

    manager_of().enqueue_by_name("shop.slow", {})
    with pytest.raises(JobTimeLimitError):
        sandbox.run()


# Failures


def test_a_failed_try_is_raised_with_a_note_after_it_was_settled(sandbox: JobSandbox) -> None:
    first = SendMail.enqueue(Mail("bounce"))
    SendMail.enqueue(Mail("a"))
    with pytest.raises(ConnectionError, match="mailbox unavailable") as failed:
        sandbox.run()
    (note,) = failed.value.__notes__
    assert f"'shop.mail' ({first}), try 1, next at" in note
    assert done == []  # the rest waits
    assert sandbox.run() == 1
    sandbox.travel(60)
    with pytest.raises(ConnectionError):
        sandbox.run()
    with pytest.raises(ConnectionError) as last:
        sandbox.run_all()
    assert "try 3, the last" in last.value.__notes__[0]
    sandbox.assert_abandoned(SendMail, {"to": "bounce"}, error=ConnectionError)


def test_failures_may_be_left_to_the_lists(sandbox: JobSandbox) -> None:
    SendMail.enqueue(Mail("bounce"))
    SendMail.enqueue(Mail("a"))
    assert sandbox.run(raises=False) == 2
    assert [type(job.error) for job in sandbox.ran] == [ConnectionError, type(None)]
    assert sandbox.ran[0].next_try_at == sandbox.now() + timedelta(seconds=60)
    assert sandbox.ran[1].next_try_at is None


def test_retry_later_is_no_failure_and_give_up_is_one(sandbox: JobSandbox) -> None:
    SendMail.enqueue(Mail("later"))
    assert sandbox.run_all() == 2
    SendMail.enqueue(Mail("hopeless"))
    with pytest.raises(GiveUp):
        sandbox.run()
    sandbox.assert_abandoned(SendMail, error=GiveUp, times=1)


def test_a_snooze_is_no_failure(sandbox: JobSandbox) -> None:
    @background_job("shop.sleepy", retry=None, registry=own)
    def sleepy() -> None:
        done.append(current_job().try_count)
        if len(done) < 3:
            raise Snooze(30)

    start = sandbox.now()
    manager_of().enqueue_by_name("shop.sleepy", {})
    assert sandbox.run_all() == 3
    assert (done, sandbox.now() - start) == ([1, 1, 1], timedelta(seconds=60))
    assert [type(job.error) for job in sandbox.ran] == [Snooze, Snooze, type(None)]


def test_a_message_that_cannot_be_read_is_raised_too(sandbox: JobSandbox) -> None:
    sandbox.receive("shop.mail", {"to": 7})
    with pytest.raises(InvalidArgsError, match=r"\$\.to") as failed:
        sandbox.run()
    assert "was given up before it ran" in failed.value.__notes__[0]
    sandbox.assert_nothing_enqueued()  # not by us


def test_a_message_of_an_unknown_name_is_deferred_and_given_up_in_the_end(sandbox: JobSandbox) -> None:
    sandbox.receive("shop.malk", {})
    assert sandbox.run() == 1
    with pytest.raises(UnknownJobError, match="Did you mean 'shop.mail'"):
        sandbox.run_all()


@pytest.mark.usefixtures("python_heeds_ctrl_c")
def test_an_interrupt_ends_the_test_and_gives_the_job_back(sandbox: JobSandbox) -> None:
    @background_job("shop.interrupted", registry=own)
    def interrupted() -> None:
        if not done:
            done.append("interrupted")
            signal.raise_signal(signal.SIGINT)

    manager_of().enqueue_by_name("shop.interrupted", {})
    with pytest.raises(KeyboardInterrupt):
        sandbox.run()
    assert sandbox.run() == 1
    assert sandbox.ran[0].try_count == 1


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()])
@pytest.mark.parametrize("is_async", [False, True])
def test_a_job_that_exits_is_a_failure_like_any_other(
    sandbox: JobSandbox, error: BaseException, *, is_async: bool
) -> None:
    def leave() -> None:
        raise error

    async def aleave() -> None:
        raise error

    name = f"shop.leaves.{type(error).__name__}.{is_async}"
    background_job(name, retry=None, registry=own)(aleave if is_async else leave)
    manager_of().enqueue_by_name(name, {})
    with pytest.raises(AssertionError, match=f"{type(error).__name__} in job") as failed:
        asyncio.run(sandbox.arun()) if is_async else sandbox.run()
    assert failed.value.__cause__ is error
    assert [type(job.error) for job in sandbox.abandoned] == [type(error)]


def test_a_job_that_exits_elsewhere_is_told_as_a_failed_assertion(sandbox: JobSandbox) -> None:
    class Odd(BaseException):
        pass

    @background_job("shop.odd", retry=None, registry=own)
    def odd() -> None:
        raise Odd

    manager_of().enqueue_by_name("shop.odd", {})
    with pytest.raises(AssertionError, match="Odd in job 'shop.odd'") as failed:
        sandbox.run()
    assert isinstance(failed.value.__cause__, Odd)


# Async


def test_async_twins_run_async_jobs_on_the_test_s_own_loop_without_a_thread(sandbox: JobSandbox) -> None:
    async def scenario() -> None:
        before = threading.active_count()
        await SendPing.aenqueue(Ping(1))
        await anyjob.get_manager().aenqueue_many([Ping(2), Mail("sync")])
        assert await sandbox.arun() == 3
        loop = asyncio.get_running_loop()
        assert [each for each in done if each != "sync"] == [(1, loop), (2, loop)]
        assert threading.active_count() == before
        await achain.aenqueue(2)
        assert await sandbox.arun_one() is True
        assert await sandbox.arun_all() == 2

    asyncio.run(scenario())


def test_failures_are_raised_from_the_async_twins(sandbox: JobSandbox) -> None:
    async def scenario() -> None:
        await SendMail.aenqueue(Mail("bounce"))
        with pytest.raises(ConnectionError):
            await sandbox.arun()
        assert await sandbox.arun_all(raises=False) == 2
        sandbox.assert_abandoned(SendMail)

    asyncio.run(scenario())


def test_a_cancellation_is_the_test_s_and_gives_the_job_back(sandbox: JobSandbox) -> None:
    tries: list[int] = []

    @background_job("shop.waits", registry=own)
    async def waits() -> None:
        tries.append(current_job().try_count)
        await asyncio.Event().wait()

    async def scenario() -> None:
        manager_of().enqueue_by_name("shop.waits", {})
        for _ in range(2):
            task = asyncio.ensure_future(sandbox.arun())
            await asyncio.sleep(0)  # it runs until the job waits
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert tries == [1, 1]

    asyncio.run(scenario())


def test_a_sync_run_takes_async_jobs_too(sandbox: JobSandbox) -> None:
    SendPing.enqueue(Ping(1))
    assert sandbox.run() == 1
    assert done[0][0] == 1


# Modes


def test_running_at_enqueue_keeps_the_codec_and_never_nests(sandbox: JobSandbox) -> None:
    with sandbox.run_at_enqueue():
        chain.enqueue(2)
        assert done == ["2 begins", "2 ends", "1 begins", "1 ends", "0 begins", "0 ends"]
        SendMail.enqueue(Mail("later"), delay=60)
    sandbox.assert_not_ran(SendMail)
    SendMail.enqueue(Mail("record only again"))
    sandbox.assert_not_ran(SendMail)


def test_running_at_enqueue_begins_after_the_whole_call(sandbox: JobSandbox) -> None:
    with sandbox.run_at_enqueue():
        manager = anyjob.get_manager()
        manager.enqueue_many(
            [SendMail.prepare(Mail("second")), SendMail.prepare(Mail("first"), priority=JobPriority.HIGH)]
        )
    assert done == ["first", "second"]


def test_running_at_enqueue_raises_at_the_call(sandbox: JobSandbox) -> None:
    with sandbox.run_at_enqueue(), pytest.raises(ConnectionError):
        SendMail.enqueue(Mail("bounce"))
    assert sandbox.ran[0].next_try_at is not None


def test_running_at_an_async_enqueue_stays_on_the_loop(sandbox: JobSandbox) -> None:
    async def scenario() -> None:
        with sandbox.run_at_enqueue():
            await SendPing.aenqueue(Ping(1))
            assert done == [(1, asyncio.get_running_loop())]
            done.clear()
            await achain.aenqueue(2)
        assert done == ["2 begins", "2 ends", "1 begins", "1 ends", "0 begins", "0 ends"]

    asyncio.run(scenario())


def test_a_worker_runs_jobs_in_its_threads_and_time_stays_the_test_s(sandbox: JobSandbox) -> None:
    with sandbox.worker(concurrency=2):
        SendMail.enqueue(Mail("now"))
        SendMail.enqueue(Mail("delayed"), delay=60)
        BEFORE.enqueue_by_name("own.count", {"number": 1}, queue="money")
        sandbox.wait_until_idle()
        assert sorted(map(str, done)) == ["1", "now"]
        sandbox.travel(60)
    assert "delayed" in done
    with pytest.raises(InvalidOptionError, match="one worker"), sandbox.worker(), sandbox.worker():
        raise AssertionError("entered")


def test_a_worker_s_failures_are_raised_at_its_end(sandbox: JobSandbox) -> None:
    SendMail.enqueue(Mail("bounce"))
    SendMail.enqueue(Mail("a"))
    with pytest.raises(ConnectionError), sandbox.worker():
        sandbox.wait_until_idle()
    assert done == ["a"]
    with sandbox.worker(raises=False):
        sandbox.travel(60)
    sandbox.assert_ran(SendMail, {"to": "bounce"}, times=2)


def test_a_worker_that_never_comes_to_rest_is_told(sandbox: JobSandbox) -> None:
    stop = threading.Event()

    @background_job("shop.stuck", registry=own)
    def stuck() -> None:
        stop.wait(10)

    with sandbox.worker():
        manager_of().enqueue_by_name("shop.stuck", {})
        with pytest.raises(AssertionError, match=r"After 0\.05 s there are still jobs"):
            sandbox.wait_until_idle(0.05)
        stop.set()


# unittest


class Cases(JobSandboxMixin):
    sandbox_options: ClassVar = {"start": datetime(2030, 1, 1, tzinfo=UTC)}

    def test_one(self) -> None:
        SendMail.enqueue(Mail("a"), delay=60)
        self.sandbox.assert_enqueued(SendMail, Mail("a"), times=1, run_at=datetime(2030, 1, 1, 0, 1, tzinfo=UTC))

    def test_two(self) -> None:
        self.sandbox.assert_nothing_enqueued()


class AsyncCases(JobSandboxMixin, unittest.IsolatedAsyncioTestCase):
    async def test_one(self) -> None:
        await SendPing.aenqueue(Ping(1))
        assert await self.sandbox.arun() == 1
        assert done == [(1, asyncio.get_running_loop())]


def test_the_system_clock_is_untouched_by_all_this() -> None:
    with in_memory(start=datetime(2040, 1, 1, tzinfo=UTC)) as sandbox:
        assert sandbox.now().year == 2040
        assert SystemClock().now().year < 2040
    with pytest.raises(InvalidOptionError, match="aware"), in_memory(start=datetime(2040, 1, 1)):  # noqa: DTZ001
        raise AssertionError("entered")


def test_a_real_backend_s_jobs_stay_where_they_are(sandbox: JobSandbox) -> None:
    backend = memory_backend(BackendConfig(alias="real", url="memory:"))
    manager = JobManager(backend, registry=own)
    manager.enqueue_by_name("own.count", {"number": 1})
    assert backend.store.count()[anyjob.JobState.WAITING] == 0
    assert sandbox.run() == 1
