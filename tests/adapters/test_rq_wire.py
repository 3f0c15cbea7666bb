"""What we write is what RQ writes, and comes out as it went in."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from datetime import timedelta
from typing import Any, cast

import fakeredis
import msgspec
import pytest
from envelopes import make_envelope
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw
from msgspec.structs import replace
from rq import Queue
from rq.executions import Execution, ExecutionRegistry
from rq.job import Job
from rq.registry import ScheduledJobRegistry, StartedJobRegistry
from rq.worker import Worker

from anyjob import JobEnvelope, JobPriority
from anyjob.base.envelope import read_envelope, write_envelope
from anyjob.base.errors import ConfigurationError, DuplicateJobIdError, EnqueueError
from anyjob.testing import FakeClock
from anyjob_redis.levels import LEVELS
from anyjob_redis.presence import LapsedError
from anyjob_rq import EnvelopeSerializer, RQBackend, frame
from anyjob_rq.names import Names

NATIVE = "anyjob:mail:high"


@pytest.fixture
def make(clock: FakeClock) -> Callable[..., JobEnvelope]:
    def make(job_id: str = "one", delay: timedelta | None = None) -> JobEnvelope:
        options: dict[str, Any] = {"queue": "mail", "priority": JobPriority.HIGH, "delay": delay}
        return make_envelope(clock.now(), job_id, "greet", {"to": "ä"}, **options)

    return make


def stored(fake: fakeredis.FakeRedis, native_id: str) -> dict[bytes, bytes]:
    return cast("dict[bytes, bytes]", fake.hgetall(f"rq:job:{native_id}"))


@pytest.mark.parametrize("delay", [None, timedelta(seconds=90)])
def test_a_job_is_written_field_by_field_as_rq_writes_it(
    backend: RQBackend, fake: fakeredis.FakeRedis, make: Callable[..., JobEnvelope], delay: timedelta | None
) -> None:
    envelope = make(delay=delay)
    backend.send([envelope])
    ours = stored(fake, "anyjob-J-one")

    queue = Queue(NATIVE, connection=fake, serializer=EnvelopeSerializer)
    job = Job.create(
        frame.ENTRY,
        args=[Raw(write_envelope(envelope))],
        connection=fake,
        id="theirs",
        description="greet",
        timeout=-1,
        result_ttl=0,
        serializer=EnvelopeSerializer,
    )
    if envelope.due_at is None:
        queue.enqueue_job(job)
    else:
        job.origin = NATIVE
        queue.schedule_job(job, envelope.due_at)
    theirs = stored(fake, "theirs")

    times = {b"created_at", b"enqueued_at"}
    assert {key: value for key, value in ours.items() if key not in times} == {
        key: value for key, value in theirs.items() if key not in times
    }
    assert ours.keys() == theirs.keys()
    assert frame.find_fault(ours) is None
    where = f"rq:queue:{NATIVE}" if delay is None else f"rq:scheduled:{NATIVE}"
    listed = fake.lrange(where, 0, -1) if delay is None else fake.zrange(where, 0, -1)
    assert set(listed) == {b"anyjob-J-one", b"theirs"}
    assert fake.smembers("rq:queues") == {f"rq:queue:{NATIVE}".encode()}


def test_a_delayed_job_is_due_to_the_microsecond(
    backend: RQBackend, fake: fakeredis.FakeRedis, make: Callable[..., JobEnvelope], clock: FakeClock
) -> None:
    delay = timedelta(seconds=1, microseconds=123457)
    due = clock.now() + delay
    backend.send([make(delay=delay)])

    assert fake.zscore(f"rq:scheduled:{NATIVE}", "anyjob-J-one") == due.timestamp()
    clock.travel(1.123456)
    backend.messages.promote()
    assert fake.llen(f"rq:queue:{NATIVE}") == 0
    clock.travel(0.000001)
    assert backend.messages.promote() is None
    assert fake.lrange(f"rq:queue:{NATIVE}", 0, -1) == [b"anyjob-J-one"]
    assert stored(fake, "anyjob-J-one")[b"status"] == b"queued"


def test_rq_reads_our_job(backend: RQBackend, fake: fakeredis.FakeRedis, make: Callable[..., JobEnvelope]) -> None:
    envelope = make()
    backend.send([envelope])

    job = Job.fetch("anyjob-J-one", fake, EnvelopeSerializer)

    assert (job.description, job.origin, job.timeout, job.result_ttl) == ("greet", NATIVE, -1, 0)
    assert job.func_name == frame.ENTRY
    assert read_envelope(msgspec.json.encode(job.args[0])) == envelope


def test_monitors_read_the_name_with_rqs_default_serializer(
    backend: RQBackend, fake: fakeredis.FakeRedis, make: Callable[..., JobEnvelope]
) -> None:
    backend.send([make()])
    job = Job.fetch("anyjob-J-one", fake)
    assert job.get_call_string() == "anyjob_rq.frame.execute('greet')"


def test_rqs_own_worker_says_what_is_wrong() -> None:
    assert f"{frame.execute.__module__}.{frame.execute.__name__}" == frame.ENTRY
    with pytest.raises(ConfigurationError, match=r"rq worker -w anyjob_rq.RQJobWorker"):
        frame.execute({})


def test_the_scripts_use_rqs_own_keys(fake: fakeredis.FakeRedis) -> None:
    queue = Queue(NATIVE, connection=fake)
    job = Job("j", connection=fake)
    execution = Execution("e", "j", fake, "w")
    assert queue.redis_queues_keys == "rq:queues"
    assert queue.key == f"rq:queue:{NATIVE}"
    assert ScheduledJobRegistry(queue=queue).key == f"rq:scheduled:{NATIVE}"
    assert StartedJobRegistry(queue=queue).key == f"rq:wip:{NATIVE}"
    assert job.key == "rq:job:j"
    assert (execution.key, execution.worker_executions_key) == ("rq:execution:j:e", "rq:worker:w:executions")
    assert ExecutionRegistry("j", fake).key == "rq:executions:j"
    assert Worker.redis_worker_namespace_prefix == "rq:worker:"


# The frame


@given(st.binary(max_size=200))
def test_whatever_is_in_the_frame_comes_out_as_it_went_in(raw: bytes) -> None:
    whole = frame.EnvelopeSerializer.dumps((frame.ENTRY, None, [Raw(b"0")], {})).replace(b"[0]", b"[%b]" % raw)
    assert frame.unpack(zlib.compress(whole)) == (raw, None)


_CALL = EnvelopeSerializer.dumps((frame.ENTRY, None, [Raw(b'{"name":"greet"}')], {}))


@pytest.mark.parametrize(
    ("data", "raw", "why"),
    [
        (b"no zlib", b"no zlib", "compression"),
        (zlib.compress(b'["os.system",null,["true"],{}]'), b'["os.system",null,["true"],{}]', "no call of"),
        (zlib.compress(b"x" * (frame.LONGEST_DATA + 1)), None, "unpacks into more"),
        (zlib.compress(b""), b"", "no call of"),
        (zlib.compress(_CALL[_CALL.index(b"[") :]), _CALL[_CALL.index(b"[") :], "no call of"),
        (zlib.compress(_CALL[:40]), _CALL[:40], "no call of"),
        (zlib.compress(_CALL.replace(b"NX", b"NU")), _CALL.replace(b"NX", b"NU"), "no call of"),
    ],
    ids=["garbage", "another function", "a bomb", "nothing", "no label", "half a label", "another label"],
)
def test_what_is_not_the_frame_is_told_and_kept(data: bytes, raw: bytes | None, why: str) -> None:
    kept, fault = frame.unpack(data)
    assert kept == (data if raw is None else raw)
    assert fault is not None
    assert why in fault


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (b"timeout", b"abc"),
        (b"success_callback_name", b"os.abort"),
        (b"failure_callback_name", b"os.abort"),
        (b"stopped_callback_name", b"os.abort"),
        (b"webhooks", b"[]"),
        (b"dependency_ids", b'["x"]'),
        (b"retries_left", b"3"),
        (b"repeats_left", b"3"),
        (b"meta", b"\x80\x04."),
        (b"\xff" * 1000, b""),
    ],
)
def test_a_field_that_we_do_not_write_is_a_fault(
    backend: RQBackend, fake: fakeredis.FakeRedis, make: Callable[..., JobEnvelope], field: bytes, value: bytes
) -> None:
    backend.send([make()])
    fault = frame.find_fault(stored(fake, "anyjob-J-one") | {field: value})
    assert fault is not None
    assert len(fault) < 300
    assert field[:10].decode("ascii", "backslashreplace")[:4] in fault


def test_a_field_that_is_missing_is_a_fault() -> None:
    assert frame.find_fault({}) == "Its field failure_callback_name is missing."


def test_a_job_larger_than_workers_read_is_refused_at_once(
    backend: RQBackend, make: Callable[..., JobEnvelope], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("anyjob_rq.messages.LONGEST_DATA", 10)
    with pytest.raises(EnqueueError, match=r"Job one takes \d+ bytes; RQ's workers read 10 at most") as caught:
        backend.send([make("other"), make()][1:])
    assert caught.value.rejected == ("one",)


# Names


def test_levels_are_in_order_and_in_the_queues_names() -> None:
    assert list(LEVELS) == sorted(JobPriority, reverse=True)
    assert Names("anyjob").queues("mail")[0] == Names("anyjob").queue("mail", JobPriority.HIGH) == NATIVE


@pytest.mark.parametrize("namespace", ["a", "a-b", "a-j", "a_b-"])
def test_ids_of_different_namespaces_never_meet(namespace: str) -> None:
    mine, other = Names(namespace), Names("a")
    native = mine.native_id("b-J-c")
    assert mine.job_id(native) == "b-J-c"
    assert (other.job_id(native) is None) == (namespace != "a")
    assert mine.job_id("5c2f3cbe-6f0b-4b2a-8f43-0dd9aab2ffb9") is None


# Sending


def test_an_id_that_is_there_is_refused_and_nothing_is_sent(
    backend: RQBackend, fake: fakeredis.FakeRedis, make: Callable[..., JobEnvelope]
) -> None:
    backend.send([make("one"), make("later", timedelta(seconds=5))])
    for taken in ("one", "later"):
        with pytest.raises(DuplicateJobIdError, match=taken) as caught:
            backend.send([make("new"), make(taken)])
        assert caught.value.rejected == ("new", taken)
    with pytest.raises(DuplicateJobIdError, match="twice"):
        backend.send([make("twice"), make("twice")])
    assert fake.llen(f"rq:queue:{NATIVE}") == 1
    assert not fake.exists("rq:job:anyjob-J-new")


def test_many_are_sent_in_batches_and_an_error_tells_how_far_it_went(
    backend: RQBackend, fake: fakeredis.FakeRedis, make: Callable[..., JobEnvelope]
) -> None:
    backend.send([make("n0700")])
    several = [make(f"n{number:04}") for number in range(1200)]

    with pytest.raises(DuplicateJobIdError) as caught:
        backend.send(several)

    ids = tuple(envelope.id for envelope in several)
    assert (caught.value.accepted, caught.value.rejected) == (ids[:500], ids[500:])
    assert fake.llen(f"rq:queue:{NATIVE}") == 501
    backend.send([])


@pytest.fixture
def held(backend: RQBackend, fake: fakeredis.FakeRedis, make: Callable[..., JobEnvelope]) -> JobEnvelope:
    """A job that a worker runs, in front of another that waits."""
    envelope = make("one")
    backend.send([envelope, make("two")])
    fake.set("anyjob:alive:w", 1)
    assert backend.messages.take("w", [], 0) is not None
    return envelope


ENTRY = b"run anyjob:mail:high - anyjob-J-one"


def test_a_job_sent_again_outlives_its_old_message(
    backend: RQBackend, fake: fakeredis.FakeRedis, held: JobEnvelope
) -> None:
    backend.resend(replace(held, try_count=1))

    assert backend.messages.acknowledge("w", ENTRY)
    assert not backend.messages.acknowledge("w", ENTRY)
    assert fake.lrange(f"rq:queue:{NATIVE}", 0, -1) == [b"anyjob-J-two", b"anyjob-J-one"]
    found = backend.inspector.find("one")
    assert found is not None
    assert found.envelope == replace(held, try_count=1)
    assert b"anyjob_holder" not in stored(fake, "anyjob-J-one")


def test_sending_again_twice_sends_once(backend: RQBackend, fake: fakeredis.FakeRedis, held: JobEnvelope) -> None:
    again = replace(held, try_count=1)
    backend.resend(again)
    backend.resend(again)  # the answer to the first was lost

    assert fake.lrange(f"rq:queue:{NATIVE}", 0, -1) == [b"anyjob-J-two", b"anyjob-J-one"]


def test_taking_again_gives_the_same_message(backend: RQBackend, held: JobEnvelope) -> None:
    message = backend.messages.take("w", [], 0)
    assert message is not None
    assert (message.entry, message.raw) == (ENTRY, write_envelope(held))


def test_a_lost_job_keeps_its_place(backend: RQBackend, fake: fakeredis.FakeRedis, held: JobEnvelope) -> None:
    assert backend.messages.give_back("w", lost=True) == ["anyjob-J-one"]
    message = backend.messages.take("w", [], 0)
    assert message is not None
    assert message.redelivered

    backend.resend(replace(held, lost_count=1))
    assert backend.messages.acknowledge("w", ENTRY)

    assert fake.lrange(f"rq:queue:{NATIVE}", 0, -1) == [b"anyjob-J-one", b"anyjob-J-two"]
    message = backend.messages.take("w", [], 0)
    assert message is not None
    assert not message.redelivered


def test_a_released_job_is_as_before(backend: RQBackend, fake: fakeredis.FakeRedis, held: JobEnvelope) -> None:
    assert backend.messages.give_back("w", lost=False) == ["anyjob-J-one"]
    assert fake.lrange(f"rq:queue:{NATIVE}", 0, -1) == [b"anyjob-J-one", b"anyjob-J-two"]
    assert not fake.exists("anyjob:held:w", "anyjob:holders")
    message = backend.messages.take("w", [], 0)
    assert message is not None
    assert (message.raw, message.redelivered) == (write_envelope(held), False)


def test_only_the_dead_are_swept(backend: RQBackend, fake: fakeredis.FakeRedis, held: JobEnvelope) -> None:
    assert backend.messages.sweep() == []
    fake.delete("anyjob:alive:w")
    assert backend.messages.sweep() == ["anyjob-J-one"]
    assert not backend.messages.acknowledge("w", ENTRY)
    assert not backend.messages.holds("w", ENTRY)
    assert fake.llen(f"rq:queue:{NATIVE}") == 2


def test_who_is_not_alive_takes_nothing(backend: RQBackend, fake: fakeredis.FakeRedis, held: JobEnvelope) -> None:
    with pytest.raises(LapsedError):
        backend.messages.take("other", [], 0)
    assert fake.llen(f"rq:queue:{NATIVE}") == 1


def test_the_stock_maintenance_leaves_what_we_hold_alone(
    backend: RQBackend, fake: fakeredis.FakeRedis, held: JobEnvelope
) -> None:
    from rq.registry import clean_registries

    before = {key: fake.dump(key) for key in fake.scan_iter()}
    queue = Queue(NATIVE, connection=fake)
    clean_registries(queue, [])
    queue.intermediate_queue.cleanup(Worker([queue], connection=fake, prepare_for_work=False), queue)

    assert {key: fake.dump(key) for key in fake.scan_iter()} == before
