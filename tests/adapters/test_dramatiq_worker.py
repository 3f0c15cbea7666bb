"""Dramatiq's worker running our jobs: what the kit doesn't ask of every backend."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dramatiq_worlds import DramatiqRedisHarness, DramatiqRedisWorld, dramatiq_harness
from servers import PrivateRedis

from anyjob.testing.conformance import ServerHarness, ServerWorld
from anyjob.testing.probes.jobs import NAME, FailingOnce
from anyjob.testing.probes.journal import wait_until
from anyjob_dramatiq.messages import Messages
from anyjob_redis import Presence
from anyjob_redis.presence import LapsedError

pytestmark = pytest.mark.timeout(90)


@pytest.fixture(scope="module", params=["redis", "amqp"])
def harness(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerHarness]:
    made = dramatiq_harness(request.param, tmp_path_factory.mktemp("server"))
    yield made
    made.close()


@pytest.fixture
def world(harness: ServerHarness, tmp_path: Path) -> Iterator[Any]:
    with harness.open(tmp_path) as world:
        yield world


MIDDLEWARE = """
from dramatiq import Middleware

class Watching(Middleware):
    def before_enqueue(self, broker, message, delay):
        message.options["trace"] = "t-" + message.message_id

    def after_process_message(self, broker, message, *, result=None, exception=None):
        with open({path!r}, "a") as file:
            file.write(f"{{message.actor_name}} {{message.options.get('trace')}} {{type(exception).__name__}}\\n")
"""


def test_the_applications_middleware_surrounds_each_job(
    harness: ServerHarness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, module = tmp_path / "seen", f"watching{secrets.token_hex(4)}"
    (tmp_path / f"{module}.py").write_text(MIDDLEWARE.format(path=str(seen)))
    monkeypatch.syspath_prepend(tmp_path)
    options = {"middleware": [f"{module}:Watching"]}
    backends = {"main": {"url": harness.url, "queues": ["default", "a", "b"], "options": options}}
    with harness.open(tmp_path, backends=backends) as world:
        (good,) = world.manager.enqueue_many([world.probe("a")])
        bad = world.manager.enqueue(FailingOnce(str(world.journal.path), "b"))
        world.start_worker()
        wait_until(lambda: seen.exists() and len(seen.read_text().splitlines()) == 2, what="both to be seen")
        assert seen.read_text().splitlines() == [
            f"{NAME}.probe t-{good} NoneType",
            f"{NAME}.failing-once t-{bad} ConformanceError",
        ]


SLOW = """
from pathlib import Path
from dramatiq import Middleware
from anyjob.testing.probes.journal import Journal, wait_until

class Slow(Middleware):
    def after_worker_boot(self, broker, worker):
        try:
            wait_until(Journal(Path({journal!r})).begun, timeout=1)
        except AssertionError:
            Path({seen!r}).touch()
"""


def test_no_job_begins_before_the_worker_is_up(
    harness: ServerHarness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else one that ends its process would end all: Dramatiq waits for a worker that starts, and we take it for wrong
    usage.
    """
    seen, module = tmp_path / "seen", f"slow{secrets.token_hex(4)}"
    (tmp_path / f"{module}.py").write_text(SLOW.format(journal=str(tmp_path / "journal"), seen=str(seen)))
    monkeypatch.syspath_prepend(tmp_path)
    options = {"middleware": [f"{module}:Slow"]}
    backends = {"main": {"url": harness.url, "queues": ["default", "a", "b"], "options": options}}
    with harness.open(tmp_path, backends=backends) as world:
        assert world.journal.path == tmp_path / "journal"
        world.enqueue("x")
        world.start_worker()
        world.journal.wait(1)
    assert seen.exists()


HOSTILE = """
import logging
from dramatiq import Middleware
from dramatiq.middleware import SkipMessage

def refuse(record):
    raise RuntimeError("a filter that raises")

class Hostile(Middleware):
    def before_process_message(self, broker, message):
        job = message.args[0]
        if b'"before"' in job.raw:
            raise SystemExit(3)
        if b'"skip"' in job.raw:
            raise SkipMessage("not today")
        if b'"filter"' in job.raw:
            logging.getLogger("dramatiq").addFilter(refuse)
            for name in list(logging.root.manager.loggerDict):
                if name.startswith("dramatiq"):
                    logging.getLogger(name).addFilter(refuse)

    def after_process_message(self, broker, message, *, result=None, exception=None):
        if b'"after"' in message.args[0].raw:
            raise SystemExit(3)
"""


