"""Celery over Redis under kill -9, and how what is held is kept alive. ANYJOB_TEST_LONG=1 runs the long campaign."""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from celery_worlds import CeleryRedisHarness, CeleryRedisWorld
from envelopes import make_envelope
from redis.exceptions import ResponseError
from servers import PrivateRedis

from anyjob import JobState
from anyjob.base.envelope import JobEnvelope, JobPriority, read_envelope, write_envelope
from anyjob.base.errors import EnqueueError
from anyjob.seams.backend import BackendConfig
from anyjob.seams.stored import JobFilter
from anyjob.testing.probes.journal import wait_until
from anyjob_celery import RedisCeleryBackend
from anyjob_celery.frame import headers_of
from anyjob_celery.redis_messages import HeldMessages, RedisMessages
from anyjob_celery.redis_wire import envelope_in

LONG = os.environ.get("ANYJOB_TEST_LONG") == "1"
pytestmark = pytest.mark.timeout(400 if LONG else 90)

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def harness(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CeleryRedisHarness]:
    harness = CeleryRedisHarness(PrivateRedis(tmp_path_factory.mktemp("redis")))
    yield harness
    harness.close()


@pytest.fixture
def world(harness: CeleryRedisHarness, tmp_path: Path) -> Iterator[CeleryRedisWorld]:
    with harness.open(tmp_path) as world:
        yield world


@pytest.fixture
def messages(world: CeleryRedisWorld) -> RedisMessages:
    backend = world.manager.backend()
    assert isinstance(backend, RedisCeleryBackend)
    return backend.messages


