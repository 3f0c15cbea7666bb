"""Celery's worker running our jobs, on both transports: what the kit doesn't ask of every backend."""

from __future__ import annotations

import fcntl
import os
import signal
import sys
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import pytest
from celery.result import AsyncResult
from celery_jobs import FailsFirst
from celery_worlds import CeleryRedisHarness, celery_amqp_harness
from rabbit import connect
from redis import Redis
from servers import PrivateRedis, redis_url

from anyjob.run.executor import JobExecutor
from anyjob.run.stopping import HANDED_BACK
from anyjob.testing.conformance import ServerHarness, ServerWorld
from anyjob.testing.probes.jobs import AsyncProbe, FailingOnce, Later
from anyjob.testing.probes.journal import wait_until
from anyjob_celery import OwnCeleryBackend

pytestmark = pytest.mark.timeout(90)

Open = Callable[..., ServerWorld]


@pytest.fixture(scope="module", params=["redis", "amqp"])
def harness(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerHarness]:
    made: ServerHarness
    if request.param == "redis":
        made = CeleryRedisHarness(PrivateRedis(tmp_path_factory.mktemp("redis")))
    else:
        made = celery_amqp_harness()
    yield made
    made.close()


@pytest.fixture
def open_world(harness: ServerHarness, tmp_path: Path) -> Iterator[Open]:
    with ExitStack() as stack:

        def open_(options: dict[str, Any] | None = None, **settings: Any) -> ServerWorld:
            world = harness.open(tmp_path, backends={"main": backend_of(options or {})}, **settings)
            stack.callback(world.close)
            return world

        def backend_of(options: dict[str, Any]) -> dict[str, Any]:
            return {"url": harness.url, "queues": ["default", "a", "b"], "options": options}

        yield open_


def test_an_envelope_reaches_the_core_to_the_byte(open_world: Open) -> None:
    world = open_world()
    raws = [
        b'{"v":2,  "x":1.0e5,"__type__":"uuid","__value__":"no uuid"}',
        b'{"v":2,"y":[123456789012345678901234567890, 1e400, "\\u00e9"] }',
    ]
    for raw in raws:
        world.put(raw)
    world.start_worker()
    assert {job.raw for job in world.wait_parked(2)} == {*raws}


@pytest.mark.parametrize("pool", ["threads", "solo"])
def test_the_other_pools(open_world: Open, pool: str) -> None:
    world = open_world({"pool": pool})
    worker = world.start_worker(concurrency=1 if pool == "solo" else 2)
    world.enqueue("sync")
    world.manager.enqueue(AsyncProbe(str(world.journal.path), "async"))
    world.enqueue("later", delay=0.5)
    world.journal.wait(3)
    world.manager.enqueue(world.probe("heeds", gate=str(world.new_gate()), heeds_stop=True))
    world.journal.wait(1, "begin", "heeds")
    assert worker.stop() == 0
    assert [each.label for each in world.journal.entries("end")][-1] == "heeds"
    assert {each.lost_count for each in world.journal.entries()} == {0}


def test_the_exit_code_tells_what_ctrl_c_did(open_world: Open) -> None:
    world = open_world()
    worker = world.start_worker()
    world.manager.enqueue(world.probe("heeds", gate=str(world.new_gate()), heeds_stop=True))
    world.journal.wait(1, "begin")
    worker.process.send_signal(signal.SIGINT)
    worker.wait()
    assert worker.exit_code == 0

    worker = world.start_worker()
    world.manager.enqueue(world.probe("holds", gate=str(world.new_gate())))
    world.journal.wait(1, "begin", "holds")
    worker.process.send_signal(signal.SIGINT)
    wait_until(lambda: "Warm shutdown" in worker.log.read_text(), what="the first to be heard")
    worker.process.send_signal(signal.SIGINT)
    worker.wait()
    assert worker.exit_code == HANDED_BACK


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="sees in /proc what a child has not read")
def test_a_stop_waits_for_what_was_given_to_a_child(open_world: Open) -> None:
    world = open_world(stop_timeout=20)
    worker = world.start_worker()
    world.manager.enqueue(FailingOnce(str(world.journal.path), "first"))
    (first,) = world.journal.wait(1, "begin")
    world.wait_parked()  # the child has said all that it has to say of the first
    os.kill(first.pid, signal.SIGSTOP)  # busy elsewhere: it doesn't say that it begins
    world.enqueue("second")
    wait_until(lambda: any(map(unread, Path(f"/proc/{first.pid}/fd").iterdir())), what="the second to be given to it")
    worker.terminate()
    wait_until(lambda: "Warm shutdown" in worker.log.read_text(), what="the stop")
    os.kill(first.pid, signal.SIGCONT)
    worker.wait(timeout=10)
    assert world.journal.begun() == ["first", "second"]
    wait_until(lambda: sum(world.manager.inspect().count().values()) == 1, what="only what is parked to be left")


def unread(descriptor: Path) -> int:
    """Return how many bytes wait in a pipe of another process; 0 if it is no pipe."""
    if not str(descriptor.readlink()).startswith("pipe:"):
        return 0
    pipe = os.open(descriptor, os.O_RDONLY | os.O_NONBLOCK)
    try:
        return int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)), sys.byteorder)
    finally:
        os.close(pipe)


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo"])
def test_a_job_that_outlasts_the_stop_goes_back(open_world: Open, pool: str) -> None:
    world = open_world({"pool": pool}, stop_timeout=0.3)
    worker = world.start_worker()
    gate = world.new_gate()
    job_id = world.manager.enqueue(world.probe("a", gate=str(gate)))
    world.journal.wait(1, "begin")
    assert worker.stop() == HANDED_BACK
    assert f"released id={job_id} " in worker.said()
    gate.touch()
    world.start_worker()
    world.journal.wait(2, "begin")
    again = world.journal.entries("begin")[-1]
    # RabbitMQ marks whatever comes back; on Redis we do, and only what was lost.
    assert again.lost_count == (0 if isinstance(world.manager.backend(), OwnCeleryBackend) and on_redis(world) else 1)


