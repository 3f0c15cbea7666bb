"""The scheduled set of Redis: due messages are moved once, by whoever comes first, into whatever the adapter says."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any

import pytest
from msgspec import Raw
from redis import Redis
from servers import redis_url

from anyjob.envelope import JobEnvelope, JobPriority, write_envelope
from anyjob.store import JobState
from anyjob.testing import FakeClock
from anyjob_redis.scheduled import BATCH, ScheduledMessage, ScheduledSet

RELEASE = "redis.call('RPUSH', target, id .. ' ' .. message)"


@pytest.fixture
def redis() -> Iterator[Any]:
    with Redis.from_url(redis_url()) as client:
        yield client


@pytest.fixture
def namespace(redis: Any) -> Iterator[str]:
    name = f"scheduled{secrets.token_hex(6)}"
    yield name
    for key in redis.scan_iter(f"{name}*", count=1000):
        redis.delete(key)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def scheduled(redis: Any, namespace: str, clock: FakeClock) -> ScheduledSet:
    return ScheduledSet(redis, namespace, clock, release=RELEASE, unwrap=lambda message: message[1:-1])


@pytest.fixture
def target(namespace: str) -> str:
    return f"{namespace}:list"


def message(job_id: str, due: datetime, target: str) -> ScheduledMessage:
    envelope = JobEnvelope(1, job_id, "x", Raw(b'"a b\\n"'), "mail", JobPriority.LOW, due, due, due_at=due)
    return ScheduledMessage(job_id, due, target, b"<%b>" % write_envelope(envelope))


def test_what_is_due_moves_once_and_in_order(
    scheduled: ScheduledSet, clock: FakeClock, redis: Any, target: str
) -> None:
    now = clock.now()
    times = {"b": 2.0, "a": 1.0, "c": 2.000001, "d": 3.0}
    scheduled.add([message(job_id, now + timedelta(seconds=after), target) for job_id, after in times.items()])
    assert scheduled.promote() == pytest.approx(1.0)
    assert redis.llen(target) == 0
    clock.travel(seconds=2)
    assert scheduled.promote() == pytest.approx(0.000001, abs=1e-6)
    assert scheduled.count() == (2, 0)
    clock.travel(seconds=1)
    assert scheduled.count() == (0, 2)
    assert scheduled.promote() is None
    assert [each[:1] for each in redis.lrange(target, 0, -1)] == [b"a", b"b", b"c", b"d"]
    assert scheduled.promote() is None
    assert redis.llen(target) == 4


def test_a_message_arrives_to_the_byte(scheduled: ScheduledSet, clock: FakeClock, redis: Any, target: str) -> None:
    awkward = bytes(range(256)) + b"\n \x00 %d %s"
    scheduled.add([ScheduledMessage("a", clock.now(), target, awkward)])
    scheduled.promote()
    assert redis.lrange(target, 0, -1) == [b"a " + awkward]


def test_promoters_at_once_move_each_once(scheduled: ScheduledSet, clock: FakeClock, redis: Any, target: str) -> None:
    count = 2 * BATCH + 7
    scheduled.add([message(f"{number}", clock.now(), target) for number in range(count)])

    def promote(_: int) -> None:
        while scheduled.promote() is not None:
            pass

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(promote, range(4)))
    moved = redis.lrange(target, 0, -1)
    assert len(moved) == len({each.split(b" ")[0] for each in moved}) == count


def test_the_same_id_again_replaces(scheduled: ScheduledSet, clock: FakeClock, redis: Any, target: str) -> None:
    now = clock.now()
    scheduled.add([message("a", now + timedelta(days=1), target)])
    scheduled.add([message("a", now, target)])
    scheduled.promote()
    assert scheduled.promote() is None
    assert redis.llen(target) == 1


def test_pages_are_in_the_order_of_time_and_hold_each_once(
    scheduled: ScheduledSet, clock: FakeClock, target: str
) -> None:
    now = clock.now()
    scheduled.add([message(f"{number:02}", now + timedelta(seconds=number // 3 + 1), target) for number in range(20)])
    seen, after = [], ""
    while page := scheduled.page(after, 3):
        after = page[-1][0]
        seen += [job.id for _, job in page]
        with scheduled.take([seen[-1]], resend=lambda _: None) as (taken,):
            assert taken.acknowledge()  # what a page ended with may be gone by the next
    assert seen == [f"{number:02}" for number in range(20)]


def test_a_job_is_shown_as_waiting_once_it_is_due(scheduled: ScheduledSet, clock: FakeClock, target: str) -> None:
    scheduled.add([message("a", clock.now() + timedelta(seconds=1), target)])
    (job,) = scheduled.find(["a", "b"])
    assert (job.id, job.state) == ("a", JobState.SCHEDULED)
    assert job.envelope is not None
    clock.travel(seconds=1)
    assert [each.state for each in scheduled.find(["a"])] == [JobState.WAITING]


def test_what_is_taken_is_not_promoted_and_goes_back_with_its_time(
    scheduled: ScheduledSet, clock: FakeClock, redis: Any, target: str
) -> None:
    due = clock.now() + timedelta(seconds=1.5)
    scheduled.add([message("a", due, target)])
    clock.travel(seconds=2)
    with scheduled.take(["a", "b"], resend=lambda _: None) as taken:
        assert [each.job.id for each in taken] == ["a"]
        with scheduled.take(["a"], resend=lambda _: None) as again:
            assert list(again) == []
        scheduled.promote()
        assert redis.llen(target) == 0
        assert scheduled.count() == (1, 0)
    assert scheduled.page("", 1)[0][0] == f"{due.timestamp()!r} a"
    scheduled.promote()
    assert redis.llen(target) == 1


def test_whoever_took_it_and_died_does_not_keep_it(
    scheduled: ScheduledSet, clock: FakeClock, redis: Any, target: str
) -> None:
    scheduled.add([message("a", clock.now(), target)])
    with scheduled.take(["a"], resend=lambda _: None) as (taken,):
        clock.travel(minutes=5)
        scheduled.promote()
        assert redis.llen(target) == 1
        assert not taken.acknowledge()
    assert redis.llen(target) == 1


def test_a_taken_job_is_replaced_in_its_place_or_elsewhere(
    scheduled: ScheduledSet, clock: FakeClock, target: str
) -> None:
    later = clock.now() + timedelta(days=1)
    scheduled.add([message("a", later, target), message("b", later, target)])

    def resend(envelope: JobEnvelope) -> None:
        if envelope.id == "a":
            scheduled.add([message("a", later, target)])

    with scheduled.take(["a", "b"], resend) as taken:
        for each in taken:
            assert each.job.envelope is not None
            assert each.replace(each.job.envelope)
            assert not each.replace(each.job.envelope)
    assert [job.id for job in scheduled.find(["a", "b"])] == ["a"]
    assert scheduled.count() == (1, 0)