def test_kills_at_random_moments_lose_nothing(world: CeleryRedisWorld) -> None:
    jobs, kills, chance = (500, 20, random.Random(4)) if LONG else (150, 6, random.Random(4))
    labels = [f"{number}" for number in range(jobs)]
    world.manager.enqueue_many([world.probe(label) for label in labels])
    for _ in range(kills):
        worker = world.start_worker(lease=1.0)
        wait_for = len(world.journal.entries("begin")) + 1 + chance.randrange(jobs // kills)
        world.journal.wait(min(wait_for, jobs), "begin", timeout=30)
        worker.kill()
    world.start_worker(lease=1.0)
    wait_until(lambda: {*world.journal.begun()} == {*labels}, timeout=60, what="every job")
    wait_until(lambda: not world.jobs(), timeout=30, what="nothing to be left in any list")
    repeated = sum(count - 1 for count in Counter(world.journal.begun()).values())
    assert repeated <= kills  # what each found in hand, or done and not yet acknowledged


def test_a_job_longer_than_the_lease_runs_once(world: CeleryRedisWorld) -> None:
    gate, begun = world.new_gate(), time.monotonic()
    for _ in range(2):
        world.start_worker(lease=1.0)
    world.manager.enqueue(world.probe("long", gate=str(gate)))
    world.journal.wait(1, "begin")
    wait_until(lambda: time.monotonic() - begun > 5, what="five leases to pass")
    gate.touch()
    world.journal.wait(1)
    world.enqueue("sentinel")
    world.journal.wait(2)
    assert world.journal.begun() == ["long", "sentinel"]


def take(messages: RedisMessages, tag: str, *queues: str) -> tuple[str, bytes] | None:
    answer: Any = messages.client.execute_command(*messages.take_command(tag, queues or ("default",), whole=True))
    return None if answer is None else (answer[0].decode(), answer[1])


def send(messages: RedisMessages, *envelopes: JobEnvelope) -> None:
    messages.send(envelopes, [headers_of(each) for each in envelopes])


def envelope(job_id: str, **fields: Any) -> JobEnvelope:
    return make_envelope(NOW, job_id, **fields)


def later(job_id: str) -> JobEnvelope:
    return msgspec.structs.replace(envelope(job_id), due_at=NOW)


def times(messages: RedisMessages) -> dict[str, float]:
    found = messages.client.zrange(f"{messages.namespace}:held:times", 0, -1, withscores=True)
    return {tag.decode(): score for tag, score in found}


def test_a_taken_message_is_noted_in_the_same_step(messages: RedisMessages) -> None:
    send(messages, envelope("a"))
    taken = take(messages, "run-w-0")
    assert taken is not None
    assert envelope_in(taken[1]) == write_envelope(envelope("a"))
    assert messages.held() == {"run-w-0": ("run default 2", taken[1])}
    assert take(messages, "run-w-1") is None
    assert messages.count() == (0, 0, 1)


def test_a_beat_keeps_what_is_held_and_brings_back_nothing_else(messages: RedisMessages) -> None:
    send(messages, envelope("a"))
    take(messages, "run-w-0")
    before = times(messages)["run-w-0"]
    messages.beat(["run-w-0", "run-w-9"])
    after = times(messages)
    assert {*after} == {"run-w-0"}  # XX: the other was acknowledged, or given back, meanwhile
    assert after["run-w-0"] > before
    assert messages.acknowledge(["run-w-0"]) == [True]
    messages.beat(["run-w-0"])
    assert times(messages) == {}


def test_a_silent_holders_message_comes_back_in_front_as_lost(messages: RedisMessages) -> None:
    send(messages, envelope("a"), envelope("b"))
    take(messages, "run-dead-0")
    assert messages.sweep(60.0) == []
    assert messages.sweep(0.0) == [b"run-dead-0"]
    taken = take(messages, "run-w-0")
    assert taken is not None
    assert taken[1].startswith(b'{"redelivered":true,')
    assert envelope_in(taken[1]) == write_envelope(envelope("a"))
    assert messages.acknowledge(["run-dead-0"]) == [False]  # fenced


def test_nobody_is_declared_dead_after_an_outage(messages: RedisMessages, monkeypatch: pytest.MonkeyPatch) -> None:
    held = HeldMessages(messages, lease=10.0)
    now = [1000.0]
    monkeypatch.setattr("anyjob_celery.redis_messages.time.monotonic", lambda: now[0])
    swept: list[float] = []

    def sweep(lease: float) -> list[bytes]:
        swept.append(lease)
        return []

    monkeypatch.setattr(messages, "sweep", sweep)
    held.tend()
    now[0] += 9
    held.tend()
    assert swept == []
    now[0] += 1
    held.tend()
    assert swept == [10.0]
    with monkeypatch.context() as away:
        away.setattr(messages, "beat", lambda _tags: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            held.tend()
    now[0] += 100
    held.tend()
    assert swept == [10.0]


def test_what_goes_back_uncharged_is_not_marked(messages: RedisMessages) -> None:
    send(messages, envelope("a"))
    take(messages, "run-w-0")
    messages.give_back(["run-w-0"], lost=False)
    taken = take(messages, "run-w-1")
    assert taken is not None
    assert taken[1].startswith(b'{"redelivered":false,')


def test_all_levels_of_all_queues_in_their_order(messages: RedisMessages) -> None:
    sent = [(queue, level) for queue in ("a", "b") for level in JobPriority]
    send(messages, *(envelope(f"{queue}-{level}", queue=queue, priority=level) for queue, level in sent))
    order = [take(messages, f"run-w-{number}", "b", "a") for number in range(len(sent))]
    ids = [id_of(each) for each in order]
    assert ids == [f"{queue}-{level}" for level in sorted(JobPriority, reverse=True) for queue in ("b", "a")]


def id_of(taken: tuple[str, bytes] | None) -> str:
    assert taken is not None
    return read_envelope(envelope_in(taken[1])).id


def test_a_damaged_message_is_held_like_any_other(messages: RedisMessages) -> None:
    items = [b"", b"\x00\xff\n\r", b"held?", b"run x y\n"]
    for item in items:
        messages.client.lpush(f"{messages.namespace}:celery:default", item)
    for number, item in enumerate(items):
        assert take(messages, f"run-w-{number}") == ("default", item)
    messages.give_back([f"run-w-{number}" for number in range(len(items))], lost=True)
    assert [take(messages, f"run-v-{number}") for number in range(len(items))] == [("default", item) for item in items]


def test_a_wake_up_is_left_for_who_waits(messages: RedisMessages) -> None:
    send(messages, *(envelope(f"{number}") for number in range(50)))
    key = f"{messages.namespace}:wake:default"
    assert 1 <= messages.client.llen(key) <= 8
    waited = messages.client.execute_command(*messages.wait_command(["default"], 1.0))
    assert waited[0].decode() == key


def test_two_delayed_jobs_of_one_id_are_two(world: CeleryRedisWorld) -> None:
    for label in ("a", "b"):
        world.manager.enqueue(world.probe(label), job_id="same", delay=0.3)
    world.start_worker()
    world.journal.wait(2)
    assert sorted(world.journal.begun()) == ["a", "b"]


def test_a_page_goes_on_where_it_stopped_while_jobs_are_taken(world: CeleryRedisWorld, messages: RedisMessages) -> None:
    ids = [world.enqueue(f"{number}")[0] for number in range(10)]
    inspector = world.manager.inspect()
    first = inspector.scan(JobFilter(), limit=4)
    assert [job.id for job in first.jobs] == ids[:4]
    for number in range(6):
        take(messages, f"run-w-{number}")
    rest = inspector.scan(JobFilter(states=frozenset({JobState.WAITING})), cursor=first.cursor, limit=100)
    assert [job.id for job in rest.jobs] == ids[6:]


def test_a_producers_clock_does_not_matter_to_a_lease() -> None:
    config = BackendConfig(alias="x", url="celery+redis://localhost/0", lease=9.0)
    bound = RedisCeleryBackend(config).capabilities.redelivery_bound
    assert bound is not None
    assert bound.total_seconds() == pytest.approx(13)


def test_a_connection_dropped_again_and_again(world: CeleryRedisWorld) -> None:
    world.start_worker(lease=1.0)
    labels: Sequence[str] = [f"{number}" for number in range(60)]
    client = world.client()
    for number, label in enumerate(labels):
        world.enqueue(label)
        if number % 15 == 7:
            world.journal.wait(number // 2, "begin")
            client.client_kill_filter(_type="normal", skipme=True)
    wait_until(lambda: {*world.journal.begun()} == {*labels}, timeout=40, what="every job")
    client.close()


def test_what_was_taken_is_handed_out_again_when_its_answer_was_lost(messages: RedisMessages) -> None:
    send(messages, envelope("a"), envelope("b"))
    held = HeldMessages(messages, lease=10.0)
    tag = held.next_tag
    lost = take(messages, tag)
    assert held.next_tag == tag
    assert take(messages, tag) == lost
    held.add(tag)
    assert id_of(take(messages, held.next_tag)) == "b"
    held.give_back_all()  # `b` too, of which it has not heard
    assert [id_of(take(messages, f"run-w-{number}")) for number in range(2)] == ["a", "b"]


def test_a_dead_workers_messages_all_come_back_in_one_go_a_few_in_each_step(
    messages: RedisMessages, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = 10_000
    send(messages, *(envelope(f"{each}") for each in range(number)))
    with messages.client.pipeline(transaction=False) as pipe:
        for each in range(number):
            pipe.execute_command(*messages.take_command(f"run-dead-{each}", ("default",), whole=each == 0))
        pipe.execute()
    assert messages.count() == (0, 0, number)
    steps: list[int] = []
    sweep = messages.sweep

    def counted(lease: float) -> Sequence[bytes]:
        found = sweep(lease)
        steps.append(len(found))
        return found

    monkeypatch.setattr(messages, "sweep", counted)
    held = HeldMessages(messages, lease=0.1)
    wait_until(lambda: held.tend() and steps, what="the lease to be over")
    assert sum(steps) == number
    assert max(steps) <= 100
    assert messages.count() == (number, 0, 0)


def test_what_cannot_go_back_stays_held_and_holds_up_nothing_else(messages: RedisMessages) -> None:
    send(messages, envelope("a"), envelope("b", queue="b"), later("c"))
    for number, queue in enumerate(("default", "b")):
        take(messages, f"run-dead-{number}", queue)
    (scheduled,) = messages.client.zrange(f"{messages.namespace}:scheduled", 0, -1)
    messages.hold(-1.0, [("scheduled-dead", f"scheduled {scheduled.decode()}", b"")])
    messages.client.hset(f"{messages.namespace}:held", "run-garbage", "garbage")
    messages.client.zadd(f"{messages.namespace}:held:times", {"run-garbage": 0})
    list_, schedule = f"{messages.namespace}:celery:default\x06\x162", f"{messages.namespace}:scheduled"
    for key in (list_, schedule):
        messages.client.set(key, "neither")
    assert messages.sweep(0.0) == [b"run-dead-1"]
    with pytest.raises(ResponseError, match=list_):
        messages.give_back(["run-dead-0"], lost=False)
    assert {*messages.held()} == {"run-dead-0", "scheduled-dead", "run-garbage"} == {*times(messages)}
    messages.client.delete(list_, schedule)
    assert {*messages.sweep(0.0)} == {b"run-dead-0", b"scheduled-dead"}
    assert id_of(take(messages, "run-w-0")) == "a"
    assert messages.client.zcard(schedule) == 1


@pytest.mark.parametrize("key", ["queues", "celery:default\x06\x162", "scheduled", "scheduled:messages", "moved:x"])
def test_what_is_rejected_is_not_there(messages: RedisMessages, key: str) -> None:
    envelopes = [envelope("first", queue="b"), envelope("second"), later("third")]
    messages.client.set(f"{messages.namespace}:{key}", "none of ours")
    with pytest.raises(EnqueueError) as refused:
        messages.send(envelopes, [headers_of(each) for each in envelopes], moved=f"{messages.namespace}:moved:x")
    assert list(refused.value.rejected) == ["first", "second", "third"]
    assert [*messages.client.scan_iter(f"{messages.namespace}:*")] == [f"{messages.namespace}:{key}".encode()]


def test_an_enqueue_does_not_need_the_token_that_wakes(messages: RedisMessages) -> None:
    messages.client.set(f"{messages.namespace}:wake:default", "none of ours")
    send(messages, envelope("a"))
    assert id_of(take(messages, "run-w-0")) == "a"
