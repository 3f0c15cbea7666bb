"""Jobs that an application enqueued by RQ alone: read to the field, and taken out of queues that RQ serves on."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any, cast
from uuid import UUID
from zoneinfo import ZoneInfo

import msgspec
import pytest
from msgspec import Raw
from redis import Redis
from rq import Callback, Queue, Repeat, Retry, SimpleWorker
from rq.group import Group
from rq.job import Job
from rq.registry import FailedJobRegistry, ScheduledJobRegistry
from rq.scheduler import RQScheduler
from servers import redis_url

from anyjob.base.envelope import JobEnvelope, JobPriority
from anyjob.seams.backend import BackendConfig
from anyjob.seams.natives import NativeJob, NativeMessage
from anyjob.seams.stored import JobFilter, JobState, StoredJob
from anyjob_rq import RQBackend

RAN: list[Any] = []
MODULE = __name__


class Order:
    """A class of the application's."""


class Basket(list[int]):
    """Another."""

    def put(self, number: int) -> None:
        self.append(number)


def send(number: Any, **_options: Any) -> None:
    RAN.append(number)


def again(_number: int) -> Retry:
    return Retry(max=3)


def fail(_number: int) -> None:
    raise RuntimeError


class World:
    def __init__(self, client: Redis) -> None:
        self.client: Any = client
        self.name = f"q{secrets.token_hex(5)}"
        self.backend = RQBackend(BackendConfig(alias="main", url=f"rq+{redis_url()}", namespace=f"n{self.name}"))
        self.queue = Queue(self.name, connection=client)
        self.messages: list[NativeMessage] = []
        self._numbers = iter(range(1_000_000))

    def id(self) -> str:
        """Return an id that can be found again to be deleted."""
        return f"{self.name}-{next(self._numbers):07}"

    def enqueue(self, function: Any, *args: Any, queue: Queue | None = None, **options: Any) -> Job:
        return (queue or self.queue).enqueue(function, *args, job_id=self.id(), **options)

    def read(self, message: NativeMessage) -> StoredJob:
        self.messages.append(message)
        return NativeJob(
            id=message.id,
            state=JobState.WAITING if message.due_at is None else JobState.SCHEDULED,
            raw=b"",
            queue=message.queue,
            task=message.task,
            obstacle=message.obstacle,
        )

    def look(self, *queues: str) -> Sequence[NativeMessage]:
        """Return what there is, by the queues' own names (of the one of this world, if none is named)."""
        self.messages.clear()
        self.backend.native_inspector(self.read, queues or [self.name]).scan(JobFilter(), limit=5_000)
        return list(self.messages)

    def only(self) -> NativeMessage:
        (message,) = self.look()
        return message

    def take(self, queues: Collection[str] | None = None, *, task: str = f"{MODULE}.send") -> Sequence[str]:
        """Take out what has no obstacle and is of a task."""
        inspector = self.backend.native_inspector(self.read, queues or [self.name])

        def fits(job: StoredJob) -> bool:
            return isinstance(job, NativeJob) and job.obstacle is None and job.task == task

        with inspector.hold(JobFilter(where=fits), holder="test", ahead=200) as taken:
            jobs = list(taken)
            assert all(inspector.acknowledge(jobs))
        return [each.job.id for each in jobs]

    def work(self, **options: Any) -> None:
        RAN.clear()
        SimpleWorker([self.queue], connection=self.client, name=f"{self.name}-worker").work(burst=True, **options)

    def there(self) -> list[bytes]:
        return sorted(key for key in self.client.scan_iter(f"*{self.name}*", 5_000) if b"worker" not in key)

    def clear(self) -> None:
        for key in self.client.scan_iter(f"*{self.name}*", 5_000):
            self.client.delete(key)
        names = [each for each in self.client.smembers("rq:queues") if self.name.encode() in each]
        self.client.srem("rq:queues", *names, "")
        self.client.srem("rq:workers", f"rq:worker:{self.name}-worker")


@pytest.fixture
def world() -> Iterator[World]:
    with Redis.from_url(redis_url()) as client:
        made = World(client)
        yield made
        made.clear()
        made.backend.close()


