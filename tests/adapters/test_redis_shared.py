"""What adapters share that keep their jobs in Redis: parked jobs, signs of life, recurring threads."""

from __future__ import annotations

import logging
import threading

import fakeredis
import pytest
import redis
from envelopes import make_envelope
from msgspec.structs import replace

from anyjob import JobEnvelope, SystemClock
from anyjob.base.envelope import write_envelope
from anyjob.base.errors import InvalidOptionError, UnsupportedCapabilityError
from anyjob.seams.capabilities import Capabilities, Quality
from anyjob.seams.outcome import JobFailure
from anyjob.seams.stored import JobFilter, JobState, StoredJob
from anyjob.testing import FakeClock
from anyjob.testing.probes.journal import wait_until
from anyjob_redis import ParkedJobs, Presence, RecurringThread, RedisInspector, ScheduledMessages
from anyjob_redis.levels import ids_after
from anyjob_redis.presence import LapsedError


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
    assert parked.count() == {JobState.ABANDONED: 2}
    assert [job.raw for job in parked.find(["one"])] == [raw]


def test_pages_are_in_the_order_of_ids(parked: ParkedJobs, failure: JobFailure, clock: FakeClock) -> None:
    for job_id in ("c", "a", "d", "b"):
        parked.park(write_envelope(make_envelope(clock.now(), job_id)), failure)
    assert [job.id for job in parked.page("", 3)] == ["a", "b", "c"]
    assert [job.id for job in parked.page("c", 3)] == ["d"]
    assert parked.page("d", 3) == ()


@pytest.fixture
def sent() -> list[JobEnvelope]:
    return []


@pytest.fixture
def inspector(parked: ParkedJobs, sent: list[JobEnvelope], clock: FakeClock) -> RedisInspector:
    """Nothing but the parked jobs can be seen."""
    only = frozenset({JobState.ABANDONED})
    can = Capabilities(listing=only, removal=only, counts={JobState.ABANDONED: Quality.EXACT})
    return RedisInspector(parked, resend=sent.append, clock=clock, capabilities=can)


def these(*ids: str) -> JobFilter:
    return JobFilter(ids=frozenset(ids))


def test_what_is_held_is_held_by_one_until_the_hold_lapses(
    inspector: RedisInspector, failure: JobFailure, clock: FakeClock, sent: list[JobEnvelope]
) -> None:
    job_id = inspector.park(b"?", failure)
    envelope = make_envelope(clock.now(), "one")
    with inspector.hold_some(these(job_id, "nobody"), limit=5) as (first,):
        with inspector.hold_some(these(job_id), limit=5) as none:
            assert not none
        clock.travel(299)
        with inspector.hold_some(these(job_id), limit=5) as none:
            assert not none
        clock.travel(1)
        with inspector.hold_some(these(job_id), limit=5) as (second,):
            assert not first.acknowledge()
            assert not first.replace(envelope)
            assert sent == []
            assert second.replace(envelope)
            assert not second.acknowledge()
    assert sent == [envelope]
    assert inspector.count() == {JobState.ABANDONED: 0}


def test_a_job_that_fails_before_its_retry_returned_keeps_its_id(
    parked: ParkedJobs, failure: JobFailure, clock: FakeClock
) -> None:
    """The worker was quicker than the retry, which takes the old copy off last."""
    again: list[str] = []

    def fail_at_once(envelope: JobEnvelope) -> None:
        again.append(parked.park(write_envelope(envelope), failure))

    only = frozenset({JobState.ABANDONED})
    can = Capabilities(listing=only, removal=only, counts={JobState.ABANDONED: Quality.EXACT})
    inspector = RedisInspector(parked, resend=fail_at_once, clock=clock, capabilities=can)
    inspector.park(write_envelope(make_envelope(clock.now(), "one")), failure)
    for number in range(1, 4):
        clock.travel(1)
        assert inspector.retry("one")
        (job,) = inspector.scan(JobFilter()).jobs
        assert (job.id, job.envelope and job.envelope.first_due_at) == ("one", clock.now())
        assert again == ["one"] * number
    with inspector.hold_some(these("one"), limit=1) as (held,):  # if the retry fails after that, both are there
        inspector.park(write_envelope(make_envelope(clock.now(), "one")), failure)
        with inspector.hold_some(these("one"), limit=1) as (other,):
            assert other.acknowledge()
            assert not other.acknowledge()
        assert held.job == job
    (copy,) = inspector.scan(JobFilter()).jobs
    assert copy.id != "one"
    assert inspector.find("one") == replace(copy, id="one")
    assert inspector.retry(copy.id)
    assert inspector.discard("one")
    assert inspector.count() == {JobState.ABANDONED: 0}


