"""What somebody else wrote into our keys: nothing of ours is lost over it, and nobody ends with it."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest

pytest.importorskip("dramatiq")
pytest.importorskip("rq")

from envelopes import make_envelope
from redis import Redis
from redis.exceptions import RedisError
from servers import PrivateRedis

from anyjob import SystemClock
from anyjob.base.envelope import JobEnvelope
from anyjob.base.errors import EnqueueError
from anyjob.seams.backend import BackendConfig
from anyjob.seams.outcome import JobFailure
from anyjob.seams.stored import JobFilter, JobState
from anyjob.testing.probes.journal import wait_until
from anyjob_dramatiq.redis_backend import DramatiqRedisBackend
from anyjob_redis import Presence
from anyjob_rq import RQBackend

Backend = RQBackend | DramatiqRedisBackend
MAKERS: dict[str, Callable[[BackendConfig], Backend]] = {"rq": RQBackend, "dramatiq": DramatiqRedisBackend}
RQ_SCHEDULED = "rq:scheduled:anyjob:default:normal"
FOREIGN: dict[str, Callable[[Redis, str], object]] = {
    "string": lambda client, key: client.set(key, "text"),
    "list": lambda client, key: client.rpush(key, "item"),
    "set": lambda client, key: client.sadd(key, "member"),
    "hash": lambda client, key: client.hset(key, "field", "value"),
    "zset": lambda client, key: client.zadd(key, {"member": 1}),
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateRedis]:
    server = PrivateRedis(tmp_path_factory.mktemp("redis")).start()
    yield server
    server.kill()


@pytest.fixture
def client(server: PrivateRedis) -> Iterator[Redis]:
    with server.client() as client:
        client.flushall()
        yield client


@pytest.fixture(params=MAKERS)
def backend(request: pytest.FixtureRequest, server: PrivateRedis, client: Redis) -> Iterator[Backend]:
    made = MAKERS[request.param](BackendConfig(alias="main", url=f"{request.param}+{server.url}"))
    yield made
    made.close()


def job(job_id: str, *, queue: str = "default", delay: float = 0.0) -> JobEnvelope:
    now = SystemClock().now()
    return make_envelope(now, job_id, queue=queue, delay=timedelta(seconds=delay) if delay else None)


def make_failure() -> JobFailure:
    return JobFailure.of(ValueError("no"), at=SystemClock().now(), worker="w", tries=1)


def caught(step: Callable[[], object]) -> Exception | None:
    try:
        step()
    except (RedisError, EnqueueError) as error:
        return error
    return None


def types_of(client: Any) -> dict[bytes, str]:
    return {key: client.type(key).decode() for key in client.scan_iter()}


def dump(client: Redis) -> dict[bytes, object]:
    return {key: client.dump(key) for key in client.scan_iter()}


def take(backend: Backend, holder: str, *queues: str) -> list[str]:
    """Take what waits, until there is nothing; return the ids."""
    client = backend.client
    root = "anyjob" if isinstance(backend, RQBackend) else backend.messages.names.root
    Presence(client, root, holder, 30).beat()
    if isinstance(backend, RQBackend):
        found = []
        while (message := backend.messages.take(holder, queues, 0)) is not None:
            found.append(message.native_id.removeprefix("anyjob-J-"))
            backend.messages.acknowledge(holder, message.entry)
        return found
    held = backend.messages.take(holder, queues or backend.messages.known_queues(), 1_000, 0, ())
    backend.messages.acknowledge(holder, [each.entry for each in held])
    return [each.native_id.decode("utf-8", "replace") for each in held]


@pytest.mark.parametrize("delay", [0.0, 60.0], ids=["now", "later"])
def test_a_job_that_is_rejected_is_not_there_whatever_key_is_of_another_type(
    backend: Backend, client: Redis, delay: float
) -> None:
    backend.send([job("first", delay=delay)])
    for key, kind in types_of(client).items():
        for other in FOREIGN.keys() - {kind}:
            client.flushall()
            FOREIGN[other](client, key.decode())
            before = dump(client)
            error = caught(lambda: backend.send([job("second", delay=delay), job("third", delay=delay)]))
            if isinstance(error, EnqueueError):
                assert (error.rejected, error.in_doubt) == (("second", "third"), ()), (key, other, str(error))
                assert dump(client) == before, (key, other)


def test_nothing_vanishes_whatever_key_of_ours_is_of_another_type(backend: Backend, client: Redis) -> None:
    """A worker's step fails as a whole, or goes past it: once the key is mended, all jobs come."""
    ids = {"one", "two", "soon"}

    def fill() -> dict[bytes, str]:
        found: dict[bytes, str] = {}
        while not any(b"scheduled" in key for key in found):  # on a slow machine soon is over before it is sent
            client.flushall()
            backend.send([job("one"), job("two", queue="other"), job("soon", delay=0.001)])
            found = types_of(client)
        return found

    for key, kind in fill().items():
        for other in FOREIGN.keys() - {kind}:
            fill()
            kept = client.dump(key) or b""
            client.delete(key)
            FOREIGN[other](client, key.decode())
            seen = set[str]()
            steps = (promote(backend), lambda seen=seen: seen.update(take(backend, "w")), backend.messages.sweep)
            for step in (*steps, backend.inspector.count):
                assert "WRONGTYPE" in str(caught(step) or "WRONGTYPE"), (key, other)
            client.restore(key, 0, kept, replace=True)
            promote(backend)()
            seen |= set(take(backend, "w")) | {
                each.id for each in backend.inspector.scan(JobFilter()).jobs
            }  # one may be postponed
            assert seen >= ids - {"two" if b"other" in key else "", "soon" if b"scheduled" in key else ""}, (key, other)


