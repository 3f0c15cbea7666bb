"""Faults on demand, and the profile of another backend."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import pytest

import anyjob
from anyjob import (
    BackgroundJob,
    ConfigurationError,
    DuplicateJobIdError,
    EnqueueError,
    JobFilter,
    JobLostError,
    JobManager,
    JobPriority,
    JobState,
    RetryPolicy,
    UnsupportedCapabilityError,
    background_job,
    current_job,
    get_manager,
)
from anyjob.seams.capabilities import BulkAtomicity, Capabilities, Quality
from anyjob.testing import JobSandbox, in_memory

ran: list[Any] = []


@dataclass
class Payment:
    amount: int


class Pay(BackgroundJob[Payment]):
    retry = RetryPolicy(max_tries=3, first_wait=10)

    def execute(self, args: Payment) -> None:
        ran.append((args.amount, current_job().lost_count))
        if args.amount < 0:
            raise ValueError("negative")


@background_job("faults.other", retry=None)
def other() -> None: ...


@pytest.fixture(autouse=True)
def _nothing_ran() -> None:
    ran.clear()


@pytest.fixture
def sandbox(anyjob_sandbox: JobSandbox) -> JobSandbox:
    return anyjob_sandbox


# The broker is away


def test_the_broker_is_away_at_the_nth_enqueue(sandbox: JobSandbox) -> None:
    with sandbox.broker_away(at=2):
        Pay.enqueue(Payment(1))
        with pytest.raises(EnqueueError, match="away") as failed:
            Pay.enqueue(Payment(2), job_id="second")
        Pay.enqueue(Payment(3))
    assert (failed.value.rejected, failed.value.accepted, failed.value.in_doubt) == (("second",), (), ())
    assert [job.args.amount for job in sandbox.enqueued] == [1, 3]


def test_the_broker_is_away_for_one_job_alone(sandbox: JobSandbox) -> None:
    with sandbox.broker_away(job=Pay):
        other.enqueue()
        with pytest.raises(EnqueueError):
            Pay.enqueue(Payment(1))
        with pytest.raises(EnqueueError):
            Pay.enqueue(Payment(2))


def test_in_doubt_the_job_is_in_there_though_the_call_failed(sandbox: JobSandbox) -> None:
    with sandbox.broker_away(in_doubt=True), pytest.raises(EnqueueError) as failed:
        Pay.enqueue(Payment(1), job_id="x")
    assert failed.value.in_doubt == ("x",)
    assert sandbox.run() == 1


@pytest.mark.parametrize(
    ("bulk", "in_doubt", "told"),
    [
        (BulkAtomicity.BATCH, False, (["a"], [], ["b", "c"])),
        (BulkAtomicity.BATCH, True, (["a"], ["b"], ["c"])),
        (BulkAtomicity.ALL_OR_NONE, False, ([], [], ["a", "b", "c"])),
        (BulkAtomicity.ALL_OR_NONE, True, ([], ["a", "b", "c"], [])),
    ],
)
def test_a_bulk_enqueue_fails_as_the_backend_s_would(bulk: BulkAtomicity, in_doubt: bool, told: Any) -> None:
    with in_memory(profile=replace(PLAIN, bulk=bulk)) as sandbox:
        jobs = [Pay.prepare(Payment(1), job_id=each) for each in ("a", "b", "c")]
        with sandbox.broker_away(at=2, in_doubt=in_doubt), pytest.raises(EnqueueError) as failed:
            get_manager().enqueue_many(jobs)
        error = failed.value
        assert (list(error.accepted), list(error.in_doubt), list(error.rejected)) == told
        assert [job.id for job in sandbox.enqueued] == [*told[0], *told[1]]


PLAIN = Capabilities(delay=Quality.EXACT)


# The worker is killed, the message comes twice


def test_the_worker_is_killed_after_the_side_effect_and_the_job_runs_again(sandbox: JobSandbox) -> None:
    Pay.enqueue(Payment(1))
    Pay.enqueue(Payment(2))
    with sandbox.worker_killed(at=1):
        assert sandbox.run() == 2
    assert sandbox.run() == 0  # nobody knows yet
    sandbox.travel(40)  # memory's redelivery bound
    assert sandbox.run() == 1
    assert ran == [(1, 0), (2, 0), (1, 1)]


def test_run_all_waits_for_what_was_lost(sandbox: JobSandbox) -> None:
    Pay.enqueue(Payment(1))
    with sandbox.worker_killed(at=1, job=Pay):
        assert sandbox.run_all() == 2
    assert ran == [(1, 0), (1, 1)]


def test_a_job_that_always_takes_its_worker_along_is_given_up(sandbox: JobSandbox) -> None:
    Pay.enqueue(Payment(1))
    with sandbox.worker_killed(), pytest.raises(JobLostError):
        sandbox.run_all()
    assert [lost for _, lost in ran] == [0, 1, 2, 3, 4, 5]
    sandbox.assert_abandoned(Pay, error=JobLostError)


def test_a_message_comes_twice(sandbox: JobSandbox) -> None:
    Pay.enqueue(Payment(1))
    other.enqueue()
    with sandbox.delivered_twice(job=Payment):
        assert sandbox.run() == 2
    assert ran == [(1, 0), (1, 0)]
    assert sandbox.run_all() == 0


def test_the_second_delivery_s_failure_is_raised(sandbox: JobSandbox) -> None:
    balance = [100]

    @background_job("faults.once", retry=None, registry=OWN)
    def once() -> None:
        balance[0] -= 100
        if balance[0] < 0:
            raise ValueError("paid twice")

    JobManager({"default": lambda: pytest.fail("made")}, registry=OWN).enqueue_by_name("faults.once", {})
    with sandbox.delivered_twice(), pytest.raises(ValueError, match="paid twice"):
        sandbox.run()


OWN = anyjob.JobRegistry()


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (lambda sandbox: sandbox.broker_away(at=5), "No job was enqueued"),
        (lambda sandbox: sandbox.worker_killed(at=5), "No job ran"),
        (lambda sandbox: sandbox.delivered_twice(job=other), "No job ran"),
    ],
)
def test_a_fault_that_never_struck_fails_the_test(
    sandbox: JobSandbox, fault: Callable[[JobSandbox], AbstractContextManager[None]], told: str
) -> None:
    Pay.enqueue(Payment(1))
    with pytest.raises(AssertionError, match=told), fault(sandbox):
        sandbox.run()
    with pytest.raises(ZeroDivisionError), fault(sandbox):  # the test's own failure is not covered up
        _ = 1 / 0


def test_faults_end_with_their_block(sandbox: JobSandbox) -> None:
    with sandbox.broker_away(), pytest.raises(EnqueueError):
        Pay.enqueue(Payment(1))
    Pay.enqueue(Payment(1))
    with sandbox.worker_killed():
        sandbox.run()
    sandbox.travel(60)
    assert [sandbox.run(), sandbox.run_all()] == [1, 0]


# Another backend's profile


POOR = Capabilities(
    listing=frozenset({JobState.WAITING}),
    removal=frozenset(),
    counts={JobState.WAITING: Quality.APPROXIMATE},
    redelivery_bound=timedelta(hours=1),
)


@pytest.fixture
def poor() -> Iterator[JobSandbox]:
    with in_memory(profile=POOR) as sandbox:
        yield sandbox


def test_what_the_profile_lacks_is_refused(poor: JobSandbox) -> None:
    with pytest.raises(UnsupportedCapabilityError, match="priority HIGH"):
        other.using(priority=JobPriority.HIGH).enqueue()
    with pytest.raises(UnsupportedCapabilityError, match="a delay"):
        other.using(delay=1).enqueue()
    with pytest.raises(UnsupportedCapabilityError, match="need one between tries"):
        Pay.enqueue(Payment(1))
    poor.assert_nothing_enqueued()


def test_limits_are_those_of_the_profile() -> None:
    with in_memory(profile=replace(PLAIN, max_delay=timedelta(days=1))) as sandbox:
        with pytest.raises(UnsupportedCapabilityError, match="its longest is 1 day"):
            other.using(delay=timedelta(days=2)).enqueue()
        other.using(delay=timedelta(days=1)).enqueue()
        sandbox.assert_enqueued(other, times=1)


def test_the_inspector_shows_no_more_than_the_profile_s(poor: JobSandbox) -> None:
    job_id = other.enqueue()
    inspector = get_manager().inspect()
    assert inspector.count() == {JobState.WAITING: 1}
    assert [job.id for job in inspector.scan(JobFilter()).jobs] == [job_id]
    with pytest.raises(UnsupportedCapabilityError, match="can't take out"):
        inspector.cancel(job_id)
    assert inspector.scan(JobFilter(states=frozenset({JobState.ABANDONED}))).jobs == []
    with in_memory(profile=PLAIN), pytest.raises(UnsupportedCapabilityError, match="can't be looked into"):
        get_manager().inspect()


def test_a_lost_job_runs_again_within_the_profile_s_bound(poor: JobSandbox) -> None:
    other.enqueue()
    with poor.worker_killed():
        poor.run()
    poor.travel(minutes=59)
    assert poor.run() == 0
    poor.travel(minutes=1)
    assert poor.run() == 1


def test_an_id_is_unique_only_where_the_profile_says_so(sandbox: JobSandbox) -> None:
    Pay.enqueue(Payment(1), job_id="same")
    with pytest.raises(DuplicateJobIdError):
        Pay.enqueue(Payment(2), job_id="same")
    with in_memory(profile=PLAIN) as without:
        Pay.enqueue(Payment(-1), job_id="same")
        Pay.enqueue(Payment(2), job_id="same")
        assert without.run_all(raises=False) == 4  # both ran, one of them three times
        without.assert_enqueued(Pay, times=2)
        without.assert_abandoned(Pay, {"amount": -1}, times=1)
        without.assert_ran(Pay, {"amount": 2}, times=1, error=None)


def test_a_profile_may_be_a_url() -> None:
    with in_memory(profile="memory:"):
        assert get_manager().backend().capabilities.unique_ids is True
    with pytest.raises(ConfigurationError, match="unknown scheme 'rqq'"), in_memory(profile="rqq://x"):
        raise AssertionError("entered")


def test_a_profile_s_backend_is_not_connected_to() -> None:
    pytest.importorskip("rq", reason="anyjob[rq] is not installed")
    with in_memory(profile="rq+redis://user:secret@localhost:1/0") as sandbox:
        can = get_manager().backend().capabilities
        assert (can.durable, can.in_process, can.bulk) == (True, False, BulkAtomicity.BATCH)
        Pay.enqueue(Payment(1), delay=5)
        assert sandbox.run_all() == 1


@pytest.mark.anyjob_sandbox(profile=PLAIN)
def test_the_fixture_takes_its_profile_from_the_marker(anyjob_sandbox: JobSandbox) -> None:
    assert get_manager().backend().capabilities is PLAIN