NAIVE = datetime(2030, 1, 2, 3, 4, 5, 6, tzinfo=UTC).replace(tzinfo=None)
PLAIN: Sequence[Any] = [
    [None, True, -1, 2**70, 0.5, "ä\ud800", b"\xff", bytearray(b"x")],
    {"a": [1, (2, 3)], 4: {"b"}, None: frozenset({5})},
    [NAIVE, datetime(2030, 1, 2, tzinfo=UTC), date(2030, 1, 2)],
    [datetime(2030, 1, 2, tzinfo=timezone(timedelta(hours=5))), NAIVE.time(), timedelta(1, 2, 3)],
    [datetime(2030, 7, 2, tzinfo=ZoneInfo("Europe/Berlin")), Decimal("1.50"), UUID(int=7)],
]


@pytest.mark.parametrize("plain", PLAIN)
def test_plain_arguments_are_read_as_they_went_in(world: World, plain: Any) -> None:
    world.enqueue(send, plain, again=plain, and_again=[plain])
    message = world.only()
    assert message.obstacle is None
    assert message.args == [plain]
    assert message.kwargs == {"again": plain, "and_again": [plain]}
    assert list(map(type, message.args[0])) == list(map(type, plain))


def test_every_field_is_read(world: World) -> None:
    before = datetime.now(UTC)
    job = world.enqueue(send, 1, meta={"tenant": "a"}, retry=Retry(max=3), job_timeout=5, result_ttl=9, failure_ttl=9)
    message = world.only()
    assert before <= cast("datetime", message.created_at) <= datetime.now(UTC)
    assert message == NativeMessage(
        id=job.id,
        task=f"{MODULE}.send",
        queue=world.name,
        args=[1],
        created_at=message.created_at,
        headers={"tenant": "a"},
    )


def test_what_is_due_later_keeps_its_time(world: World) -> None:
    at = datetime(2100, 1, 2, 3, 4, 5, tzinfo=UTC)
    world.queue.enqueue_at(at, send, 1, job_id=world.id())
    world.queue.enqueue_in(timedelta(hours=1), send, 2, job_id=world.id())
    world.enqueue(send, 3)
    found = {message.args[0]: message for message in world.look()}
    assert found[1].due_at == at
    assert timedelta(minutes=59) < cast("datetime", found[2].due_at) - datetime.now(UTC) <= timedelta(hours=1)
    assert found[3].due_at is None
    assert world.queue.name in {message.queue for message in found.values()}
    assert len(world.take()) == 3
    assert world.there() == []


def test_what_a_running_scheduler_may_have_in_its_hands_is_left_to_it(world: World) -> None:
    soon, later = (world.queue.enqueue_in(timedelta(seconds=each), send, each, job_id=world.id()) for each in (2, 60))
    scheduler = RQScheduler([world.queue], connection=world.client)
    scheduler.acquire_locks()
    assert world.take() == [later.id]
    scheduler.release_locks()
    assert world.take() == [soon.id]


@pytest.mark.parametrize("score", ["1.7e15", "inf", "-inf"])
def test_a_due_time_that_is_none_is_an_obstacle(world: World, score: str) -> None:
    job = world.queue.enqueue_in(timedelta(hours=1), send, 1, job_id=world.id())
    other = world.enqueue(send, 2)
    world.client.zadd(f"rq:scheduled:{world.name}", {job.id: score})
    found = {message.id: message.obstacle for message in world.look()}
    assert found == {job.id: f"RQ has it as due at {float(score)!r}, which is no time.", other.id: None}
    assert world.take() == [other.id]


def test_tries_are_told_if_rq_counts_them(world: World) -> None:
    returned, raised = world.enqueue(again, 1), world.enqueue(fail, 1, retry=Retry(max=3))
    world.work(max_jobs=4)
    assert {message.id: message.tries for message in world.look()} == {returned.id: 2, raised.id: 0}
    assert world.client.exists(f"rq:results:{returned.id}")
    assert world.take(task=f"{MODULE}.again") == [returned.id]
    assert not world.client.exists(f"rq:results:{returned.id}")


def test_it_may_be_json(world: World) -> None:
    queue = Queue(world.name, connection=world.client, serializer="json")
    world.enqueue(send, 1, None, queue=queue, a=[1.5], meta={"tenant": "a"})
    message = world.only()
    assert (message.args, message.kwargs, message.headers) == ([1, None], {"a": [1.5]}, {"tenant": "a"})


class Packed:
    """A serializer of the application's."""

    dumps: Any = staticmethod(msgspec.msgpack.encode)
    loads: Any = staticmethod(msgspec.msgpack.decode)


def test_what_cant_be_read_is_told_with_what_rq_says_of_it(world: World) -> None:
    queue = Queue(world.name, connection=world.client, serializer=Packed)
    world.enqueue("shop.send", 1, queue=queue)
    message = world.only()
    assert message.task == "shop.send"
    assert "can't be read as JSON or as a pickle" in str(message.obstacle)


