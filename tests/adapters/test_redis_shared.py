"""What adapters share that keep their jobs in Redis: parked jobs, signs of life, recurring threads."""

from __future__ import annotations

import logging
import threading

import fakeredis
import pytest
import redis
from envelopes import make_envelope

from anyjob import JobEnvelope, SystemClock
from anyjob.envelope import write_envelope
from anyjob.outcome import JobFailure
from anyjob.testing import FakeClock
from anyjob.testing.probes.journal import wait_until
from anyjob_redis import ParkedJobs, Presence, RecurringThread


@pytest.fixture
def parked(fake: fakeredis.FakeRedis, clock: FakeClock) -> ParkedJobs:
    return ParkedJobs(fake, "anyjob", clock)


@pytest.fixture
def failure(clock: FakeClock) -> JobFailure:
    return JobFailure.of(ValueError("no"), at=clock.now(), worker="w", tries=3)


def test_bytes_and_failure_come_out_as_they_went_in(parked: ParkedJobs, failure: JobFailure) -> None:
    raw = bytes(range(256))
    job_id = parked.park(raw, failure)
    (job,) = parked.find([job_id, "nobody"])
    assert (job.id, job.raw, job.failure) == (job_id, raw, failure)
    assert parked.find([]) == ()


def test_an_id_is_the_jobs_own_and_parking_it_twice_keeps_one(
    parked: ParkedJobs, failure: JobFailure, clock: FakeClock
) -> None:
    raw = write_envelope(make_envelope(clock.now(), "one"))
    assert [parked.park(raw, failure), parked.park(raw, failure)] == ["one", "one"]
    other = parked.park(write_envelope(make_envelope(clock.now(), "one", args="another")), failure)
    assert other != "one"
    assert parked.count() == 2
    assert [job.raw for job in parked.find(["one"])] == [raw]


def test_pages_are_in_the_order_of_ids(parked: ParkedJobs, failure: JobFailure, clock: FakeClock) -> None:
    for job_id in ("c", "a", "d", "b"):
        parked.park(write_envelope(make_envelope(clock.now(), job_id)), failure)
    assert [job.id for job in parked.page("", 3)] == ["a", "b", "c"]
    assert [job.id for job in parked.page("c", 3)] == ["d"]
    assert parked.page("d", 3) == ()


def test_what_is_held_is_held_by_one_until_the_hold_lapses(
    parked: ParkedJobs, failure: JobFailure, clock: FakeClock
) -> None:
    sent: list[JobEnvelope] = []
    job_id = parked.park(b"?", failure)
    envelope = make_envelope(clock.now(), "one")
    with parked.take([job_id, "nobody"], sent.append) as (first,):
        with parked.take([job_id], sent.append) as none:
            assert not none
        clock.travel(299)
        with parked.take([job_id], sent.append) as none:
            assert not none
        clock.travel(1)
        with parked.take([job_id], sent.append) as (second,):
            assert not first.acknowledge()
            assert not first.replace(envelope)
            assert sent == []
            assert second.replace(envelope)
            assert not second.acknowledge()
    assert sent == [envelope]
    assert parked.count() == 0


def test_what_is_not_settled_goes_back_and_nothing_expires(
    parked: ParkedJobs, fake: fakeredis.FakeRedis, failure: JobFailure
) -> None:
    job_id = parked.park(b"?", failure)
    with parked.take([job_id], lambda _envelope: None) as taken:
        assert len(taken) == 1
    with parked.take([job_id], lambda _envelope: None) as (again,):
        assert again.acknowledge()
    assert fake.keys() == []
    parked.park(b"?", failure)
    assert {fake.ttl(key) for key in fake.scan_iter()} == {-1}


def test_a_presence_is_steady_after_two_beats_that_found_it(fake: fakeredis.FakeRedis) -> None:
    presence = Presence(fake, "anyjob", "me", 30.0)
    assert [presence.beat() for _ in range(3)] == [False, False, True]
    assert 29_000 < fake.pttl("anyjob:alive:me") <= 30_000
    fake.delete("anyjob:alive:me")  # the server was away
    assert [presence.beat() for _ in range(3)] == [False, False, True]
    presence.leave()
    assert not fake.exists("anyjob:alive:me")


def test_a_recurring_thread_waits_on_the_clock(clock: FakeClock) -> None:
    calls: list[int] = []

    def act() -> float:
        calls.append(1)
        return 10.0

    with RecurringThread("test", act, clock):
        wait_until(lambda: len(calls) == 1)

        def called_again() -> bool:
            clock.travel(10)
            return len(calls) >= 2

        wait_until(called_again)
    made = len(calls)
    clock.travel(100)
    assert len(calls) == made


@pytest.mark.parametrize("error", [redis.ConnectionError("gone"), KeyError("bug")])
def test_a_recurring_thread_outlives_errors(
    clock: FakeClock, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    calls: list[int] = []

    def act() -> float:
        calls.append(1)
        if len(calls) < 3:
            raise error
        return 10.0

    with caplog.at_level(logging.INFO), RecurringThread("test", act, clock):

        def recovered() -> bool:
            clock.travel(0.25)
            return "test goes on" in caplog.text

        wait_until(recovered)
    assert len(calls) == 3
    assert caplog.text.count("test fails, and is tried again") == 1


def test_stopping_waits_for_the_call_that_is_made() -> None:
    entered, leave = threading.Event(), threading.Event()

    def act() -> float:
        entered.set()
        leave.wait(10)
        return 10.0

    thread = RecurringThread("test", act, SystemClock()).start()
    entered.wait(10)
    threading.Timer(0.05, leave.set).start()
    thread.stop()
    assert leave.is_set()
