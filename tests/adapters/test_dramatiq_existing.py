"""A Dramatiq broker of the application's own: our jobs run beside its actors, and nothing of theirs is changed."""

from __future__ import annotations

import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dramatiq import Message
from msgspec.structs import replace
from rabbit import amqp_url, connect
from redis import Redis
from servers import redis_url

from anyjob.base.envelope import JobPriority, write_envelope
from anyjob.base.errors import ConfigurationError
from anyjob.run.stopping import HANDED_BACK
from anyjob.seams.backend import BackendConfig
from anyjob.seams.capabilities import Quality
from anyjob.seams.stored import JobFilter, JobState
from anyjob.settings.loader import load_backend
from anyjob.testing.conformance import ServerWorld
from anyjob.testing.probes.jobs import NAME, FailingOnce, Fatal
from anyjob.testing.probes.journal import wait_until
from anyjob_dramatiq.existing import ExistingDramatiqBackend

pytestmark = pytest.mark.timeout(90)

APPLICATION = """
import dramatiq
{setup}
dramatiq.set_broker(broker)

@dramatiq.actor
def own(path):
    open(path, "w").close()
"""
SETUP = {
    "redis": """
from dramatiq.brokers.redis import RedisBroker
broker = RedisBroker(url={url!r}, namespace={namespace!r}, maintenance_chance=1_000_000, heartbeat_timeout=5_000)
""",
    "amqp": """
from dramatiq.brokers.rabbitmq import RabbitmqBroker
broker = RabbitmqBroker(url={url!r}, confirm_delivery=True, max_priority=4)
""",
}


@pytest.fixture(params=["redis", "amqp"])
def shop(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Any, str]]:
    """A world on an application's own broker, with queues of a name of their own, and the module's name."""
    kind, namespace = request.param, f"own{secrets.token_hex(4)}"
    url = redis_url() if kind == "redis" else amqp_url()
    module = APPLICATION.format(setup=SETUP[kind].format(url=url, namespace=namespace))
    (tmp_path / f"{namespace}.py").write_text(module)
    monkeypatch.syspath_prepend(tmp_path)
    backends = {
        "main": {"url": f"dramatiq://?broker={namespace}:broker", "queues": [namespace], "options": {"delay": "native"}}
    }
    with _ExistingWorld(f"{kind}+{url}", tmp_path, {"backends": backends}) as world:
        yield world, namespace
        broker: Any = world.manager.backend().broker  # type: ignore[attr-defined]
        broker.close()


class _ExistingWorld(ServerWorld):
    def put(self, raw: bytes, *, queue: str = "default") -> None:
        raise NotImplementedError

    def put_hostile(self, path: Path) -> int:
        raise NotImplementedError

    @property
    def queue(self) -> str:
        backend: Any = self.manager.backend()
        return str(backend.config.queues[0])

    def clear(self) -> None:
        url = self.url.partition("+")[2]
        if url.startswith("redis"):
            with Redis.from_url(url) as client:
                for pattern in (f"{self.queue}:*", f"{self.namespace}:*"):
                    for key in client.scan_iter(pattern, 1000):
                        client.delete(key)
            return
        with connect(url) as connection, connection.channel() as channel:
            for queue in (self.queue, f"{self.queue}.DQ", f"{self.queue}.XQ", f"{self.namespace}.dramatiq:parked"):
                channel.queue_delete(queue)


def test_a_broker_of_the_applications_own(shop: tuple[_ExistingWorld, str], tmp_path: Path) -> None:
    world, queue = shop
    backend = world.manager.backend()
    assert isinstance(backend, ExistingDramatiqBackend)
    worker = world.start_worker(stop_timeout=0.1)
    world.enqueue("a", queue=queue)
    world.enqueue("high", queue=queue, priority=JobPriority.HIGH)
    world.enqueue("later", queue=queue, delay=1)
    world.manager.enqueue_many([world.probe("many") for _ in range(3)], queue=queue)
    world.journal.wait(6)
    assert backend.risks
    hostile = {"on_success": "own", "pipe_target": {"queue_name": queue, "actor_name": "own"}}
    _send_raw(world, queue, tmp_path / "touched", hostile)
    (faulty,) = world.wait_parked()
    assert faulty.failure is not None
    assert "is none that a job of ours has" in faulty.failure.message
    assert world.manager.inspect().discard(faulty.id)
    world.manager.enqueue(FailingOnce(str(world.journal.path), "fails"), queue=queue)
    (parked,) = world.wait_parked()
    assert world.manager.inspect().retry(parked.id)
    world.journal.wait(2, "begin", "fails")
    (again,) = world.wait_parked()
    assert world.manager.inspect().discard(again.id)
    assert world.manager.inspect().count() == {JobState.ABANDONED: 0}
    assert not (tmp_path / "touched").exists()
    log = "".join(each.read_text() for each in world.folder.glob("worker-*.log"))
    assert f"Failed to process message {NAME}.failing-once(<job {parked.id}>)" in log
    assert "ConformanceError: try 1 of fails" in log
    assert str(world.journal.path) not in log  # an argument
    world.manager.enqueue(world.probe("holds", gate=str(world.new_gate())), queue=queue)
    world.journal.wait(1, "begin", "holds")
    assert worker.stop() == HANDED_BACK