def depend(world: World, **options: Any) -> None:
    world.enqueue(send, 2, depends_on=world.enqueue(send, 1), **options)


def was_deferred(world: World) -> None:
    first = world.enqueue(send, 1)
    world.enqueue(send, 2, depends_on=first)
    world.work(max_jobs=1)


CALLBACK = Callback("shop.callback")
OBSTACLES: dict[str, Callable[[World], object]] = {
    "Other jobs depend on it": depend,
    "It depends on other jobs": was_deferred,
    "on_success": lambda world: world.enqueue(send, 1, on_success=CALLBACK),
    "on_failure": lambda world: world.enqueue(send, 1, on_failure=CALLBACK),
    "on_stopped": lambda world: world.enqueue(send, 1, on_stopped=CALLBACK),
    "repeated": lambda world: world.enqueue(send, 1, repeat=Repeat(times=2, interval=5)),
    "ttl": lambda world: world.enqueue(send, 1, ttl=100),
    "one of a group": lambda world: Group.create(world.client, name=world.id()).enqueue_many(
        world.queue, [Queue.prepare_data(send, (1,), job_id=world.id())]
    ),
    "method of an object": lambda world: world.enqueue(Basket().put, 1),
    "only the application's own code": lambda world: world.enqueue(send, [Order()]),
    f"{MODULE}.Order": lambda world: world.enqueue(send, Order()),
    "meta": lambda world: world.enqueue(send, 1, meta={"tenant": 1}),
    "nested too deeply": lambda world: world.enqueue(send, deep(101)),
    "no plain value": lambda world: world.enqueue(send, Decimal),
    "as 'canceled'": lambda world: world.enqueue(send, 1).set_status(cast("Any", "canceled")),
}


