"""A broker that an application and we share: its own messages are read and taken out, and so are our jobs."""

from __future__ import annotations

import json
import math
import secrets
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import dramatiq
import pika
import pytest
from dramatiq import Message, Worker
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from dramatiq.brokers.redis import RedisBroker
from dramatiq.encoder import PickleEncoder
from msgspec import Raw
from msgspec.structs import replace
from rabbit import amqp_url, connect
from raw_amqp import UNDECODABLE, publish_raw
from servers import redis_url

from anyjob import UnsupportedCapabilityError
from anyjob.base.clock import SystemClock
from anyjob.base.envelope import JobEnvelope, JobPriority, write_envelope
from anyjob.extend import StoreBackend
from anyjob.migration import JobMigration, MigrationOptions, MigrationReport
from anyjob.seams.backend import BackendConfig
from anyjob.seams.inspector import JobInspector
from anyjob.seams.natives import NativeJob, NativeMessage
from anyjob.seams.stored import JobFilter, JobState, StoredJob
from anyjob.settings.loader import load_backend
from anyjob.stores.memory import InMemoryJobStore
from anyjob.stores.store_backend import memory_capabilities
from anyjob.testing.probes.journal import wait_until
from anyjob_dramatiq.existing import ExistingDramatiqBackend

pytestmark = pytest.mark.timeout(90)

TO_RUN = frozenset({JobState.WAITING, JobState.SCHEDULED})
LEVELS = ("high", "above_normal", "below_normal", "low")