def test_what_is_not_settled_goes_back_and_nothing_expires(
    inspector: RedisInspector, fake: fakeredis.FakeRedis, failure: JobFailure
) -> None:
    job_id = inspector.park(b"?", failure)
    with inspector.hold_some(these(job_id), limit=1) as taken:
        assert len(taken) == 1
    with inspector.hold_some(these(job_id), limit=1) as (again,):
        assert again.acknowledge()
    assert fake.keys() == []
    inspector.park(b"?", failure)
    assert {fake.ttl(key) for key in fake.scan_iter()} == {-1}


def test_an_inspector_of_nothing_else_pages_and_refuses(
    inspector: RedisInspector, failure: JobFailure, clock: FakeClock
) -> None:
    for job_id in ("c", "a", "b"):
        inspector.park(write_envelope(make_envelope(clock.now(), job_id)), failure)
    first = inspector.scan(JobFilter(), limit=2)
    rest = inspector.scan(JobFilter(), cursor=first.cursor, limit=2)
    assert [job.id for job in (*first.jobs, *rest.jobs)] == ["a", "b", "c"]
    assert rest.cursor is None
    assert [job.id for job in inspector.scan(these("b", "c", "nobody")).jobs] == ["b", "c"]
    with pytest.raises(InvalidOptionError):
        inspector.scan(JobFilter(), cursor="nonsense")
    waiting = JobFilter(states=frozenset({JobState.WAITING}))
    with pytest.raises(UnsupportedCapabilityError):
        inspector.scan(waiting)
    with pytest.raises(UnsupportedCapabilityError), inspector.hold_some(waiting, limit=1):
        pass


def test_many_that_are_due_at_once_are_come_past_once(fake: fakeredis.FakeRedis, clock: FakeClock) -> None:
    scheduled = ScheduledMessages(fake, "anyjob", "local function push_due() end", clock)
    members = [f"m{number:04}" for number in range(1200)]
    fake.zadd("anyjob:scheduled", {member: 7.5 if number < 1100 else 8.0 for number, member in enumerate(members)})
    fake.hset("anyjob:scheduled:messages", mapping=dict.fromkeys(members, "payload"))

    def read(member: str, state: JobState, payload: bytes) -> tuple[StoredJob, str]:
        return StoredJob(member, state, payload), "here"

    section = scheduled.section(read)
    every = list(section.walk(""))
    assert [seen.job.id for seen in every] == members
    assert [seen.job.id for seen in section.walk(every[1000].position)] == members[1001:]
    assert scheduled.find(["m0003", "nobody"]) == [("m0003", JobState.WAITING, b"payload")]  # due long ago


def test_a_walk_past_a_list_leaves_marks_out_and_goes_on_after_one(fake: fakeredis.FakeRedis) -> None:
    fake.rpush("list", *(f"held {number}" if number % 2 else str(number) for number in range(1000)))

    def after(position: str) -> list[bytes]:
        return [each for ids in ids_after(fake, "list", "held ", position) for each, _ in ids]

    positions = {each: at for ids in ids_after(fake, "list", "held ", "") for each, at in ids}
    assert after("") == [*positions] == [str(number).encode() for number in range(0, 1000, 2)]
    assert after(positions[b"990"]) == [b"992", b"994", b"996", b"998"]
    fake.lrem("list", 1, "990")
    assert after(positions[b"990"]) == [b"992", b"994", b"996", b"998"]  # what followed it is there
    fake.lrem("list", 1, "held 991")
    assert after(positions[b"990"]) == after("")  # nothing tells any more


def test_a_presence_is_steady_after_two_beats_that_found_it(fake: fakeredis.FakeRedis) -> None:
    presence = Presence(fake, "anyjob", "me", 30.0)
    assert [presence.beat() for _ in range(3)] == [False, False, True]
    assert 29_000 < fake.pttl("anyjob:alive:me") <= 30_000
    fake.delete("anyjob:alive:me")  # the server was away
    assert [presence.beat() for _ in range(3)] == [False, False, True]
    presence.leave()
    assert not fake.exists("anyjob:alive:me")


def test_who_lapsed_is_revived_once(fake: fakeredis.FakeRedis) -> None:
    presence = Presence(fake, "anyjob", "me", 30.0)

    def take() -> str:
        if not fake.exists("anyjob:alive:me"):
            raise LapsedError("me")
        return "taken"

    def never() -> str:
        raise LapsedError("me")

    assert presence.revived(take) == "taken"
    with pytest.raises(LapsedError):
        presence.revived(never)


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


def test_a_recurring_thread_keeps_its_pace_when_the_wall_clock_is_set_back(clock: FakeClock) -> None:
    calls: list[int] = []

    def act() -> float:
        calls.append(1)
        return 10.0

    with RecurringThread("test", act, clock):
        wait_until(lambda: clock._waiting)  # noqa: SLF001
        clock.step(-3600)
        clock.travel(10)
        wait_until(lambda: len(calls) == 2)


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
