from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from datetime import UTC, datetime, timedelta, timezone
from functools import partial
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Raw
from msgspec.structs import replace

from anyjob import (
    AsyncBackgroundJob,
    BackgroundJob,
    GiveUp,
    JobConfiguration,
    JobEnvelope,
    JobExecutionContext,
    JobObserver,
    JobPriority,
    JobRegistry,
    JobResolutionError,
    RetryLater,
    RetryPolicy,
    Snooze,
    background_job,
    current_job,
    job_name,
)
from anyjob.base.envelope import MAX_COUNT, read_envelope, write_envelope
from anyjob.base.errors import EnvelopeError
from anyjob.define.retry import MAX_SNOOZES
from anyjob.define.upgrades import ARGS_VERSION_HEADER
from anyjob.run.executor import JobExecutor
from anyjob.run.postponing import DEFERRALS_HEADER, SNOOZES_HEADER
from anyjob.seams.observer import JobObservers
from anyjob.seams.outcome import Abandoned, Completed, Deferred, Outcome, Retry
from anyjob.testing import FakeClock


class World:
    """A registry with one job, `work`, that does what the test says."""

    def __init__(self, registry: JobRegistry, clock: FakeClock) -> None:
        self.registry = registry
        self.clock = clock
        self.calls: list[JobExecutionContext] = []
        self.action: Callable[[], Any] = lambda: None

        @background_job("work", aliases=["old.work"], registry=registry, retry=RetryPolicy(max_tries=3))
        def work(number: int = 0) -> Any:
            self.calls.append(current_job())
            return self.action()

    def executor(self, **options: Any) -> JobExecutor:
        return JobExecutor(self.registry, clock=self.clock, worker="tester", **options)

    def envelope(self, **changes: Any) -> JobEnvelope:
        now = self.clock.now()
        envelope = JobEnvelope(1, "id1", "work", Raw(b'{"number":7}'), "default", JobPriority.NORMAL, now, now)
        return replace(envelope, **changes)

    def run(self, **changes: Any) -> Outcome:
        return self.executor().execute(write_envelope(self.envelope(**changes)))

    def run_raising(self, error: BaseException, **changes: Any) -> Outcome:
        def action() -> None:
            raise error

        self.action = action
        return self.run(**changes)


@pytest.fixture
def world(registry: JobRegistry, clock: FakeClock) -> World:
    return World(registry, clock)


def test_a_job_that_returns_is_completed(world: World) -> None:
    assert world.run() == Completed()
    assert len(world.calls) == 1


def test_the_job_knows_its_run(world: World) -> None:
    due = world.clock.now() - timedelta(seconds=1)
    world.run(
        try_count=1, lost_count=2, due_at=due, headers={"tenant": "a"}, last_error="Oops: no", priority=JobPriority.LOW
    )
    job = world.calls[0]
    assert (job.id, job.name, job.queue, job.priority) == ("id1", "work", "default", JobPriority.LOW)
    assert (job.try_count, job.max_tries, job.lost_count, job.last_error) == (2, 3, 2, "Oops: no")
    assert job.policy == RetryPolicy(max_tries=3)
    assert job.headers == {"tenant": "a"}
    assert job.created_at == job.first_due_at == job.started_at == world.clock.now()
    assert job.due_at == due
    assert not job.should_stop
    with pytest.raises(TypeError):
        job.headers["tenant"] = "b"  # type: ignore[index]


def test_outside_of_a_job_there_is_no_current_one(world: World) -> None:
    world.run()
    with pytest.raises(LookupError, match="outside"):
        current_job()


def test_an_alias_runs_the_job(world: World) -> None:
    assert world.run(name="old.work") == Completed()
    assert world.calls[0].name == "old.work"


def test_a_failed_try_is_sent_again_after_its_back_off(world: World) -> None:
    start = world.clock.now()

    def action() -> None:
        world.clock.travel(5)
        raise ZeroDivisionError("division by zero")

    world.action = action
    outcome = world.run()
    assert isinstance(outcome, Retry)
    assert outcome.envelope.due_at == start + timedelta(seconds=60)  # from the start of the try
    assert outcome.envelope.try_count == 1
    assert outcome.envelope.last_try_at == start
    assert outcome.envelope.last_error == "ZeroDivisionError: division by zero"
    assert outcome.envelope.first_due_at == start
    assert bytes(outcome.envelope.args) == b'{"number":7}'


def test_the_last_try_abandons_with_its_failure(world: World) -> None:
    outcome = world.run_raising(ValueError("kaputt"), try_count=2)
    assert isinstance(outcome, Abandoned)
    assert outcome.envelope is not None
    assert outcome.envelope.try_count == 3
    assert outcome.raw == write_envelope(outcome.envelope)
    failure = outcome.failure
    assert (failure.error_type, failure.message, failure.tries, failure.worker) == ("ValueError", "kaputt", 3, "tester")
    assert "in action" in failure.traceback
    assert failure.failed_at == world.clock.now()