def test_a_stop_in_no_time_releases_nothing_if_nothing_runs(open_world: Open) -> None:
    worker = open_world(stop_timeout=0.01).start_worker()  # less than Celery needs to end
    wait_until(lambda: " ready." in worker.log.read_text(), what="the worker")
    assert worker.stop() == 0
    assert "released" not in worker.said()


def on_redis(world: ServerWorld) -> bool:
    return "redis" in world.url


def test_how_a_job_ended_is_shown_in_celerys_own_state_until_it_succeeds(
    open_world: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    world = open_world({"result_backend": redis_url()})
    world.start_worker(imports=("anyjob.testing.probes.jobs", "celery_jobs"))
    fails, mends, parked = (
        world.manager.enqueue(FailsFirst(str(world.journal.path), label, number))
        for label, number in {"fails": 9, "mends": 1, "parked": 2}.items()
    )
    waits = world.manager.enqueue(Later(str(world.journal.path), "waits", 3600.0))
    done = world.enqueue("fine")[0]
    (again,) = (job.id for job in world.wait_parked(2) if job.envelope is not None and job.envelope.id == parked)
    world.journal.wait(1, "end", "mends")
    world.journal.wait(1, "end", "fine")
    backend = world.manager.backend()
    assert isinstance(backend, OwnCeleryBackend)
    app = backend.application(JobExecutor(world.manager.registry), stop_timeout=1.0)

    def states() -> list[str]:
        return [AsyncResult(each, app=app).state for each in (fails, waits, parked, mends, done)]

    try:
        wait_until(lambda: states() == ["FAILURE", "RETRY", "FAILURE", "PENDING", "PENDING"], what=states)
        assert repr(AsyncResult(fails, app=app).result) == "LookupError('no fails')"
        assert world.manager.inspect().retry(again)
        world.journal.wait(1, "end", "parked")
        wait_until(lambda: states() == ["FAILURE", "RETRY", "PENDING", "PENDING", "PENDING"], what=states)
    finally:
        for each in (fails, waits, parked):
            AsyncResult(each, app=app).forget()


def test_celerys_countdown_as_an_option(open_world: Open) -> None:
    world = open_world({"delay": "native"})
    world.start_worker()
    world.enqueue("warm")
    world.journal.wait(1)
    due = time.time() + 1.5
    world.enqueue("later", delay=1.5)
    world.enqueue("now")
    world.journal.wait(3)
    assert world.journal.begun() == ["warm", "now", "later"]
    assert 0 <= world.journal.entries("begin", "later")[0].at - due <= 2


APPLICATION: Final = """
from celery import Celery
from kombu import Queue

app = Celery("shop", broker={broker!r})
app.conf.update(
    task_queues=[Queue({queue!r}, queue_arguments={arguments!r})],
    task_default_queue={queue!r},
    broker_connection_retry_on_startup=True,
    worker_prefetch_multiplier=1,
    broker_transport_options={options!r},
    control_exchange={queue!r},
)

@app.task
def own(path):
    open(path, "w").close()
"""


def test_an_application_of_the_users_own(
    harness: ServerHarness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    namespace = f"own{os.getpid()}"
    broker, module = harness.url.partition("+")[2], f"shop_{harness.url.partition('+')[2].partition(':')[0]}"
    redis = broker.startswith("redis")
    options = {"priority_steps": [0, 1, 2, 3, 4], "global_keyprefix": namespace} if redis else {"confirm_publish": True}
    arguments = None if redis else {"x-max-priority": 4}
    program = APPLICATION.format(broker=broker, queue=namespace, arguments=arguments, options=options)
    (tmp_path / f"{module}.py").write_text(program)
    monkeypatch.syspath_prepend(tmp_path)
    try:
        with harness.open(tmp_path, backends={"main": f"celery://?app={module}:app"}) as world:
            world.start_worker()
            world.enqueue("a")
            world.enqueue("later", delay=1)
            world.manager.enqueue_many([world.probe("many") for _ in range(3)])
            world.journal.wait(5)
            backend: Any = world.manager.backend()
            backend.app.send_task(f"{module}.own", args=[str(tmp_path / "theirs")])
            wait_until((tmp_path / "theirs").exists, what="the application's own task to run")
            world.manager.enqueue(FailingOnce(str(world.journal.path), "fails"))
            (parked,) = world.wait_parked()
            assert world.manager.inspect().retry(parked.id)
            world.journal.wait(2, "begin", "fails")
            (again,) = world.wait_parked()
            assert world.manager.inspect().discard(again.id)
            assert world.manager.inspect().count() == {"abandoned": 0}
            backend.app.pool.force_close_all()
    finally:
        if redis:
            with Redis.from_url(broker) as client:
                for key in client.scan_iter(f"{namespace}*"):
                    client.delete(key)
        else:
            with connect(broker) as connection, connection.channel() as channel:
                channel.queue_delete(namespace)
                for exchange in (namespace, f"{namespace}.pidbox", f"reply.{namespace}.pidbox"):
                    channel.exchange_delete(exchange)