def promote(backend: Backend) -> Callable[[], object]:
    return backend.messages.promote if isinstance(backend, RQBackend) else backend.messages.scheduled.promote


def promote_all(backend: Backend) -> None:
    while promote(backend)() == 0.0:
        pass


def test_what_no_one_can_schedule_is_parked(backend: Backend, client: Redis) -> None:
    if isinstance(backend, RQBackend):  # keeps an id only; one without a job comes to a worker, who parks it
        ids = {"": 1.0, "nobody": 2.0, "first of all": -math.inf}
        client.zadd(RQ_SCHEDULED, ids)
        backend.send([job("soon", delay=0.05)])
        backend.inspector.scan(JobFilter())
        backend.inspector.count()
        wait_until(lambda: promote(backend)() is None, what="all to be due")
        assert set(take(backend, "w")) == {*ids, "soon"}
        return
    root = backend.messages.names.root
    payloads = {b"none": None, b"empty": b"", b"no line": b"default.normal x", b"\xff\xfe": b"\xff", b"": b"?"}
    client.zadd(f"{root}:scheduled", {member: number for number, member in enumerate(payloads)})
    client.zadd(f"{root}:scheduled", {b"first of all": "-inf", b"\xfflast of all": "+inf"})
    for member, payload in payloads.items():
        if payload is not None:
            client.hset(f"{root}:scheduled:messages", member, payload)
    backend.send([job("soon", delay=0.05)])
    backend.inspector.scan(JobFilter())
    backend.inspector.count()
    promote_all(backend)
    parked = backend.inspector.scan(JobFilter(states=frozenset({JobState.ABANDONED}))).jobs
    assert sorted(each.raw for each in parked) == sorted(
        [b"none", b"empty", b"default.normal x", b"\xff", b"?", b"first of all"]
    )
    assert all(each.failure and "can't be sent to a queue" in each.failure.message for each in parked)


def test_many_of_them_hold_up_nobody(backend: Backend, client: Redis) -> None:
    key = RQ_SCHEDULED if isinstance(backend, RQBackend) else f"{backend.messages.names.root}:scheduled"
    client.zadd(key, {f"garbage{number}": 1 for number in range(1000)})
    backend.send([job("soon", delay=0.001)])
    promote_all(backend)
    assert take(backend, "w")[-1] == "soon"


def test_a_name_that_is_none_of_a_queue_is_told_once_and_left(
    backend: Backend, client: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    key = "anyjob:queues" if isinstance(backend, RQBackend) else backend.messages.names.queues
    client.sadd(key, b"\xff\xfe", b"", b"Not a Name", b"good")
    backend.send([job("one")])
    with caplog.at_level(logging.WARNING):
        assert [list(backend.messages.known_queues()) for _ in range(2)] == [["default", "good"]] * 2
    assert caplog.text.count("is no queue's name") == 3
    backend.inspector.scan(JobFilter())
    assert backend.inspector.count()[JobState.WAITING] == 1
    assert take(backend, "w") == ["one"]


def test_garbage_that_a_dead_worker_holds_comes_to_whoever_parks_it(backend: Backend, client: Redis) -> None:
    root = "anyjob" if isinstance(backend, RQBackend) else backend.messages.names.root
    entries = [b"", b"\xff\xfe", b"run", b"scheduled default.normal nan 1 x", b"odd a b c d"]
    for number, entry in enumerate(entries):
        if isinstance(backend, RQBackend):
            client.rpush(f"{root}:held:dead", entry)
        else:
            client.rpush(f"{root}:held:dead", number)
            client.hset(f"{root}:held:dead.msgs", number, entry)
    client.sadd(f"{root}:holders", "dead", b"\xff")
    backend.send([job("one")])
    backend.inspector.count()
    backend.inspector.scan(JobFilter())
    backend.messages.sweep()
    assert len(take(backend, "w")) == len(entries) + 1
    assert not client.exists(f"{root}:held:dead")


def test_a_failure_that_cant_be_read_hides_no_parked_job(client: Redis, backend: Backend) -> None:
    abandoned = JobFilter(states=frozenset({JobState.ABANDONED}))
    outcome = make_failure()
    ids = [backend.inspector.park(raw, outcome) for raw in (b"a", b"b", b"c")]
    key = next(key for key in client.scan_iter() if key.endswith(b":parked:failures"))
    client.hset(key.decode(), mapping={ids[0]: b"\xff", ids[1]: b'{"no": "failure"}'})
    client.zadd(key.decode().replace(":failures", ":ids"), {b"\xffnobody": 0, b"": 0})
    found = {each.raw: each.failure for each in backend.inspector.scan(abandoned).jobs}
    assert set(found) == {b"a", b"b", b"c"}
    told = found[b"a"]
    assert told is not None
    assert "can't be read" in told.message
    with backend.inspector.hold_some(abandoned, limit=10) as taken:
        assert [each.acknowledge() for each in taken] == [True] * 3