def test_a_job_without_a_policy_of_its_own_has_the_settings_one(registry: JobRegistry, clock: FakeClock) -> None:
    world = World(registry, clock)

    @background_job("once", registry=registry)
    def once(number: int = 0) -> None:
        raise ValueError

    raw = write_envelope(world.envelope(name="once"))
    assert isinstance(world.executor().execute(raw), Retry)
    assert isinstance(world.executor(retry=None).execute(raw), Abandoned)


def test_retry_none_is_a_single_try(world: World) -> None:
    _single(world, RetryLater(5))
    assert isinstance(world.run(name="single"), Abandoned)


def _single(world: World, error: BaseException) -> None:
    """Register the job `single`, which has one try."""

    @background_job("single", registry=world.registry, retry=None)
    def single(number: int = 0) -> None:
        raise error


def test_retry_later_chooses_the_time_and_is_charged(world: World) -> None:
    outcome = world.run_raising(RetryLater(timedelta(minutes=7)))
    assert isinstance(outcome, Retry)
    assert outcome.envelope.due_at == world.clock.now() + timedelta(minutes=7)
    assert outcome.envelope.try_count == 1
    assert isinstance(world.run_raising(RetryLater(1), try_count=2), Abandoned)


@pytest.mark.parametrize("error", [GiveUp("hopeless"), JobResolutionError("no mailer")])
def test_what_no_try_can_mend_is_abandoned_at_once(world: World, error: Exception) -> None:
    outcome = world.run_raising(error)
    assert isinstance(outcome, Abandoned)
    assert outcome.failure.message == str(error)
    assert outcome.failure.tries == 1


def test_the_policy_says_what_not_to_retry(world: World) -> None:
    @background_job("picky", registry=world.registry, retry=RetryPolicy(give_up_on=(LookupError,)))
    def picky(number: int = 0) -> None:
        raise KeyError("a subclass counts")

    assert isinstance(world.run(name="picky"), Abandoned)


def test_an_early_job_is_sent_back_uncharged(world: World) -> None:
    due = world.clock.now() + timedelta(microseconds=1)
    outcome = world.run(due_at=due)
    assert isinstance(outcome, Deferred)
    assert outcome.envelope == world.envelope(due_at=due)
    assert world.calls == []


def test_an_unknown_name_is_deferred_for_an_hour_uncharged_then_parked(world: World, clock: FakeClock) -> None:
    start, envelope, seen = clock.now(), world.envelope(name="new.job"), []
    while True:
        seen.append((clock.now() - start).total_seconds())
        outcome = world.executor().execute(write_envelope(envelope))
        if not isinstance(outcome, Deferred):
            break
        envelope = outcome.envelope
        assert envelope.try_count == 0
        assert envelope.due_at is not None
        assert envelope.first_due_at == envelope.due_at  # the retry budget is untouched
        clock.travel(to=envelope.due_at)
    assert seen == [0, 30, 90, 210, 450, 930, 1890, 3600]
    assert isinstance(outcome, Abandoned)
    assert outcome.failure.error_type.endswith("UnknownJobError")
    assert "new.job" in outcome.failure.message
    assert "another application" in outcome.failure.message
    assert "`namespace`" in outcome.failure.message


def test_the_first_unknown_name_asks_for_a_namespace(world: World, caplog: pytest.LogCaptureFixture) -> None:
    executor = world.executor()
    for name in ("their.job", "their.other"):
        executor.execute(write_envelope(world.envelope(name=name)))
    (hint,) = [each.getMessage() for each in caplog.records if "namespace" in each.getMessage()]
    assert "give each a `namespace` of its own" in hint


def test_a_deferred_job_runs_after_the_deploy_that_knows_it(world: World) -> None:
    outcome = world.run(name="new.job")
    assert isinstance(outcome, Deferred)

    @background_job("new.job", registry=world.registry)
    def new_job(number: int = 0) -> None:
        raise ValueError

    world.clock.travel(30)
    again = world.executor().execute(write_envelope(outcome.envelope))
    assert isinstance(again, Retry)
    assert DEFERRALS_HEADER not in again.envelope.headers  # another rollback gets its whole hour


@pytest.mark.parametrize("count", ["x", "-1", "9" * 5000, "٣"])
def test_a_tampered_deferral_count_starts_anew(world: World, count: str) -> None:
    outcome = world.run(name="new.job", headers={DEFERRALS_HEADER: count})
    assert isinstance(outcome, Deferred)
    assert outcome.envelope.headers == {DEFERRALS_HEADER: "1"}