def test_a_queue_that_only_a_call_named_is_emptied_by_another_process(shop: tuple[_ExistingWorld, str]) -> None:
    world, module = shop
    queue, job = f"{module}_named", world.manager.prepare(world.probe("a"), queue=module)

    def backend() -> Any:
        return load_backend(
            BackendConfig(
                alias="main",
                url=f"dramatiq://?broker={module}:broker",
                namespace=world.namespace,
                known_queues=lambda: (),
            )
        )

    here, there = backend(), backend()
    here.send([replace(job, queue=queue)])
    queues = here.broker.queues
    queues.clear()  # as another process has it
    with there.inspector.hold(JobFilter(), holder="mover", ahead=5) as taken:
        found = list(taken)
        assert [each.job.id for each in found] == [job.id]
        assert found[0].acknowledge()
    here.close()
    there.close()
    if not world.url.startswith("redis"):
        with connect(world.url.partition("+")[2]) as connection, connection.channel() as channel:
            for each in (queue, f"{queue}.DQ", f"{queue}.XQ", f"{world.namespace}.dramatiq:native:queues"):
                channel.queue_delete(each)


def _send_raw(world: _ExistingWorld, queue: str, path: Path, options: dict[str, Any]) -> None:
    backend: Any = world.manager.backend()
    backend.broker.enqueue(Message(queue, f"{NAME}.probe", (f'"{path}"',), {}, options))


def test_a_job_that_ends_its_process_ends_no_worker(shop: tuple[_ExistingWorld, str]) -> None:
    world, queue = shop
    world.start_worker(max_losses=0)
    world.manager.enqueue(Fatal(str(world.journal.path), "fatal", 0), queue=queue)
    world.wait_parked(timeout=60)
    world.enqueue("x", queue=queue)
    world.journal.wait(1)
    assert world.journal.begun() == ["fatal", "x"]


def test_bad_options_are_refused_for_it(shop: tuple[_ExistingWorld, str]) -> None:
    _, module = shop
    for url, options, told in (
        (f"dramatiq://?broker={module}:broker", {"x": 1}, "settings of its own"),
        (f"dramatiq://?broker={module}:broker", {"delay": "exact"}, "delay: the broker has settings of its own"),
        (f"dramatiq://?broker={module}:own", {}, "no broker"),
        (f"dramatiq://?broker={module}:nothing", {}, "has no 'nothing'"),
        ("dramatiq://?broker=x", {}, "name the broker"),
    ):
        with pytest.raises(ConfigurationError, match=told):
            load_backend(BackendConfig(alias="main", url=url, options=options))


def test_its_delays_are_declared_for_what_they_are_and_never_early(shop: tuple[_ExistingWorld, str]) -> None:
    world, queue = shop
    assert world.can.delay is Quality.APPROXIMATE
    world.start_worker()
    due = {}
    for number in range(5):
        due[f"{number}"] = time.time() + 1 + number / 10
        world.enqueue(f"{number}", queue=queue, delay=1 + number / 10)
    world.journal.wait(5)
    assert all(each.at >= due[each.label] for each in world.journal.entries("begin"))


def test_a_job_that_no_actor_takes_does_not_end_in_the_dead_letter_queue(
    shop: tuple[_ExistingWorld, str], tmp_path: Path
) -> None:
    world, queue = shop
    world.start_worker(defer_unknown=0.0)
    unknown = world.envelope(f"{NAME}.never-heard-of", b'{"x":1}', queue=queue)
    nowhere = world.envelope(f"{NAME}.probe", b"{}", queue=queue)
    world.manager.enqueue_many([unknown])
    backend: Any = world.manager.backend()
    text = write_envelope(nowhere).decode()
    backend.broker.enqueue(Message(queue, "no-such-actor", (text,), {}, {}, message_id=nowhere.id))
    backend.broker.enqueue(Message(queue, "gone", (str(tmp_path),), {}, {}))  # one of theirs stays theirs
    parked = {each.envelope.id: each.failure for each in world.wait_parked(2) if each.envelope and each.failure}
    assert "never-heard-of" in parked[unknown.id].message
    assert "There is no actor 'no-such-actor'" in parked[nowhere.id].message
    assert world.manager.inspect().count() == {JobState.ABANDONED: 2}


def test_what_is_no_text_is_parked_as_it_is(shop: tuple[_ExistingWorld, str]) -> None:
    world, queue = shop
    world.start_worker()
    backend: Any = world.manager.backend()
    for args in ((), (1,), ("\ud800",), ("a", "b")):
        backend.broker.enqueue(Message(queue, f"{NAME}.probe", args, {}, {}))
    world.enqueue("neighbour", queue=queue)
    world.journal.wait(1)
    world.wait_parked(4)


def test_its_own_actors_run_as_ever(shop: tuple[_ExistingWorld, str], tmp_path: Path) -> None:
    world, module = shop
    backend: Any = world.manager.backend()
    actors = dict(backend.broker.actors)
    assert {*actors} == {"own"}
    world.start_worker()
    backend.broker.enqueue(actors["own"].message(str(tmp_path / "ran")).copy(queue_name=module))
    wait_until((tmp_path / "ran").exists, what="their actor to run")


RISKY = """
import dramatiq
from dramatiq.brokers.redis import RedisBroker
broker = RedisBroker(url="redis://localhost:1/0")
"""


def test_what_is_at_risk_is_told_by_the_doctor(tmp_path: Path) -> None:
    (tmp_path / "risky.py").write_text(RISKY)
    (tmp_path / "anyjob.toml").write_text('[backends.main]\nurl = "dramatiq://?broker=risky:broker"')
    argv = [sys.executable, "-m", "anyjob", "doctor"]
    done = subprocess.run(argv, capture_output=True, text=True, cwd=tmp_path, check=False, timeout=30)
    assert done.returncode == 4, done.stderr
    for setting in ("maintenance_chance", "RedisBroker", "actors"):
        assert setting in done.stdout