def deep(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize("told", OBSTACLES)
def test_what_is_more_than_a_call_stays_with_the_reason(world: World, told: str) -> None:
    OBSTACLES[told](world)
    keys = world.there()
    message = world.only()
    assert told in str(message.obstacle)
    assert str(message.obstacle).endswith(".")
    assert (message.args, message.kwargs) == ((), {})
    assert message.task in {f"{MODULE}.send", "put"}
    assert world.take() == []
    assert world.there() == keys


def test_a_class_that_is_not_there_is_named_and_nothing_is_imported(world: World, tmp_path: Path) -> None:
    touched = tmp_path / "touched"
    (tmp_path / "shop_gone.py").write_text(f"open({str(touched)!r}, 'w').close()\nclass Order: pass")
    sys.path.insert(0, str(tmp_path))
    try:
        module = __import__("shop_gone")
        world.enqueue("shop.send", module.Order())
    finally:
        sys.path.remove(str(tmp_path))
        del sys.modules["shop_gone"]
    touched.unlink()
    message = world.only()
    assert message.task == "shop.send"
    assert message.obstacle == "It holds a shop_gone.Order, which only the application's own code can make."
    assert not touched.exists()


def test_what_is_taken_is_gone_and_the_rest_is_run_by_rq_in_its_order(world: World) -> None:
    for number in range(3):
        world.enqueue(send, number)
        world.enqueue(send, f"kept{number}", on_success=Callback(send))
    world.take()
    world.work()
    assert [each for each in RAN if isinstance(each, str)] == ["kept0", "kept1", "kept2"]
    assert not set(RAN) & {0, 1, 2}


def test_what_is_given_back_is_run_by_rq_in_its_order(world: World) -> None:
    for number in range(3):
        world.enqueue(send, number)
    world.queue.enqueue_at(datetime(2100, 1, 1, tzinfo=UTC), send, 9, job_id=world.id())
    later = ScheduledJobRegistry(queue=world.queue)
    due = world.client.zrange(later.key, 0, -1, withscores=True)
    context = world.backend.native_inspector(world.read, [world.name]).hold(JobFilter(), holder="killed", ahead=1)
    assert len(list(context.__enter__())) == 4
    world.work()
    assert RAN == []
    again = world.backend.native_inspector(world.read, [world.name])
    with again.hold(JobFilter(), holder="killed", ahead=1):
        pass
    assert world.client.zrange(later.key, 0, -1, withscores=True) == due
    world.work()
    assert RAN == [0, 1, 2]


def test_what_failed_is_deferred_or_runs_is_not_seen(world: World) -> None:
    world.enqueue(fail, 1)
    world.work()
    deferred = world.enqueue(send, 1, depends_on=world.enqueue(send, 2, at_front=True))
    (message,) = world.look()
    assert message.args == ()
    assert len(FailedJobRegistry(queue=world.queue)) == 1
    assert deferred.get_status() == "deferred"
    assert not set(world.take())


def test_one_that_was_enqueued_twice_and_runs_keeps_its_hash(world: World) -> None:
    job = world.enqueue(send, 1)
    world.client.rpush(world.queue.key, job.id)
    inspector = world.backend.native_inspector(world.read, [world.name])
    with inspector.hold(JobFilter(), holder="test", ahead=1) as taken:
        first = next(taken)
        job.set_status(cast("Any", "started"))  # a worker has the other
        assert first.acknowledge()
    assert Job.exists(job.id, connection=world.client)
    assert "'started'" in str(world.only().obstacle)


def test_an_id_without_a_job_is_passed_over(world: World) -> None:
    world.client.rpush(world.queue.key, "no-such-job", b"\xff")
    world.client.set(f"rq:job:{world.name}-text", "x")
    world.client.rpush(world.queue.key, f"{world.name}-text")
    job = world.enqueue(send, 1)
    assert world.take() == [job.id]
    assert world.client.llen(world.queue.key) == 3


def test_thousands_behind_hundreds_that_stay(world: World) -> None:
    prepared = [
        Queue.prepare_data(send if number >= 500 else fail, (number,), job_id=world.id()) for number in range(2_500)
    ]
    kept = [job.id for job in world.queue.enqueue_many(prepared)][:500]
    assert len(world.take()) == 2_000
    assert world.queue.job_ids == kept
    with_jobs = {key for key in world.there() if key.startswith(b"rq:job:")}
    assert with_jobs == {f"rq:job:{each}".encode() for each in kept}


def test_all_queues_but_ours_are_found_and_our_jobs_are_none_of_theirs(world: World) -> None:
    names = world.backend.messages.names
    other = Queue(f"{world.name}-other", connection=world.client)
    world.enqueue(send, 1)
    world.enqueue(send, 2, queue=other)
    world.queue.enqueue_in(timedelta(1), send, 3, job_id=world.id())
    now = datetime.now(UTC)
    world.backend.send([JobEnvelope(1, secrets.token_hex(8), "x", Raw(b"{}"), "default", JobPriority.NORMAL, now, now)])
    (ours,) = world.client.lrange(f"rq:queue:{names.namespace}:default:normal", 0, -1)
    world.client.sadd("rq:queues", f"rq:queue:{names.namespace}:default:normal")
    world.client.rpush(other.key, ours)  # wherever it is
    world.messages.clear()
    world.backend.native_inspector(world.read).scan(JobFilter(), limit=5_000)
    mine = [message for message in world.messages if message.id.startswith(world.name)]
    assert sorted(message.args[0] for message in mine) == [1, 2, 3]
    assert not [message for message in world.messages if message.id == ours.decode()]
    assert world.look(f"{names.namespace}:default:normal") == []


def test_what_waits_is_counted(world: World) -> None:
    for number in range(3):
        world.enqueue(send, number)
    world.queue.enqueue_in(timedelta(1), send, 3, job_id=world.id())
    assert world.backend.native_inspector(world.read, [world.name]).count() == {JobState.WAITING: 4}


def test_what_a_killed_move_holds_is_told_by_the_doctor(world: World) -> None:
    world.enqueue(send, 1)
    context = world.backend.native_inspector(world.read, [world.name]).hold(JobFilter(), holder="x", ahead=1)
    next(context.__enter__())
    assert not [risk for risk in world.backend.look_for_risks() if risk.startswith("held")]
    times = f"n{world.name}:rq:native:held:times"
    world.client.zadd(times, {world.client.zrange(times, 0, 0)[0]: 1})
    (risk,) = [risk for risk in world.backend.look_for_risks() if risk.startswith("held")]
    assert "1 messages" in risk


def test_workers_of_rq_go_on_meanwhile(world: World) -> None:
    ids = [world.enqueue(send, number).id for number in range(40)]
    inspector, moved = world.backend.native_inspector(world.read, [world.name]), []
    with inspector.hold(JobFilter(), holder="test", ahead=1) as taken:
        for each in taken:
            moved += [each.job.id] if each.acknowledge() else []
            with suppress(StopIteration):
                world.work(max_jobs=1)
                moved += [ids[number] for number in RAN]
    assert sorted(moved) == ids
    assert world.queue.job_ids == []