@pytest.mark.parametrize(
    "args", [b'{"number":"seven"}', b"[]", b"null", b'{"number":' + b"[" * 10_000 + b"]" * 10_000 + b"}"]
)
def test_arguments_that_do_not_fit_are_parked_untouched(world: World, args: bytes) -> None:
    raw = write_envelope(world.envelope(args=Raw(args)))
    outcome = world.executor().execute(raw)
    assert isinstance(outcome, Abandoned)
    assert outcome.raw == raw
    assert outcome.failure.tries == 0
    assert world.calls == []


def test_unknown_fields_are_ignored(world: World) -> None:
    assert world.run(args=Raw(b'{"number":7,"colour":"red"}')) == Completed()


@pytest.mark.parametrize("raw", [b"\x80\x04pickle", b'{"v":2,"id":"x"}', b""])
def test_what_can_not_be_read_is_parked_untouched(world: World, raw: bytes) -> None:
    outcome = world.executor().execute(raw)
    assert isinstance(outcome, Abandoned)
    assert (outcome.raw, outcome.envelope) == (raw, None)


def test_a_redelivered_message_is_sent_anew_with_its_loss_counted(world: World) -> None:
    outcome = world.executor().execute(write_envelope(world.envelope(lost_count=1)), redelivered=True)
    assert outcome == Retry(world.envelope(lost_count=2))
    assert world.calls == []


def test_a_job_that_ends_its_process_too_often_is_parked(world: World) -> None:
    executor = world.executor(max_losses=2)
    assert executor.execute(write_envelope(world.envelope(lost_count=2))) == Completed()
    outcome = executor.execute(write_envelope(world.envelope(lost_count=2)), redelivered=True)
    assert isinstance(outcome, Abandoned)
    assert outcome.failure.error_type.endswith("JobLostError")
    assert outcome.envelope is not None
    assert outcome.envelope.lost_count == 3
    assert len(world.calls) == 1


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


@pytest.mark.parametrize("error", [Unspeakable(), ValueError("x" * 10_000), ValueError("a\nb"), ValueError("\ud800")])
def test_every_error_can_be_told(world: World, error: Exception) -> None:
    retried = world.run_raising(error)
    assert isinstance(retried, Retry)
    assert retried.envelope.last_error is not None
    assert len(retried.envelope.last_error) <= 500
    assert "\n" not in retried.envelope.last_error
    assert write_envelope(retried.envelope)
    parked = world.run_raising(error, try_count=2)
    assert isinstance(parked, Abandoned)
    assert msgspec.json.encode(parked.failure)


class Strange(BaseException):
    pass


@pytest.mark.parametrize(
    "error", [SystemExit(1), KeyboardInterrupt(), Strange(), GeneratorExit(), asyncio.CancelledError()]
)
def test_what_a_job_raises_is_a_failed_try_in_any_thread(world: World, error: BaseException) -> None:
    outcomes = [world.run_raising(error)]
    thread = threading.Thread(target=lambda: outcomes.append(world.run_raising(error)))
    thread.start()
    thread.join()
    for outcome in outcomes:
        assert isinstance(outcome, Retry)
        assert outcome.envelope.try_count == 1
        assert outcome.envelope.last_error is not None
        assert type(error).__name__ in outcome.envelope.last_error


@pytest.mark.parametrize("error", [SystemExit(1), KeyboardInterrupt(), Strange(), asyncio.CancelledError()])
def test_the_same_of_an_async_job_in_the_callers_task(world: World, error: BaseException) -> None:
    @background_job("leave", registry=world.registry, time_limit=10)
    async def leave(number: int = 0) -> None:
        raise error

    @background_job("leave.free", registry=world.registry)
    async def leave_free(number: int = 0) -> None:
        raise error

    for name in ("leave", "leave.free"):
        outcome = asyncio.run(world.executor().aexecute(write_envelope(world.envelope(name=name))))
        assert isinstance(outcome, Retry)


def test_a_cancellation_of_the_callers_task_is_the_callers(world: World) -> None:
    entered = asyncio.Event()

    @background_job("wait", registry=world.registry)
    async def wait(number: int = 0) -> None:
        entered.set()
        await asyncio.Event().wait()

    async def scenario() -> None:
        task = asyncio.create_task(world.executor().aexecute(write_envelope(world.envelope(name="wait"))))
        await entered.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(scenario())


def test_arguments_that_exit_the_process_are_parked(world: World) -> None:
    class Leaving:
        def serialize(self, args: object, args_type: object) -> bytes:
            raise NotImplementedError

        def deserialize(self, data: object, args_type: object) -> Any:
            raise SystemExit(3)

    outcome = world.executor(serializer=Leaving()).execute(write_envelope(world.envelope()))
    assert isinstance(outcome, Abandoned)
    assert (outcome.failure.error_type, outcome.failure.tries) == ("SystemExit", 0)


@pytest.mark.parametrize("error", [SystemExit(1), KeyboardInterrupt(), asyncio.CancelledError()])
def test_while_stopping_it_is_the_stop_and_is_passed_on(world: World, error: BaseException) -> None:
    stop = threading.Event()
    stop.set()

    def action() -> None:
        assert current_job().should_stop
        raise error

    world.action = action
    with pytest.raises(type(error)):
        world.executor().execute(write_envelope(world.envelope()), stop=stop)


