"""What the adapters use of their libraries beyond what these promise is there, and is what it was.

An upgrade that changes it is to fail here, with the name of the part, and not in a worker. The parts are in the modules
`private*` of the adapters.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import logging
import struct
from collections.abc import Callable, Iterator
from functools import wraps
from queue import Empty
from types import SimpleNamespace
from typing import Any

import pytest

from anyjob_amqp import private as of_amqp
from anyjob_celery import private as of_celery
from anyjob_celery import private_kombu as of_kombu
from anyjob_celery import private_publishing as of_publishing
from anyjob_dramatiq import private as of_dramatiq
from anyjob_redis import private as of_redis
from anyjob_rq import private as of_rq

# ruff: noqa: SLF001  # that is what this is about


def parameters(function: Callable[..., Any]) -> list[str]:
    return list(inspect.signature(function).parameters)


class FakeServer:
    """A connection and a client of redis-py, as far as kombu's channel uses them."""

    def __init__(self, answer: Any = None) -> None:
        self.connection = self
        self.sent: list[tuple[Any, ...]] = []
        self.answer = answer

    def send_command(self, *command: Any) -> None:
        self.sent.append(command)

    def parse_response(self, connection: Any, command: str, **_: Any) -> Any:
        return self.answer


def channel_on(server: FakeServer) -> of_kombu.ChannelParts:
    """Return a channel that consumes `mail`, made without a server."""
    from kombu.utils.scheduling import round_robin_cycle

    channel = object.__new__(of_kombu.ChannelParts)
    channel.__dict__.update(client=server, _active_queues=["mail"], auto_delete_queues=(), connection_errors=())
    channel.active_fanout_queues = set()
    channel._queue_cycle = round_robin_cycle(["mail"])
    return channel


class TestKombu:
    def test_the_poller_has_our_channel_send_and_read(self) -> None:
        from kombu.transport import redis

        assert {"_brpop_start", "_brpop_read", "_queue_bind"} <= redis.Channel.__dict__.keys()
        assert parameters(redis.Channel._brpop_start) == ["self", "timeout"]
        assert parameters(redis.Channel._brpop_read) == ["self", "options"]
        assert parameters(redis.Channel._queue_bind) == ["self", "exchange", "routing_key", "pattern", "queue"]
        assert {"_brpop_start", "_in_poll"} <= set(redis.MultiChannelPoller._register_BRPOP.__code__.co_names)
        assert "_brpop_read" in redis.Channel.__init__.__code__.co_names

    def test_kombus_own_way_is_still_there_for_what_is_no_job(self) -> None:
        server = FakeServer()
        channel = channel_on(server)
        channel._brpop_start(2)
        assert server.sent == [("BRPOP", "mail", "mail\x06\x163", "mail\x06\x166", "mail\x06\x169", 2)]
        assert channel._in_poll is server
        with pytest.raises(Empty):
            channel._brpop_read()
        assert channel._in_poll is None

    def test_a_command_of_ours_takes_the_place_of_kombus(self) -> None:
        server = FakeServer()
        channel = channel_on(server)
        channel.send_to_wait(["EVALSHA", "x"])
        assert (server.sent, channel._in_poll) == ([("EVALSHA", "x")], server)
        channel.end_wait()
        assert channel._in_poll is None
        assert list(channel.next_queues()) == ["mail"]
        channel.end_turn("mail")

    def test_a_queue_has_a_list_for_each_step(self) -> None:
        from kombu.transport import redis

        channel: Any = channel_on(FakeServer())
        channel.priority_steps, channel.sep = (0, 3), ":"
        assert channel.lists_of("mail") == ["mail", "mail:3"]
        assert parameters(redis.Channel._size) == ["self", "queue"]

    def test_what_was_delivered_is_noted_and_can_be_forgotten(self) -> None:
        from kombu.transport import virtual

        qos = of_kombu.QoSParts(SimpleNamespace(do_restore=False))
        virtual.QoS.append(qos, "message", "tag")
        assert qos._delivered == {"tag": "message"}
        qos.forget_delivered()
        assert qos._delivered == {}

    def test_kombu_looks_for_what_the_dead_held_when_it_says(self) -> None:
        from kombu.transport import redis

        assert inspect.signature(redis.QoS.restore_visible).parameters["interval"].default == 10
        is_heeded = "unacked_restore_interval" in redis.Channel.from_transport_options
        assert of_kombu.restore_period(3, 2) == (6 if is_heeded else 100)
        assert of_kombu.restore_period(10, 10) == 100

    def test_a_transport_delivers_to_the_queues_consumer(self) -> None:
        from kombu.transport import virtual

        got: list[Any] = []
        channel: Any = object.__new__(of_kombu.ChannelParts)
        channel.connection = object.__new__(virtual.Transport)
        channel.connection._callbacks = {"mail": got.append}
        channel.deliver("message", "mail")
        assert got == ["message"]