@pytest.mark.parametrize("label", ["before", "skip", "after", "filter"])
def test_no_middleware_or_log_filter_costs_a_thread_or_a_job(
    harness: ServerHarness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, label: str
) -> None:
    module = f"hostile{secrets.token_hex(4)}"
    (tmp_path / f"{module}.py").write_text(HOSTILE)
    monkeypatch.syspath_prepend(tmp_path)
    options = {"middleware": [f"{module}:Hostile"]}
    backends = {"main": {"url": harness.url, "queues": ["default", "a", "b"], "options": options}}
    with harness.open(tmp_path, backends=backends) as world:
        world.start_worker()
        called = label in ("after", "filter")
        args = FailingOnce(str(world.journal.path), label) if label == "filter" else world.probe(label)
        world.manager.enqueue(args)
        world.enqueue("neighbour")
        world.journal.wait(1, "end", "neighbour", timeout=30)
        assert len(world.journal.entries("begin", label)) == called
        if label != "after":
            (parked,) = world.wait_parked()
            assert parked.failure is not None
            told = "ConformanceError" if label == "filter" else "EnvelopeError"
            assert told in parked.failure.error_type


def test_dramatiqs_own_command_does_the_same(world: ServerWorld) -> None:
    environment = {**os.environ, "ANYJOB_CONFIG": str(next(world.folder.glob("anyjob-*.toml")))}
    argv = [sys.executable, "-m", "dramatiq", "anyjob_dramatiq.app", "-p", "2", "-t", "2", "-Q", "default", "a"]
    with (world.folder / "own.log").open("wb") as log:
        worker = subprocess.Popen(argv, env=environment, stdout=log, stderr=log, cwd=world.folder)
    try:
        world.enqueue("left", queue="b")
        gate = world.new_gate()
        world.manager.enqueue_many([world.probe(f"{number}", gate=str(gate)) for number in range(4)])
        world.journal.wait(4, "begin")
        assert len({each.pid for each in world.journal.entries("begin")}) == 2
        gate.touch()
        world.enqueue("other", queue="a")
        world.journal.wait(5)
        assert "left" not in world.journal.begun()
    finally:
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(20) == 0


def test_a_second_signal_gives_back_at_once(world: ServerWorld) -> None:
    worker = world.start_worker(stop_timeout=600.0)
    gate = world.new_gate()
    world.manager.enqueue(world.probe("a", gate=str(gate)))
    world.journal.wait(1, "begin")
    worker.terminate()
    log = next(world.folder.glob("worker-*.log"))
    wait_until(lambda: "stopping timeout=" in log.read_text(), what="the first signal to be heeded")
    worker.terminate()
    worker.wait()
    gate.touch()
    world.start_worker()
    world.journal.wait(2, "begin")
    assert world.journal.entries("begin")[-1].lost_count == 0


def test_a_job_whose_envelope_was_bounced_keeps_its_bytes(world: Any) -> None:
    raw = b'{ "v" : 1, "id":"kept","name":"' + NAME.encode() + b'.never-heard-of","args":{"x":1e400,"y":0.10},'
    raw += b'"queue":"default","priority":15,"created_at":"2026-01-01T00:00:00Z","first_due_at":"2026-01-01T00:00:00Z"}'
    world.put(raw)
    world.start_worker(defer_unknown=0.0)
    (parked,) = world.wait_parked()
    assert parked.raw == raw


def test_the_supervisor_ends_with_a_wrong_command() -> None:
    argv = [sys.executable, "-m", "anyjob_dramatiq", "--no-such-option"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 2
    assert "starts again" not in done.stderr


# Redis alone


@pytest.fixture
def messages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Messages]:
    harness = DramatiqRedisHarness(PrivateRedis(tmp_path_factory.mktemp("redis")))
    with harness.open(tmp_path_factory.mktemp("world")) as world:
        assert isinstance(world, DramatiqRedisWorld)
        backend: Any = world.manager.backend()
        world.enqueue("a", "b", "c")
        yield backend.messages
    harness.close()


def test_what_was_taken_without_an_answer_is_handed_out_again(messages: Messages) -> None:
    presence = Presence(messages.client, messages.names.root, "me", 30.0)
    presence.beat()
    first, second = messages.take("me", ["default"], 2, 0, known=[])
    (again, third) = messages.take("me", ["default"], 2, 0, known=[first.entry])
    assert again == second
    assert {first.data, second.data, third.data} == {each.data for each in (first, again, third)}
    assert not messages.take("me", ["default"], 2, 0, known=[each.entry for each in (first, second, third)])


def test_who_is_not_known_to_live_takes_nothing(messages: Messages) -> None:
    with pytest.raises(LapsedError):
        messages.take("me", ["default"], 1, 0, known=[])
    assert messages.count() == (3, 0, 0)


def test_the_dead_give_back_in_front_and_in_order(messages: Messages) -> None:
    presence = Presence(messages.client, messages.names.root, "me", 30.0)
    presence.beat()
    taken = messages.take("me", ["default"], 2, 0, known=[])
    presence.leave()
    assert len(messages.sweep()) == 2
    Presence(messages.client, messages.names.root, "you", 30.0).beat()
    again = messages.take("you", ["default"], 3, 0, known=[])
    assert [each.data for each in again[:2]] == [each.data for each in taken]
    assert [each.redelivered for each in again] == [True, True, False]
    assert messages.acknowledge("me", [taken[0].entry]) == [False]