class Recorder(JobObserver):
    def __init__(self) -> None:
        self.heard: list[str] = []

    def started(self, job: JobExecutionContext) -> None:
        self.heard.append(f"started {job.try_count}")

    def succeeded(self, job: JobExecutionContext, result: object) -> None:
        self.heard.append(f"succeeded {result}")

    def failed(self, job: JobExecutionContext, error: BaseException, next_try_at: datetime | None) -> None:
        self.heard.append(f"failed {error!r} {next_try_at is not None}")

    def abandoned(self, outcome: Abandoned) -> None:
        self.heard.append(f"abandoned {outcome.failure.error_type}")


class Raiser(JobObserver):
    def started(self, job: JobExecutionContext) -> None:
        raise RuntimeError("observer")

    def succeeded(self, job: JobExecutionContext, result: object) -> None:
        raise RuntimeError("observer")

    def failed(self, job: JobExecutionContext, error: BaseException, next_try_at: datetime | None) -> None:
        raise RuntimeError("observer")

    def abandoned(self, outcome: Abandoned) -> None:
        raise RuntimeError("observer")


def test_observers_hear_everything_and_break_nothing(world: World, caplog: pytest.LogCaptureFixture) -> None:
    recorder = Recorder()
    executor = world.executor(observers=JobObservers([Raiser(), recorder]))
    raw = write_envelope(world.envelope())
    world.action = lambda: 7
    assert executor.execute(raw) == Completed()
    world.action = lambda: 1 / 0
    assert isinstance(executor.execute(raw), Retry)
    assert isinstance(executor.execute(write_envelope(world.envelope(try_count=2))), Abandoned)
    assert isinstance(executor.execute(b"junk"), Abandoned)
    error = "ZeroDivisionError('division by zero')"
    assert recorder.heard == [
        *("started 1", "succeeded 7"),
        *("started 1", f"failed {error} True"),
        *("started 3", f"failed {error} False", "abandoned ZeroDivisionError"),
        "abandoned anyjob.EnvelopeError",
    ]
    assert sum("observer" in record.message for record in caplog.records) == 8


class Everything(JobObserver):
    """Notes the events that it hears, each with what it was told first."""

    def __init__(self) -> None:
        self.heard: list[tuple[Any, ...]] = []

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("_") or name == "heard":
            return super().__getattribute__(name)
        return lambda *facts: self.heard.append((name, *facts))


def test_a_job_that_is_interrupted_at_a_stop_is_released(world: World) -> None:
    everything, stop = Everything(), threading.Event()
    executor = world.executor(observers=JobObservers([everything]))
    stop.set()
    world.action = partial(_throw, SystemExit())
    with pytest.raises(SystemExit):
        executor.execute(write_envelope(world.envelope()), stop=stop)
    assert [event for event, *_ in everything.heard] == ["started", "released"]
    assert everything.heard[1][1] == world.envelope()


def test_a_loss_is_told_when_it_is_counted(world: World) -> None:
    everything = Everything()
    executor = world.executor(observers=JobObservers([everything]), max_losses=1)
    outcome = executor.execute(write_envelope(world.envelope()), redelivered=True)
    assert isinstance(outcome, Retry)
    assert everything.heard == [("lost", outcome.envelope)]
    outcome = executor.execute(write_envelope(outcome.envelope), redelivered=True)
    assert isinstance(outcome, Abandoned)
    assert [event for event, *_ in everything.heard] == ["lost", "lost", "abandoned"]
    assert everything.heard[1][1].lost_count == 2


@pytest.mark.parametrize("limit", [None, 30.0])
@pytest.mark.parametrize("kind", ["function", "class", "scoped class", "coroutine", "async class", "hidden coroutine"])
def test_observers_get_what_the_job_returned(
    registry: JobRegistry, clock: FakeClock, kind: str, limit: float | None
) -> None:
    everything = Everything()
    _define_returning(registry, kind, limit)

    @contextlib.contextmanager
    def scope(job: type[Any]) -> Iterator[Any]:
        yield job()

    resolver: Any = scope if kind == "scoped class" else lambda job: job()
    executor = JobExecutor(registry, clock=clock, resolver=resolver, observers=JobObservers([everything]))
    raw = write_envelope(World(registry, clock).envelope(name="returning", args=Raw(b"{}")))
    assert executor.execute(raw) == Completed()
    assert asyncio.run(executor.aexecute(raw)) == Completed()
    executor.close()
    assert [fact[2] for fact in everything.heard if fact[0] == "succeeded"] == [{"rows": 3}] * 2


