from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import msgspec
import pytest
from msgspec import Raw
from msgspec.structs import replace

from anyjob import (
    GiveUp,
    JobEnvelope,
    JobExecutionContext,
    JobObserver,
    JobPriority,
    JobRegistry,
    JobResolutionError,
    RetryLater,
    RetryPolicy,
    background_job,
    current_job,
)
from anyjob.envelope import write_envelope
from anyjob.executor import DEFERRALS_HEADER, JobExecutor
from anyjob.observer import JobObservers
from anyjob.outcome import Abandoned, Completed, Deferred, Outcome, Retry
from anyjob.testing import FakeClock


class World:
    """A registry with one job, `work`, that does what the test says."""

    def __init__(self, registry: JobRegistry, clock: FakeClock) -> None:
        self.registry = registry
        self.clock = clock
        self.calls: list[JobExecutionContext] = []
        self.action: Callable[[], Any] = lambda: None

        @background_job("work", aliases=["old.work"], registry=registry, retry=RetryPolicy(max_tries=3))
        def work(number: int = 0) -> None:
            self.calls.append(current_job())
            self.action()

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
    @background_job("single", registry=world.registry, retry=None)
    def single(number: int = 0) -> None:
        raise RetryLater(5)

    assert isinstance(world.run(name="single"), Abandoned)


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


@pytest.mark.parametrize("error", [SystemExit(1), KeyboardInterrupt()])
def test_an_order_to_the_process_in_its_main_thread_is_passed_on(world: World, error: BaseException) -> None:
    with pytest.raises(type(error)):
        world.run_raising(error)


class Strange(BaseException):
    pass


@pytest.mark.parametrize(
    "error", [SystemExit(1), KeyboardInterrupt(), Strange(), GeneratorExit(), asyncio.CancelledError()]
)
def test_in_another_thread_it_was_the_job_and_counts_as_a_failed_try(world: World, error: BaseException) -> None:
    outcomes: list[Outcome] = []
    thread = threading.Thread(target=lambda: outcomes.append(world.run_raising(error)))
    thread.start()
    thread.join()
    assert isinstance(outcomes[0], Retry)
    assert outcomes[0].envelope.try_count == 1


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

    def succeeded(self, job: JobExecutionContext) -> None:
        self.heard.append("succeeded")

    def failed(self, job: JobExecutionContext, error: BaseException, next_try_at: datetime | None) -> None:
        self.heard.append(f"failed {error!r} {next_try_at is not None}")

    def abandoned(self, outcome: Abandoned) -> None:
        self.heard.append(f"abandoned {outcome.failure.error_type}")


class Raiser(JobObserver):
    def started(self, job: JobExecutionContext) -> None:
        raise RuntimeError("observer")

    succeeded = started

    def failed(self, job: JobExecutionContext, error: BaseException, next_try_at: datetime | None) -> None:
        raise RuntimeError("observer")

    def abandoned(self, outcome: Abandoned) -> None:
        raise RuntimeError("observer")


def test_observers_hear_everything_and_break_nothing(world: World, caplog: pytest.LogCaptureFixture) -> None:
    recorder = Recorder()
    executor = world.executor(observers=JobObservers([Raiser(), recorder]))
    raw = write_envelope(world.envelope())
    assert executor.execute(raw) == Completed()
    world.action = lambda: 1 / 0
    assert isinstance(executor.execute(raw), Retry)
    assert isinstance(executor.execute(write_envelope(world.envelope(try_count=2))), Abandoned)
    assert isinstance(executor.execute(b"junk"), Abandoned)
    error = "ZeroDivisionError('division by zero')"
    assert recorder.heard == [
        *("started 1", "succeeded"),
        *("started 1", f"failed {error} True"),
        *("started 3", f"failed {error} False", "abandoned ZeroDivisionError"),
        "abandoned anyjob.errors.EnvelopeError",
    ]
    assert sum("observer" in record.message for record in caplog.records) == 8


def test_log_lines_tell_the_story_without_the_arguments(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "anyjob")
    secret = Raw(b'{"number":424242}')
    world.run(args=secret)
    world.run_raising(ValueError("no"), args=secret)
    world.run_raising(ValueError("no"), args=secret, try_count=2)
    lines = [record.getMessage() for record in caplog.records]
    assert lines == [
        "started job=work id=id1 try=1/3 waited=0.000s worker=tester",
        "done job=work id=id1 took=0.000s",
        "started job=work id=id1 try=1/3 waited=0.000s worker=tester",
        "failed job=work id=id1 try=1/3 error=ValueError next=2026-01-01T12:01:00+00:00",
        "started job=work id=id1 try=3/3 waited=0.000s worker=tester",
        "gave up job=work id=id1 tries=3 error=ValueError",
    ]
    assert "424242" not in caplog.text
    assert caplog.text.count("Traceback") == 1
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
