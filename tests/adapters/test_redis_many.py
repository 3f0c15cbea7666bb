"""Many at once: the server answers others meanwhile, and all come back, in their order."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any, Final

import pytest

pytest.importorskip("celery")
pytest.importorskip("dramatiq")
pytest.importorskip("rq")

from envelopes import make_envelope
from redis import Redis
from servers import PrivateRedis

from anyjob import SystemClock
from anyjob.base.envelope import JobEnvelope
from anyjob.base.errors import EnqueueError
from anyjob.seams.backend import BackendConfig
from anyjob.seams.stored import JobState
from anyjob.testing.probes.journal import wait_until
from anyjob_celery import RedisCeleryBackend
from anyjob_dramatiq.redis_backend import DramatiqRedisBackend
from anyjob_redis import Presence
from anyjob_rq import RQBackend
from anyjob_rq.messages import Place

pytestmark = pytest.mark.timeout(90)

MANY: Final = 10_000
SLICE: Final = 500
"""Jobs at most that one call of a script moves."""

Backend = RQBackend | DramatiqRedisBackend
MAKERS: dict[str, Callable[[BackendConfig], Backend]] = {"rq": RQBackend, "dramatiq": DramatiqRedisBackend}


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


def scripts_run(client: Redis) -> int:
    """Return how many scripts were run since the statistics were reset."""
    stats: Any = client.info("commandstats")
    return sum(stats.get(f"cmdstat_{name}", {}).get("calls", 0) for name in ("eval", "evalsha"))


@pytest.fixture(params=MAKERS)
def backend(request: pytest.FixtureRequest, server: PrivateRedis, client: Redis) -> Iterator[Backend]:
    made = MAKERS[request.param](BackendConfig(alias="main", url=f"{request.param}+{server.url}"))
    yield made
    made.close()


def jobs(count: int, *, delay: float = 0.0) -> list[JobEnvelope]:
    now = SystemClock().now()
    later = timedelta(seconds=delay) if delay else None
    return [make_envelope(now, f"j{number:06}", delay=later) for number in range(count)]


def hold_all(backend: Backend, client: Redis, envelopes: list[JobEnvelope]) -> None:
    """Have all taken by one who is then dead."""
    if isinstance(backend, RQBackend):
        queue = "anyjob:default:normal"
        places = [Place("waiting", queue, f"anyjob-J-{each.id}") for each in envelopes]
        for first in range(0, len(places), 500):
            backend.messages.take_off("dead", 60, places[first : first + 500])
        client.delete("anyjob:alive:dead")
        return
    presence = Presence(client, backend.messages.names.root, "dead", 60)
    presence.beat()
    known: list[str] = []
    while len(known) < len(envelopes):
        known += [each.entry for each in backend.messages.take("dead", ["default"], 2_000, 0, known)]
    presence.leave()


def test_what_a_dead_worker_held_comes_back_in_slices_and_in_order(backend: Backend, client: Redis) -> None:
    envelopes = jobs(MANY)
    backend.send(envelopes)
    hold_all(backend, client, envelopes)
    client.config_resetstat()
    assert len(backend.messages.sweep()) == MANY
    assert scripts_run(client) >= MANY / SLICE
    assert backend.inspector.count()[JobState.WAITING] == MANY
    prefix = "rq:queue:anyjob:default:normal" if isinstance(backend, RQBackend) else "anyjob:dramatiq:default.normal"
    found: list[Any] = client.lrange(prefix, 0, -1)
    ids = [each.decode().removeprefix("anyjob-J-") for each in found]
    assert ids == [each.id for each in envelopes]


def test_what_is_due_at_once_is_promoted_in_slices_and_without_a_pause(backend: Backend, client: Redis) -> None:
    backend.send(jobs(MANY, delay=2))
    until = SystemClock().now() + timedelta(seconds=2)
    promote = backend.messages.promote if isinstance(backend, RQBackend) else backend.messages.scheduled.promote
    wait_until(lambda: SystemClock().now() >= until, what="all to be due")
    calls = 1
    while promote() == 0.0:
        calls += 1
    assert calls >= MANY / SLICE
    assert backend.inspector.count() == {JobState.WAITING: MANY, JobState.SCHEDULED: 0, JobState.RUNNING: 0} | {
        JobState.ABANDONED: 0
    }


def test_three_hundred_threads_send_at_once(backend: Backend) -> None:
    ready = threading.Barrier(300)

    def send(envelope: JobEnvelope) -> None:
        ready.wait(30)
        backend.send([envelope])

    with ThreadPoolExecutor(300) as pool:
        list(pool.map(send, jobs(300)))
    assert backend.inspector.count()[JobState.WAITING] == 300


@pytest.mark.parametrize("kind", [*MAKERS, "celery"])
def test_who_waits_for_a_connection_waits_no_longer_than_the_call_may_take(
    request: pytest.FixtureRequest, server: PrivateRedis, kind: str
) -> None:
    options: dict[str, Any] = {"max_connections": 2}
    if kind == "celery":
        options = {"broker_transport_options": options}
    make = {**MAKERS, "celery": RedisCeleryBackend}[kind]
    backend = make(BackendConfig(alias="main", url=f"{kind}+{server.url}", enqueue_timeout=1.0, options=options))
    request.addfinalizer(backend.close)
    took: list[float] = []

    def send(envelope: JobEnvelope) -> EnqueueError | None:
        begun = time.monotonic()
        try:
            backend.send([envelope])
        except EnqueueError as error:
            return error
        finally:
            took.append(time.monotonic() - begun)
        return None

    with server.paused(), ThreadPoolExecutor(10) as pool:
        errors = list(pool.map(send, jobs(10)))
    assert all(error is not None for error in errors)
    assert max(took) < 1.5