def _define_returning(registry: JobRegistry, kind: str, limit: float | None) -> None:
    def function() -> object:
        return {"rows": 3}

    async def coroutine() -> object:
        return {"rows": 3}

    def hidden() -> object:
        return coroutine()

    jobs: dict[str, Any] = {"function": function, "coroutine": coroutine, "hidden coroutine": hidden}
    if kind in jobs:
        background_job("returning", registry=registry, time_limit=limit)(jobs[kind])
    elif kind == "async class":

        @job_name("returning")
        class Returning(AsyncBackgroundJob[dict[str, int]], registry=None):
            time_limit = limit

            async def execute(self, args: dict[str, int]) -> object:  # type: ignore[override]
                return {"rows": 3}

        registry.register(JobConfiguration.of_class(Returning, dict[str, int]))
    else:

        @job_name("returning")
        class Plain(BackgroundJob[dict[str, int]], registry=None):
            time_limit = limit

            def execute(self, args: dict[str, int]) -> object:  # type: ignore[override]
                return {"rows": 3}

        registry.register(JobConfiguration.of_class(Plain, dict[str, int]))


def test_the_end_of_the_process_is_told_once_and_only_where_jobs_ran(world: World) -> None:
    everything = Everything()
    executor = world.executor(observers=JobObservers([everything]))
    executor.end_process()
    assert everything.heard == []
    world.action = partial(_throw, GiveUp())
    executor.execute(write_envelope(world.envelope()))
    executor.end_process()
    executor.end_process()
    assert [event for event, *_ in everything.heard] == ["started", "failed", "abandoned", "process_ends"]


def test_a_process_that_ran_jobs_tells_so_when_it_exits_and_its_forks_don_t() -> None:
    code = """if True:
        import os, anyjob
        class Told(anyjob.JobObserver):
            def process_ends(self):
                print("ends", os.getpid(), flush=True)
        @anyjob.background_job("nothing")
        def nothing(): pass
        from anyjob.seams.backend import BackendConfig
        from anyjob.stores.store_backend import memory_backend
        backend = memory_backend(BackendConfig(alias="main", url="memory:"))
        manager = anyjob.JobManager(backend, registry=anyjob.default_registry, observers=[Told()])
        manager.enqueue_for(nothing)
        print("runs", os.getpid(), manager.drain(), flush=True)
        if (child := os.fork()) == 0:
            raise SystemExit
        os.waitpid(child, 0)
    """
    told = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert told == ["runs", told[1], "1", "ends", told[1]]


def test_what_a_job_sets_is_nothing_to_the_next_one_of_its_thread(world: World) -> None:
    tenant: ContextVar[str] = ContextVar("tenant", default="nobody")
    seen = []

    def action() -> None:
        seen.append(tenant.get())
        tenant.set("mine")

    world.action = action
    for _ in range(2):
        world.run()
    assert seen == ["nobody", "nobody"]


def test_log_lines_tell_the_story_without_the_arguments(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "anyjob")
    secret = Raw(b'{"number":424242}')
    world.run(args=secret)
    world.run_raising(ValueError("no"), args=secret)
    world.run_raising(ValueError("no"), args=secret, try_count=2)
    then = "2026-01-01T12:01:00+00:00"
    lines = [record.getMessage() for record in caplog.records]
    assert lines == [
        "started job=work id=id1 try=1 max_tries=3 waited=0s worker=tester",
        "done job=work id=id1 try=1 max_tries=3 took=0s",
        "started job=work id=id1 try=1 max_tries=3 waited=0s worker=tester",
        f"failed job=work id=id1 try=1 max_tries=3 took=0s error=ValueError reason=no next={then} worker=tester",
        "started job=work id=id1 try=3 max_tries=3 waited=0s worker=tester",
        "gave up job=work id=id1 tries=3 took=0s error=ValueError reason=no worker=tester",
    ]
    assert "424242" not in caplog.text
    assert caplog.text.count("Traceback") == 2
    assert all(vars(record)["job_id"] == "id1" for record in caplog.records)


def _travel_when(started: threading.Event, clock: FakeClock) -> None:
    started.wait(5)
    clock.travel(10)


class Later(RetryLater):
    def wanted_at(self, now: datetime) -> datetime:
        raise OverflowError("beyond the end of time")


@pytest.mark.parametrize("error", [RetryLater(timedelta.max), Later(1)])
def test_a_wish_that_can_not_be_followed_is_parked_and_not_run_for_ever(world: World, error: Exception) -> None:
    outcome = world.run_raising(error)
    assert isinstance(outcome, Abandoned)
    assert outcome.failure.error_type == "OverflowError"
    assert "the job asked to be retried later" in outcome.failure.traceback


def test_an_envelope_that_breaks_the_arithmetic_of_time_is_parked(world: World) -> None:
    end = datetime.max.replace(tzinfo=world.clock.now().tzinfo)
    outcome = world.run(name="unknown", first_due_at=end)
    assert isinstance(outcome, Abandoned)
    assert outcome.failure.error_type == "OverflowError"