class TestCelery:
    def test_a_prefork_pool_tells_which_jobs_its_children_were_given(self) -> None:
        from billiard.pool import ApplyResult
        from celery.concurrency.asynpool import AsynPool
        from celery.concurrency.prefork import TaskPool

        assert "_pool" in TaskPool.on_start.__code__.co_names
        assert hasattr(AsynPool, "handle_result_event")
        assert {"_fileno_to_outq"} <= set(AsynPool.__init__.__code__.co_names)
        cache: dict[int, Any] = {}
        job = ApplyResult(cache, None)
        assert list(cache.values()) == [job]
        pool = SimpleNamespace(
            _pool=SimpleNamespace(handle_result_event=None, _cache=cache, _fileno_to_outq={7: "a child"})
        )
        children = of_celery.ChildParts(pool)
        assert (bool(children), list(children.pipes), children.to_begin) == (True, [7], [])
        job._write_to = SimpleNamespace(_is_alive=lambda: True)
        assert children.to_begin == [job]
        job._accepted = True
        assert children.to_begin == []

    def test_a_pool_without_children_says_so(self) -> None:
        assert not of_celery.ChildParts(SimpleNamespace())

    def test_billiard_tells_a_child_that_it_is_to_end(self) -> None:
        from billiard import common

        assert of_celery.is_told_to_end() is False
        assert "terminate_handler_fired" in vars(common)

    def test_celery_knows_its_settings(self) -> None:
        assert {"task_publish_retry", "broker_transport_options", "worker_prefetch_multiplier"} <= {
            *of_celery.setting_names()
        }
        assert "CELERYD_CONCURRENCY" not in of_celery.setting_names()

    def test_a_child_that_lives_is_asked_by_the_same_name(self) -> None:
        from billiard.process import BaseProcess

        assert "_is_alive" in vars(BaseProcess)

    def test_remote_control_announces_a_revoked_request(self) -> None:
        from celery.worker.request import Request

        assert parameters(Request._announce_revoked) == ["self", "reason", "terminated", "signum", "expired"]
        for caller in (Request.revoked, Request.on_failure):
            assert "_announce_revoked" in caller.__code__.co_names
        assert Request._already_revoked is False

    def test_what_runs_a_task_is_its_trace(self) -> None:
        from celery import Celery
        from celery.app.trace import build_tracer, fast_trace_task, trace_ok_t
        from celery.concurrency.prefork import process_initializer

        assert trace_ok_t._fields == ("retval", "info", "runtime", "retstr")
        told: list[str] = []

        class Probe(of_celery.TaskParts):
            name = "probe"

            def trace(self, tracer: of_celery.Tracer, task_id: str, args: Any, kwargs: Any, request: Any) -> Any:
                told.append(task_id)
                return super().trace(tracer, task_id, args, kwargs, request)

            def run(self) -> str:
                return "ran"

        app = Celery(set_as_current=False)
        task = app.register_task(Probe())
        assert task.__trace__ is None
        assert "__trace__" in process_initializer.__code__.co_names  # makes it in a child
        assert "__trace__" in fast_trace_task.__code__.co_names  # calls it there
        task.__trace__ = build_tracer("probe", task, app=app)
        traced = task.__trace__("id", (), {}, {"id": "id", "args": (), "kwargs": {}, "ignore_result": True})
        assert (told, traced.retval) == (["id"], "ran")

    def test_send_task_publishes_by_what_it_finds_at_its_application(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from celery import Celery

        told: list[Any] = []
        of_publishing.through_send_task("job", {"id": "x", "more": "y"}, told.append)
        assert told == [{"id": "x", "more": "y"}]
        assert not of_publishing.is_send_task_wrapped()
        monkeypatch.setattr(Celery, "send_task", wraps(Celery.send_task)(lambda *_: None))
        assert of_publishing.is_send_task_wrapped()

    def test_a_thread_has_a_current_application(self) -> None:
        from celery import current_app, registry

        before = current_app._get_current_object()
        with of_publishing.known_task("some.job"):
            assert registry.tasks["some.job"].name == current_app.tasks["some.job"].name == "some.job"
            assert current_app.conf is before.conf
            assert "celery.ping" in current_app.tasks or "celery.chain" in current_app.tasks
        assert current_app._get_current_object() is before
        assert "some.job" not in registry.tasks


class TestAmqp:
    def test_frames_are_read_by_what_can_be_surrounded(self) -> None:
        import amqp

        assert "frame_handler" in parameters(amqp.Connection.__init__)
        read = of_amqp.frame_reader(SimpleNamespace(bytes_recv=0), lambda *_: None)
        assert parameters(read) == ["frame"]
        of_amqp.decode_properties(struct.pack(">H", 1 << 7) + b"\x02id", 0)
        with pytest.raises(UnicodeDecodeError):
            of_amqp.decode_properties(struct.pack(">H", 1 << 7) + b"\x02\xff\xfe", 0)

    def test_a_connection_has_its_socket(self) -> None:
        import amqp
        from amqp import transport

        assert isinstance(amqp.Connection.transport, property)
        assert "sock" in transport._AbstractTransport._connect.__code__.co_names


class TestDramatiq:
    def test_a_message_keeps_the_error_that_it_met(self) -> None:
        from dramatiq import Message, MessageProxy

        message = MessageProxy(Message("mail", "send", (), {}, {}))
        assert of_dramatiq.error_of(message) is None
        error = ValueError()
        message.stuff_exception(error)
        assert of_dramatiq.error_of(message) is error

    def test_a_message_shows_other_arguments(self) -> None:
        from dramatiq import Message, MessageProxy

        message = MessageProxy(Message("q", "a", ("secret",), {}, {"x": 1}, "id", 7))
        of_dramatiq.show_args(message, "<job id>")
        assert (message.args, message.options, message.message_id) == (("<job id>",), {"x": 1}, "id")
        assert "secret" not in f"{message} {message!r} {message.asdict()}"

    def test_a_worker_process_tells_that_it_has_booted_after_its_hooks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import signal

        from dramatiq import cli

        class Event:
            is_set = False

            def set(self) -> None:
                self.is_set = True

        found: list[tuple[Any, bool]] = []

        def boot(*_: Any, **__: Any) -> None:
            told = of_dramatiq.boot_event()
            found.append((told, told.is_set))
            raise ImportError  # it is enough

        run: Any = cli.worker_process
        event, pipe = Event(), SimpleNamespace(write=lambda _: None)
        monkeypatch.setattr(signal, "signal", lambda *_: None)
        monkeypatch.setattr(cli, "setup_worker_logging", lambda *_: logging.getLogger("nobody"))
        monkeypatch.setattr(cli, "import_broker", boot)
        with pytest.raises(SystemExit):
            run(SimpleNamespace(broker="x"), 0, pipe, None, event)
        assert found == [(event, False)]
        assert event.is_set
        assert of_dramatiq.boot_event() is None

    def test_a_thread_processes_messages_by_what_can_be_surrounded(self, worker: Any) -> None:
        from dramatiq import Message, MessageProxy

        thread, seen = worker.workers[0], list[Any]()
        message = MessageProxy(Message("default", "send", (), {}, {}))
        assert "process_message" in type(thread).run.__code__.co_names
        of_dramatiq.surround(thread, lambda process, message: seen.append((process.__name__, message)))
        thread.process_message(message)
        assert seen == [("process_message", message)]

    def test_a_worker_knows_its_threads_and_their_consumers(self, worker: Any) -> None:
        from dramatiq import Consumer, Message, MessageProxy

        assert {type(each).__name__.strip("_") for each in of_dramatiq.threads_of(worker)} == {
            "WorkerThread",
            "ConsumerThread",
        }
        assert (worker.worker_threads, worker.worker_timeout, worker.consumer_whitelist) == (1, 1000, None)
        message = MessageProxy(Message("default", "send", (), {}, {}))
        assert isinstance(of_dramatiq.consumer_of(worker.workers[0], message), Consumer)


@pytest.fixture
def worker() -> Iterator[Any]:
    from dramatiq import Worker
    from dramatiq.brokers.stub import StubBroker

    broker = StubBroker()
    broker.declare_queue("default")
    worker = Worker(broker, worker_threads=1, worker_timeout=1000)
    worker.start()
    yield worker
    worker.stop()


class TestRedis:
    def test_a_pool_gives_a_connection_without_a_word(self) -> None:
        from redis import ConnectionPool

        class Silent:
            def __init__(self, **_: Any) -> None: ...
            def connect(self) -> None: ...
            def can_read(self) -> bool:
                return False

        pool: Any = ConnectionPool(Silent)
        assert isinstance(of_redis.take_connection(pool), Silent)


class TestRQ:
    def test_keys_begin_with_what_rq_lets_them_begin(self) -> None:
        from rq import Queue
        from rq.job import Job

        assert Queue.redis_queue_namespace_prefix == f"{of_rq.KEY_PREFIX}:queue:"
        assert Queue.redis_queues_keys == f"{of_rq.KEY_PREFIX}:queues"
        assert Job.redis_job_namespace_prefix == f"{of_rq.KEY_PREFIX}:job:"

    def test_the_command_line_finds_what_it_is_given(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from rq.worker_pool import WorkerPool

        workers: Any = importlib.import_module("rq.cli.workers")
        for name, caller in (("is_suspended", workers.worker), ("WorkerPool", workers.worker_pool)):
            monkeypatch.setattr(workers, name, getattr(workers, name))  # to be put back
            assert name in inspect.unwrap(caller.callback).__code__.co_names

        class Pool(WorkerPool):
            pass

        of_rq.use_in_command_line(Pool)
        assert workers.WorkerPool is Pool
        assert workers.is_suspended(SimpleNamespace(exists=lambda key: key == "rq:suspended")) is True

    def test_a_worker_notes_what_ours_reads_and_writes(self) -> None:
        from redis import Redis

        class Probe(of_rq.WorkerParts):
            pass

        worker = Probe(["default"], connection=Redis(port=1), prepare_for_work=False)
        assert not worker.is_told_to_stop
        assert worker.told_to_stop_for is None
        worker.note_stop()
        assert worker.is_told_to_stop
        assert 0 <= (worker.told_to_stop_for or 0) < 20
        worker.forget_stop()
        assert not worker.is_told_to_stop
        assert worker.horse_pid == 0
        worker._horse_pid = 7
        assert worker.horse_pid == 7
        worker.forget_child()
        assert worker.horse_pid == 0
        worker._stopped_job_id = "id"
        assert not worker.take_stopped("other")
        assert worker.take_stopped("id")
        assert not worker.take_stopped("id")

    def test_who_surrounds_rqs_enqueue_sees_what_is_announced(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from redis import Redis
        from rq import Queue
        from rq.job import Job

        assert not of_rq.is_enqueue_wrapped()
        seen: list[object] = []
        enqueue_job = Queue.enqueue_job

        @functools.wraps(enqueue_job)
        def surround(queue: Queue, job: Job, **options: Any) -> Job:
            seen.append((queue.name, job.id))
            return enqueue_job(queue, job, **options)

        monkeypatch.setattr(Queue, "enqueue_job", surround)
        assert of_rq.is_enqueue_wrapped()
        of_rq.announce(Job("id", connection=Redis(port=1)), "mail")  # nobody listens there
        assert seen == [("mail", "id")]

    def test_rqs_own_code_goes_by_the_same_names(self) -> None:
        from rq import command
        from rq.worker import BaseWorker, Worker

        assert "_stop_requested" in BaseWorker.check_for_suspension.__code__.co_names
        assert "_stopped_job_id" in command.handle_stop_job_command.__code__.co_names
        assert "_horse_pid" in Worker.fork_work_horse.__code__.co_names
        assert "_set_connection" in BaseWorker.__init__.__code__.co_names
        assert "_shutdown_requested_date" in BaseWorker.set_shutdown_requested_date.__code__.co_names
        assert {"prepare_execution", "monitor_work_horse"} <= set(Worker.execute_job.__code__.co_names)