class World:
    """An application's broker with an actor `send`, in a queue of its own, and our backend on it."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.name = f"own{secrets.token_hex(4)}"
        self.broker: Any = (
            RedisBroker(url=redis_url(), namespace=self.name, maintenance_chance=1_000_000)  # type: ignore[no-untyped-call]
            if kind == "redis"
            else RabbitmqBroker(url=amqp_url(), max_priority=4)
        )
        self.ran: list[Any] = []
        self.send, self.other = self.actor("send"), self.actor("other")
        module: Any = types.ModuleType(self.name)
        module.broker = self.broker
        sys.modules[self.name] = module
        self.backend = self.connect()
        self.messages: list[NativeMessage] = []

    def actor(self, name: str) -> dramatiq.Actor[..., Any]:
        return dramatiq.Actor(
            self.ran.append, broker=self.broker, actor_name=name, queue_name=self.name, priority=0, options={}
        )

    def connect(self) -> ExistingDramatiqBackend:
        """Return the backend as another process has it."""
        url = f"dramatiq://?broker={self.name}:broker"
        made = load_backend(BackendConfig(alias="main", url=url, namespace=self.name, queues=(self.name,)))
        assert isinstance(made, ExistingDramatiqBackend)
        return made

    def read(self, message: NativeMessage) -> StoredJob:
        self.messages.append(message)
        state = JobState.WAITING if message.due_at is None else JobState.SCHEDULED
        told = {"queue": message.queue, "task": message.task, "obstacle": message.obstacle}
        return NativeJob(id=message.id, state=state, raw=b"", **cast("Any", told))

    def natives(self) -> JobInspector:
        return self.backend.native_inspector(self.read)

    def wait(self, count: int) -> None:
        """Wait until so many messages are there: RabbitMQ puts back what a channel held when it has time."""
        natives = self.natives()
        wait_until(lambda: natives.count() == {JobState.WAITING: count}, what=f"{count} messages")

    def look(self) -> Sequence[NativeMessage]:
        """Return what there is; on RabbitMQ by taking it and giving it back."""
        self.messages.clear()
        with self.natives().hold(JobFilter(states=TO_RUN), holder="look", ahead=200) as taken:
            assert len(list(taken)) == len(self.messages)
        return list(self.messages)

    def only(self) -> NativeMessage:
        (message,) = self.look()
        return message

    def take(self, task: str = "send") -> Sequence[str]:
        """Take out what has no obstacle and is of a task."""

        def fits(job: StoredJob) -> bool:
            return isinstance(job, NativeJob) and job.obstacle is None and job.task == task

        inspector = self.natives()
        with inspector.hold(JobFilter(states=TO_RUN, where=fits), holder="take", ahead=200) as taken:
            jobs = list(taken)
            assert all(inspector.acknowledge(jobs))
        return [each.job.id for each in jobs]

    def order(self, count: int) -> Sequence[Any]:
        """Return the arguments of the messages that are there, as soon as there are so many."""
        self.wait(count)
        return [message.args[0] for message in self.look()]

    def work(self, count: int) -> Sequence[Any]:
        """Have a worker of Dramatiq's run so many messages; return their arguments, sorted.

        Before Dramatiq 2.0 a worker keeps no order among what it holds.
        """
        worker = Worker(self.broker, worker_timeout=50, worker_threads=1)
        worker.start()
        wait_until(lambda: len(self.ran) >= count, timeout=20, what=f"{count} messages to run")
        worker.stop()
        return sorted(self.ran)

    def put(self, data: bytes) -> None:
        """Put bytes where messages are."""
        if self.kind == "redis":
            self.broker.do_enqueue(self.name, secrets.token_hex(8), data)
        else:
            self.broker.declare_queue(self.name, ensure=True)
            self.broker.channel.basic_publish("", self.name, data, pika.BasicProperties(delivery_mode=2))

    def job(self, number: int, **fields: Any) -> JobEnvelope:
        """Return a job of ours."""
        now = datetime.now(UTC)
        made = JobEnvelope(
            1, f"{self.name}-{number:05}", "mail.send", Raw(b"{}"), self.name, JobPriority.NORMAL, now, now
        )
        return replace(made, **fields)

    def migrate(self) -> tuple[MigrationReport, Sequence[JobEnvelope | None]]:
        """Move our jobs to a backend in memory; return what was told, and what is there."""
        clock = SystemClock()
        store = InMemoryJobStore(clock)
        there = StoreBackend(store, memory_capabilities(30.0))
        report = JobMigration(("main", self.backend), ("new", there), MigrationOptions(), clock=clock).move()
        return report, [job.envelope for job in store.scan(JobFilter(), limit=10_000).jobs]

    def clear(self) -> None:
        self.backend.close()
        if self.kind == "redis":
            for key in self.broker.client.scan_iter(f"{self.name}:*", 1_000):
                self.broker.client.delete(key)
        self.broker.close()
        if self.kind == "amqp":
            with connect(amqp_url()) as connection, connection.channel() as channel:
                for queue in (self.name, *(f"{self.name}.{level}" for level in LEVELS), f"{self.name}.dramatiq:parked"):
                    for name in (queue, f"{queue}.DQ", f"{queue}.XQ"):
                        channel.queue_delete(name)
        del sys.modules[self.name]


@pytest.fixture(params=["redis", "amqp"])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    made = World(request.param)
    yield made
    made.clear()


def test_every_field_is_read(world: World) -> None:
    before = datetime.now(UTC) - timedelta(seconds=1)
    sent = world.send.send_with_options(
        args=(1, "ä", [None, 0.5]), kwargs={"a": {"b": 2**70}}, retries=3, max_retries=9
    )
    message = world.only()
    assert before <= cast("datetime", message.created_at) <= datetime.now(UTC)
    assert message == NativeMessage(
        id=sent.message_id,
        task="send",
        queue=world.name,
        args=[1, "ä", [None, 0.5]],
        kwargs={"a": {"b": 2**70}},
        created_at=message.created_at,
        tries=3,
    )


def test_what_is_due_later_keeps_its_time(world: World) -> None:
    sent = world.send.send_with_options(args=(1,), delay=3_600_000)
    world.send.send(2)
    later, now = world.look()
    assert (later.args, now.args, now.due_at) == ([1], [2], None)
    assert later.queue == world.name
    assert later.due_at == datetime.fromtimestamp(sent.options["eta"] / 1000, UTC)
    assert timedelta(minutes=59) < later.due_at - datetime.now(UTC) <= timedelta(hours=1)
    assert len(world.take()) == 2
    assert world.look() == []


def pipe(world: World) -> None:
    broker = world.broker
    dramatiq.pipeline([world.send.message(1), world.other.message()], broker=broker).run()  # type: ignore[no-untyped-call]


def option(name: str, value: Any) -> Callable[[World], object]:
    return lambda world: world.send.send_with_options(args=(1,), **{name: value})


OBSTACLES: dict[str, Callable[[World], object]] = {
    "a pipeline": pipe,
    "one of a group": option("group_completion_uuid", "x"),
    "one of a group.": option("group_completion_callbacks", []),
    "on_success": lambda world: world.send.send_with_options(args=(1,), on_success=world.other),
    "on_failure": option("on_failure", "other"),
    "on_retry_exhausted": option("on_retry_exhausted", "other"),
    "max_age": option("max_age", 60_000),
    "time_limit": option("time_limit", 60_000),
    "is no time": lambda world: world.put(message_of(world, eta=2**70)),
    "is no time.": lambda world: world.put(message_of(world, eta="soon")),
}


def message_of(world: World, **options: Any) -> bytes:
    return world.send.message_with_options(args=(1,), **options).encode()


@pytest.mark.parametrize("told", OBSTACLES)
def test_what_is_more_than_a_call_stays_with_the_reason(world: World, told: str) -> None:
    OBSTACLES[told](world)
    message = world.only()
    assert told in str(message.obstacle)
    assert str(message.obstacle).endswith(".")
    assert (message.task, message.args, message.kwargs) == ("send", (), {})
    assert world.take() == []
    world.wait(1)
    assert world.only() == message


def test_what_is_no_json_stays_with_the_reason(world: World) -> None:
    garbage = (b"", b"\xff", b"[]", b"{}", b"[" * 100_000, message_of(world)[:-9], PickleEncoder().encode({}))
    for data in garbage:
        world.put(data)
    world.send.send(1)
    found = world.look()
    assert [message.obstacle is None for message in found] == [False] * len(garbage) + [True]
    assert all("JSONEncoder" in str(message.obstacle) for message in found[:-1])
    assert len(world.take()) == 1
    world.wait(len(garbage))
    assert len(world.look()) == len(garbage)


def test_pickles_are_refused_as_a_whole(world: World) -> None:
    encoder = dramatiq.get_encoder()
    dramatiq.set_encoder(PickleEncoder())
    try:
        with pytest.raises(UnsupportedCapabilityError, match="'main'.*pickled"):
            world.natives()
    finally:
        dramatiq.set_encoder(encoder)


def test_what_is_taken_is_gone_and_the_rest_is_run_in_its_order(world: World) -> None:
    for number in range(4):
        world.send.send(number)
        world.other.send(f"kept{number}")
    world.take()
    assert world.order(4) == ["kept0", "kept1", "kept2", "kept3"]
    world.wait(4)
    assert world.work(4) == ["kept0", "kept1", "kept2", "kept3"]


def test_what_was_only_looked_at_is_run_in_its_order(world: World) -> None:
    for number in range(5):
        (world.send if number % 2 else world.other).send(number)
    assert len(world.look()) == 5
    assert world.order(5) == [0, 1, 2, 3, 4]
    world.wait(5)
    assert world.work(5) == [0, 1, 2, 3, 4]


def test_who_is_killed_loses_nothing(world: World) -> None:
    for number in range(5):
        world.send.send(number)
    context = world.natives().hold(JobFilter(states=TO_RUN), holder="killed", ahead=3)
    taken = context.__enter__()
    first = cast("Any", next(taken))
    if world.kind == "amqp":
        first.channel.connection.transport.close()  # without a word
    world.backend = world.connect()
    world.wait(5 if world.kind == "amqp" else 2)
    with world.natives().hold(JobFilter(states=TO_RUN), holder="killed", ahead=3) as again:
        assert len(list(again)) == 5
    assert world.order(5) == [0, 1, 2, 3, 4]
    world.wait(5)
    assert world.work(5) == [0, 1, 2, 3, 4]


def test_thousands_behind_hundreds_that_stay(world: World) -> None:
    for number in range(2_500):
        (world.other if number < 500 else world.send).send(number)
    assert len(world.take()) == 2_000
    world.wait(500)
    assert [message.args for message in world.look()] == [[number] for number in range(500)]


def test_what_a_worker_holds_is_not_touched(world: World) -> None:
    for number in range(5):
        world.send.send(number)
    consumer = world.broker.consume(world.name, prefetch=2, timeout=5_000)
    held = next(each for each in consumer if each is not None)
    assert held.args == (0,)
    assert [message.args for message in world.look()] == [[2], [3], [4]]
    consumer.ack(held)
    consumer.close()


def test_only_declared_queues_are_looked_into_unless_others_are_named(world: World) -> None:
    world.send.send(1)
    assert world.backend.native_inspector(world.read).count() == {JobState.WAITING: 1}
    assert world.backend.native_inspector(world.read, ["nothing"]).count() == {JobState.WAITING: 0}
    assert world.backend.native_inspector(world.read, [f"{world.name}.DQ"]).count() == {JobState.WAITING: 1}


def test_a_broker_of_our_own_names_the_way_out(world: World) -> None:
    del world
    for url in (f"dramatiq+{redis_url()}", f"dramatiq+{amqp_url()}"):
        backend = load_backend(BackendConfig(alias="main", url=url))
        with pytest.raises(UnsupportedCapabilityError, match=r"'main'.*dramatiq://\?broker=shop.tasks:broker"):
            backend.native_inspector(lambda _: pytest.fail("nothing is read"))


def test_our_jobs_are_moved_and_the_applications_messages_stay_in_their_order(world: World) -> None:
    later = datetime.now(UTC) + timedelta(days=1)
    ours = [
        world.job(0, try_count=2, headers={"tenant": "a"}),
        world.job(1, priority=JobPriority.HIGH),
        world.job(2, priority=JobPriority.LOW),
        world.job(3, due_at=later),
        world.job(4, due_at=later, priority=JobPriority.HIGH),
        *(world.job(number) for number in range(5, 30)),
    ]
    for number, job in enumerate(ours):
        world.send.send(number)
        world.backend.send([job])
    world.send.send_with_options(args=("later",), delay=3_600_000)
    assert {message.args[0] for message in world.look()} == {*range(len(ours)), "later"}
    if world.kind == "amqp":
        world.wait(2 * len(ours) - 2)
    report, moved = world.migrate()
    assert (report.moved, report.left, report.foreign) == (len(ours), 0, 0)
    assert {job.id: job for job in moved if job} == {job.id: job for job in ours}
    plain = [job.id for job in moved if job and job.due_at is None and job.priority is JobPriority.NORMAL]
    assert plain == sorted(plain)
    assert report.remaining == {JobState.ABANDONED: 0}
    world.wait(len(ours) + (1 if world.kind == "redis" else 0))  # on RabbitMQ what is for later isn't among them
    assert [message.args[0] for message in world.look()] == ["later", *range(len(ours))]
    assert world.work(len(ours)) == list(range(len(ours)))
    assert [message.args for message in world.look()] == [["later"]]  # it went back from the worker's memory


def test_what_nobody_can_decode_is_told_and_stays() -> None:
    world = World("amqp")
    world.broker.declare_queue(world.name, ensure=True)
    with connect(amqp_url()) as connection, connection.channel() as channel:
        publish_raw(channel, UNDECODABLE[0], b"{}", world.name.encode())
        world.wait(1)
    told = world.only()
    assert (told.task, told.queue) == ("", world.name)
    assert told.obstacle is not None
    assert told.obstacle.startswith("It can't be read: ")
    world.wait(1)
    world.clear()


def test_what_only_looks_like_ours_is_the_applications(world: World) -> None:
    job = world.job(1)
    text = write_envelope(job).decode()
    message: Message[Any] = Message(world.name, "mail.send", (text,), {}, {}, message_id=job.id)
    for strange in (
        message.copy(actor_name="send"),
        message.copy(actor_name="mail.send@high"),
        message.copy(args=(text, 1)),
        message.copy(args=(job.id,)),
        message.copy(args=({},)),
        message.copy(args=(text[:-1],)),
        message.copy(kwargs={"a": 1}),
        message.copy(options={"on_success": "other"}),
        message.copy(options={"pipe_target": {}}),
        message.copy(message_id="another"),
        message.copy(queue_name="another"),
    ):
        world.put(strange.encode())
    world.put(message.copy(options={"theirs": 1}).encode())  # what middleware of the application's notes
    report, moved = world.migrate()
    assert report.moved == 1
    assert [each and each.id for each in moved] == [job.id]
    world.wait(11)
    assert len(world.look()) == 11


def test_a_job_is_moved_out_of_the_queue_of_what_is_delayed_though_it_is_due(world: World) -> None:
    job = world.job(1, due_at=datetime.now(UTC) + timedelta(milliseconds=30))
    world.backend.send([job])
    inspector = cast("JobInspector", world.backend.inspector)
    states = set()
    while JobState.WAITING not in states:
        with inspector.hold(JobFilter(states=TO_RUN), holder="test", ahead=1) as taken:
            states |= {each.job.state for each in taken}
    wait_until(lambda: world.migrate()[1] == [job], what="the job to be back, and moved")


def test_our_jobs_are_listed_and_cancelled_where_that_can_be(world: World) -> None:
    world.send.send(1)
    world.backend.send([world.job(1), world.job(2, priority=JobPriority.HIGH)])
    inspector = cast("JobInspector", world.backend.inspector)
    waiting = frozenset({JobState.WAITING})
    assert inspector.count() == {JobState.ABANDONED: 0}
    if world.kind == "amqp":
        with pytest.raises(UnsupportedCapabilityError):
            inspector.scan(JobFilter(states=waiting))
        return
    assert {job.id for job in inspector.scan(JobFilter()).jobs} == {world.job(1).id, world.job(2).id}
    assert inspector.find(world.job(2).id) is not None
    assert inspector.cancel(world.job(2).id)
    assert [job.id for job in inspector.scan(JobFilter(states=waiting)).jobs] == [world.job(1).id]
    with pytest.raises(UnsupportedCapabilityError):  # a worker may have it in its memory
        inspector.run_now(world.job(1).id)
    assert len(world.look()) == 1


def test_actors_that_come_before_our_urgent_jobs_are_told(world: World) -> None:
    risks = world.backend.look_for_risks()
    assert len(risks) == 1
    assert risks[0].startswith("priority: the actors other, send come before")
    for number in range(9):
        world.actor(f"z{number}")
    assert "and 6 more" in world.backend.look_for_risks()[0]
    for actor in world.broker.actors.values():
        actor.priority = 85
    assert world.backend.look_for_risks() == []
    world.send.options["broker_priority"] = 9
    told = [risk for risk in world.backend.look_for_risks() if risk.startswith("broker_priority: the actors send")]
    assert len(told) == (1 if world.kind == "amqp" else 0)


def test_our_own_actors_are_no_risk(world: World) -> None:
    for actor in world.broker.actors.values():
        actor.priority = 100
    executor: Any = types.SimpleNamespace(registry=types.SimpleNamespace(names=["mail.send"], queues=lambda: ["x"]))
    world.backend.worker_broker(executor, cast("Any", None))
    assert len(world.broker.actors) > 2
    assert world.backend.look_for_risks() == []


def test_numbers_that_json_has_not_are_told(world: World) -> None:
    world.send.send(math.nan)
    assert world.only().obstacle is not None
    assert json.loads(message_of(world))["actor_name"] == "send"