def test_a_job_that_swallows_every_exception_still_ends_at_its_time_limit(world: World) -> None:
    started = threading.Event()

    @background_job("stubborn", registry=world.registry, time_limit=10)
    def stubborn(number: int = 0) -> None:
        while True:
            with contextlib.suppress(Exception):  # as careless code does
                started.set()

    traveller = threading.Thread(target=_travel_when, args=(started, world.clock))
    traveller.start()
    outcome = world.run(name="stubborn")
    traveller.join()
    assert isinstance(outcome, Retry)
    assert outcome.envelope.last_error == "JobTimeLimitError: ran longer than 10 s"


def test_the_workers_name_is_that_of_the_process_it_is_asked_in(world: World) -> None:
    assert JobExecutor(world.registry).worker.endswith(f"-{os.getpid()}")


# Snooze


def _stopped() -> threading.Event:
    stop = threading.Event()
    stop.set()
    return stop


def test_a_snoozed_job_costs_no_try_and_its_budget_moves_along(world: World) -> None:
    start = world.clock.now()

    def action() -> None:
        world.clock.travel(5)
        raise Snooze(60)

    world.action = action
    outcome = world.run(try_count=1)
    assert isinstance(outcome, Deferred)
    again = outcome.envelope
    assert again.due_at == again.first_due_at == start + timedelta(seconds=65)
    assert (again.try_count, again.headers) == (1, {SNOOZES_HEADER: "1"})


def test_a_snooze_needs_no_time_and_no_policy(world: World) -> None:
    _single(world, Snooze())
    outcome = world.run(name="single")
    assert isinstance(outcome, Deferred)
    assert outcome.envelope.due_at == world.clock.now()


def test_a_snooze_into_the_past_does_not_overtake(world: World) -> None:
    outcome = world.run_raising(Snooze(run_at=world.clock.now() - timedelta(days=1)))
    assert isinstance(outcome, Deferred)
    assert outcome.envelope.due_at == outcome.envelope.first_due_at == world.clock.now()


@pytest.mark.parametrize("wish", [RetryLater(30), Snooze(30)])
def test_a_stop_costs_the_polite_nothing(world: World, wish: Exception) -> None:
    _single(world, wish)
    raw = write_envelope(world.envelope(name="single"))
    outcome = world.executor().execute(raw, stop=_stopped())
    assert isinstance(outcome, Deferred)
    assert outcome.envelope.due_at == world.clock.now() + timedelta(seconds=30)
    assert outcome.envelope.try_count == 0


def test_snoozes_are_bounded_and_a_failed_try_does_not_reset_them(world: World) -> None:
    last = world.run_raising(Snooze(), headers={SNOOZES_HEADER: str(MAX_SNOOZES - 1)})
    assert isinstance(last, Deferred)
    charged = world.executor().execute(write_envelope(last.envelope))
    assert isinstance(charged, Retry)
    assert (charged.envelope.try_count, charged.envelope.headers) == (1, {SNOOZES_HEADER: str(MAX_SNOOZES)})
    assert charged.envelope.due_at == world.clock.now()  # its wish still holds
    _single(world, Snooze())
    assert isinstance(world.run(name="single", headers={SNOOZES_HEADER: str(MAX_SNOOZES)}), Abandoned)


def test_a_snooze_that_can_not_be_followed_is_parked(world: World) -> None:
    outcome = world.run_raising(Snooze(timedelta.max))
    assert isinstance(outcome, Abandoned)
    assert outcome.failure.error_type == "OverflowError"


def test_a_snooze_is_told(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "anyjob")
    heard: list[object] = []

    class Listener(JobObserver):
        def snoozed(self, job: JobExecutionContext, error: BaseException, until: datetime) -> None:
            heard.append((job.try_count, type(error), until))

    executor = world.executor(observers=JobObservers([Listener()]))
    world.run_raising(Snooze())
    executor.execute(write_envelope(world.envelope()))
    assert heard == [(1, Snooze, world.clock.now())]
    assert "snoozed job=work id=id1 until=2026-01-01T12:00:00+00:00" in caplog.text


# What a job's exception, an observer or a clock may do


class DatetimeOfAnother(datetime):
    """As pendulum's and freezegun's: no encoder knows it."""


@pytest.mark.parametrize("wish", [RetryLater, Snooze])
def test_times_of_another_librarys_type_become_plain(world: World, wish: type[Any]) -> None:
    at = DatetimeOfAnother(2026, 1, 1, 14, tzinfo=timezone(timedelta(hours=1)))
    outcome = world.run_raising(wish(run_at=at))
    assert isinstance(outcome, Retry | Deferred)
    assert type(outcome.envelope.due_at) is datetime
    assert read_envelope(write_envelope(outcome.envelope)).due_at == datetime(2026, 1, 1, 13, tzinfo=UTC)


def test_a_clock_of_another_type_does_no_harm(world: World) -> None:
    class Odd(FakeClock):
        def now(self) -> datetime:
            now = super().now()
            return DatetimeOfAnother(now.year, now.month, now.day, now.hour, tzinfo=UTC)

    world.action = partial(_throw, ValueError("no"))
    envelopes = (world.envelope(try_count=tries) for tries in (0, 2))
    executor = JobExecutor(world.registry, clock=Odd())
    outcome, parked = (executor.execute(write_envelope(each)) for each in envelopes)
    assert isinstance(outcome, Retry)
    assert write_envelope(outcome.envelope)
    assert isinstance(parked, Abandoned)
    assert msgspec.json.encode(parked.failure)


def _raising(name: str, error: type[BaseException]) -> BaseException:
    """Return an exception whose attribute of that name raises."""

    def refuse(*_: object) -> Any:
        raise error("hostile")

    value = property(refuse) if name in ("__class__", "__cause__", "__context__", "__traceback__", "args") else refuse
    made: BaseException = type("Hostile", (Exception,), {name: value})()
    return made


def _in_a_chain() -> BaseException:
    error = ValueError("honest")
    error.__cause__ = _raising("__str__", SystemExit)
    return error


class Liar(type):
    def __getattribute__(cls, name: str) -> Any:
        raise SystemExit("hostile")


ATTRIBUTES = ["__str__", "__repr__", "__class__", "__cause__", "__traceback__", "__getattribute__", "__eq__"]
HOSTILE: list[Callable[[], BaseException]] = [  # made in the test: who runs it would look at them
    *(partial(_raising, name, error) for name in ATTRIBUTES for error in (RuntimeError, SystemExit)),
    partial(_raising, "with_traceback", ValueError),
    _in_a_chain,
    Liar("Hostile", (Exception,), {}),
    type("Hostile", (Exception,), {"__qualname__": "\ud800"}),
    partial(type("Hostile", (RetryLater,), {"wanted_at": lambda *_: 1 / 0}), 5),
    partial(type("Hostile", (RetryLater,), {"wanted_at": lambda *_: datetime(2026, 1, 1)}), 5),  # noqa: DTZ001
    type("Hostile", (Snooze,), {"wanted_at": lambda *_: "soon"}),
]


@pytest.mark.parametrize("number", range(len(HOSTILE)))
@pytest.mark.parametrize("try_count", [0, 2])
def test_no_exception_can_keep_its_try_from_being_charged(world: World, number: int, try_count: int) -> None:
    class Curious(JobObserver):
        def failed(self, job: JobExecutionContext, error: BaseException, next_try_at: datetime | None) -> None:
            heard.append(f"{error} {error!r} {traceback.format_exception(error)}")

    heard: list[str] = []

    def action() -> None:
        raise HOSTILE[number]()

    world.action = action
    executor = world.executor(observers=JobObservers([Curious()]))
    outcome = executor.execute(write_envelope(world.envelope(try_count=try_count)))
    assert isinstance(outcome, Retry | Abandoned)
    assert outcome.envelope is not None
    assert outcome.envelope.try_count == try_count + 1
    assert read_envelope(write_envelope(outcome.envelope)) == outcome.envelope
    assert len(heard) == 1
    if isinstance(outcome, Abandoned):
        assert msgspec.json.encode(outcome.failure)
        assert "in action" in outcome.failure.traceback
        assert repr(outcome.error)


@pytest.mark.parametrize("number", range(len(HOSTILE)))
@pytest.mark.parametrize("limit", [None, 10])
def test_nor_can_one_of_an_async_job(world: World, number: int, limit: float | None) -> None:
    @background_job("hostile", registry=world.registry, time_limit=limit)
    async def hostile(number: int = 0) -> None:
        raise HOSTILE[number]()

    executor = world.executor()
    raw = write_envelope(world.envelope(name="hostile", args=Raw(b'{"number":%d}' % number)))
    with ThreadPoolExecutor(1) as pool:
        outcome = pool.submit(executor.execute, raw).result(timeout=10)
    executor.close()
    assert isinstance(outcome, Retry | Abandoned)
    assert outcome.envelope is not None
    assert outcome.envelope.try_count == 1


def test_an_untellable_error_keeps_its_name(world: World) -> None:
    outcome = world.run_raising(_raising("__class__", RuntimeError), try_count=2)
    assert isinstance(outcome, Abandoned)
    assert outcome.failure.error_type == f"{__name__}.Hostile"
    assert outcome.failure.message == "it can't be shown: it raised RuntimeError"


@pytest.mark.parametrize("error", [RuntimeError, SystemExit, KeyboardInterrupt])
def test_a_policy_that_raises_parks(world: World, error: type[BaseException]) -> None:
    class Broken(RetryPolicy):
        def next_try_at(self, **_: Any) -> datetime:
            raise error("no idea")

    @background_job("broken", registry=world.registry, retry=Broken())
    def broken(number: int = 0) -> None:
        raise ValueError("the job's own")

    outcome = world.run(name="broken")
    assert isinstance(outcome, Abandoned)
    assert outcome.failure.error_type == error.__name__
    assert "the job's own" in outcome.failure.traceback


@pytest.mark.parametrize("event", ["started", "succeeded", "failed", "abandoned", "snoozed", "lost", "process_ends"])
def test_an_observer_that_exits_ends_no_try(world: World, event: str) -> None:
    def leave(*_: object) -> None:
        raise SystemExit(3)

    observer: JobObserver = type("Leaving", (JobObserver,), {event: leave})()
    executor = world.executor(observers=JobObservers([observer]))
    raw = write_envelope(world.envelope())
    assert executor.execute(raw) == Completed()
    for error, outcome in ((ValueError(), Retry), (GiveUp(), Abandoned), (Snooze(), Deferred)):
        world.action = partial(_throw, error)
        assert isinstance(executor.execute(raw), outcome)
    assert isinstance(executor.execute(raw, redelivered=True), Retry)
    executor.end_process()


def _throw(error: BaseException) -> None:
    raise error


def test_a_log_filter_that_exits_ends_no_try(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "anyjob")

    def leave(_record: logging.LogRecord) -> bool:
        raise SystemExit(3)

    log = logging.getLogger("anyjob.worker")
    log.addFilter(leave)
    try:
        assert world.run() == Completed()
        assert isinstance(world.run_raising(ValueError()), Retry)
        assert isinstance(world.run_raising(GiveUp()), Abandoned)
    finally:
        log.removeFilter(leave)


def test_names_of_messages_can_not_forge_log_lines(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.run(name="a id=1\nERROR root logged in from 10.0.0.1")
    *_, line = (record.getMessage() for record in caplog.records)
    assert line.startswith('unknown job="a id=1\\nERROR root logged in from 10.0.0.1" id=id1 ')


# What is written can be read again

_NAMES = st.sampled_from(["work", "old.work", "unknown", "single"])
_TIMES = st.datetimes(timezones=st.sampled_from([UTC, timezone(timedelta(hours=14)), timezone(timedelta(hours=-12))]))
_COUNTS = st.integers(0, 3) | st.integers(MAX_COUNT - 2, MAX_COUNT)
_HEADERS = st.dictionaries(
    st.sampled_from([DEFERRALS_HEADER, SNOOZES_HEADER, ARGS_VERSION_HEADER, "tenant"]),
    st.integers(0, 10**12).map(str) | st.text(max_size=10),
)


@given(
    changes=st.fixed_dictionaries(
        {"name": _NAMES, "created_at": _TIMES, "first_due_at": _TIMES},
        optional={
            "due_at": st.none() | _TIMES,
            "try_count": _COUNTS,
            "lost_count": _COUNTS,
            "last_try_at": _TIMES,
            "headers": _HEADERS,
        },
    ),
    error=st.sampled_from([None, ValueError("\ud800"), RetryLater(1e9), Snooze(1e9), Snooze(), SystemExit(), GiveUp()]),
    redelivered=st.booleans(),
    losses=st.sampled_from([5, MAX_COUNT * 2]),
)
@settings(deadline=None, max_examples=400)
def test_every_outcome_of_an_envelope_can_be_read_again(
    changes: dict[str, Any], error: BaseException | None, redelivered: bool, losses: int
) -> None:
    world = World(JobRegistry(), FakeClock())
    _single(world, error or ValueError())
    world.action = (lambda: None) if error is None else partial(_throw, error)
    try:
        raw = write_envelope(read_envelope(write_envelope(world.envelope(**changes))))
    except EnvelopeError:
        return  # nobody could have sent it
    executor = world.executor(retry=RetryPolicy(max_tries=10**7, timeout=None), max_losses=losses)
    outcome = executor.execute(raw, redelivered=redelivered)
    if isinstance(outcome, Completed):
        return
    kept = outcome.raw if isinstance(outcome, Abandoned) else write_envelope(outcome.envelope)
    assert read_envelope(kept).id == "id1"


def test_a_job_that_was_tried_a_million_times_is_parked_readable(world: World) -> None:
    @background_job("endless", registry=world.registry, retry=RetryPolicy(max_tries=10**9, timeout=None))
    def endless(number: int = 0) -> None:
        raise ValueError

    for tries in (MAX_COUNT - 1, MAX_COUNT):
        outcome = world.run(name="endless", try_count=tries)
        assert isinstance(outcome, Abandoned)
        assert read_envelope(outcome.raw).try_count == MAX_COUNT
    lost = world.executor(max_losses=10**9).execute(
        write_envelope(world.envelope(lost_count=MAX_COUNT - 1)), redelivered=True
    )
    assert isinstance(lost, Abandoned)
    assert read_envelope(lost.raw).lost_count == MAX_COUNT
