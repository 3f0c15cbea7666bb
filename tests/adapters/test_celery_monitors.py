"""Celery's monitors, answer by answer and page by page, while jobs wait, run, fail and are tried again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, Final

import pytest
from celery_jobs import FailsFirst
from celery_worlds import CeleryRedisHarness, celery_amqp_harness
from servers import PrivateRedis, free_port

from anyjob.run.executor import JobExecutor
from anyjob.testing.conformance import ServerHarness, ServerWorld
from anyjob.testing.conformance.processes import QUEUES
from anyjob.testing.probes.jobs import FailingOnce, Later
from anyjob.testing.probes.journal import wait_until
from anyjob_celery import OwnCeleryBackend

pytestmark = pytest.mark.timeout(120)

NAME: Final = "anyjob-conformance"
SECRET: Final = "secret-argument"


@pytest.fixture(params=["redis", "amqp"])
def harness(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ServerHarness]:
    made: ServerHarness
    made = CeleryRedisHarness(PrivateRedis(tmp_path)) if request.param == "redis" else celery_amqp_harness()
    yield made
    made.close()


@pytest.fixture
def world(harness: ServerHarness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ServerWorld]:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    backend = {"url": harness.url, "queues": list(QUEUES), "options": {"worker_send_task_events": True}}
    with harness.open(tmp_path, backends={"main": backend}) as world:
        yield world


def test_celerys_commands_and_flowers_pages(world: ServerWorld) -> None:
    world.start_worker(imports=("anyjob.testing.probes.jobs", "celery_jobs"))
    with flower(world) as open_page:
        wait_until(
            lambda: json.loads(open_page("/workers?json=1"))["data"], timeout=40, what="Flower to hear the worker"
        )
        gate = world.new_gate()
        runs = world.manager.enqueue(world.probe(SECRET, gate=str(gate)))
        world.journal.wait(1, "begin")
        fails = world.manager.enqueue(FailingOnce(str(world.journal.path), SECRET))
        retries = world.manager.enqueue(Later(str(world.journal.path), SECRET, 3600.0))
        mends = world.manager.enqueue(FailsFirst(str(world.journal.path), f"{SECRET}-mends", 1))

        worker = assert_commands_answer(world, runs)
        pages = assert_pages_open(open_page, worker, runs)
        assert f"{NAME}.probe" in pages["/api/task/types"]
        assert SECRET not in "".join(pages.values())
        assert json.loads(pages[f"/api/task/info/{runs}"])["state"] == "STARTED"
        if "redis" in world.url:
            queues = json.loads(pages["/api/queues/length"])["active_queues"]
            assert {each["name"]: each["messages"] for each in queues}["default"] == 3

        gate.touch()
        info = Info(open_page)
        succeeded = info.wait(runs, "SUCCESS")
        assert (succeeded["name"], succeeded["retries"], succeeded["worker"]) == (f"{NAME}.probe", 0, worker)
        failed = info.wait(fails, "FAILURE")
        assert (failed["name"], failed["exception"]) == (
            f"{NAME}.failing-once",
            f"ConformanceError('try 1 of {SECRET}')",
        )
        assert "in execute" in failed["traceback"]
        retried = info.wait(retries, "RETRY")
        assert (retried["name"], retried["exception"]) == (
            f"{NAME}.later",
            "RetryLater('the job asked to be retried later')",
        )
        mended = info.wait(mends, "SUCCESS")
        assert (mended["name"], mended["retries"]) == ("celery-tests.fails-first", 1)
        for job_id in (runs, retries, mends):
            open_page(f"/task/{job_id}")
        assert "ConformanceError" in assert_pages_open(open_page, worker, fails)[f"/task/{fails}"]
        assert_commands_answer(world, None)


def assert_commands_answer(world: ServerWorld, running: str | None) -> str:
    """Ask the worker all that `celery inspect` asks, and by two of Celery's own commands; return its name."""
    backend = world.manager.backend()
    assert isinstance(backend, OwnCeleryBackend)
    app = backend.application(JobExecutor(world.manager.registry), stop_timeout=1.0)
    ((worker, _),) = app.control.inspect(timeout=2, limit=1).ping().items()
    inspect = app.control.inspect([worker], timeout=20)
    told = {method: getattr(inspect, method)()[worker] for method in _METHODS}
    assert [each["id"] for each in told["active"]] == ([] if running is None else [running])
    assert {f"{NAME}.probe", "anyjob.run"} <= {*told["registered"]}
    assert told["conf"]["task_acks_late"] is True
    if running is None:
        names = {f"{NAME}.probe": 1, f"{NAME}.failing-once": 1, f"{NAME}.later": 1, "celery-tests.fails-first": 2}
        assert told["stats"]["total"] == names
        assert f"{worker}: OK" in celery(world, "status")
    else:
        assert '"transport_options"' in celery(world, "inspect", "stats", "-d", worker)
    assert SECRET not in json.dumps(told)
    return str(worker)


_METHODS: Final = (
    "ping", "stats", "active", "reserved", "scheduled", "registered", "conf", "report", "active_queues", "revoked"
)  # fmt: skip


def assert_pages_open(open_page: Callable[[str], str], worker: str, job_id: str) -> Mapping[str, str]:
    """Open every page of Flower's; return what they say."""
    paths = ["/", "/workers", f"/worker/{worker}", "/tasks", f"/task/{job_id}", "/broker", "/healthcheck", "/metrics"]
    paths += ["/api/workers?refresh=1", "/api/tasks", "/api/task/types", f"/api/task/info/{job_id}"]
    pages = {path: open_page(path) for path in paths}
    if "redis://" in pages["/broker"]:  # RabbitMQ is asked by its management API
        pages["/api/queues/length"] = open_page("/api/queues/length")
    return pages


class Info:
    """What Flower knows of a job, once it is in a state."""

    def __init__(self, open_page: Callable[[str], str]) -> None:
        self._open_page = open_page

    def wait(self, job_id: str, state: str) -> Mapping[str, Any]:
        known: dict[str, Any] = {}

        def is_there() -> bool:
            known.update(json.loads(self._open_page("/api/tasks")).get(job_id, {}))
            return known.get("state") == state

        wait_until(is_there, timeout=40, what=lambda: f"{state}, not {known}")
        return known


def celery(world: ServerWorld, *command: str) -> str:
    """Run one of Celery's own commands on a world's application; return what it prints."""
    argv = [sys.executable, "-m", "celery", "-A", "anyjob_celery.app", *command]
    done = subprocess.run(
        argv, env=environment_of(world), cwd=world.folder, capture_output=True, text=True, check=False, timeout=40
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@contextmanager
def flower(world: ServerWorld) -> Iterator[Callable[[str], str]]:
    """Run Flower; lend what opens one of its pages, which fails if that isn't there."""
    port = free_port()
    argv = [
        sys.executable,
        "-m",
        "celery",
        "-A",
        "anyjob_celery.app",
        "flower",
        "--address=127.0.0.1",
        f"--port={port}",
    ]
    log = world.folder / "flower.log"
    environment = {**environment_of(world), "FLOWER_UNAUTHENTICATED_API": "true"}
    with log.open("wb") as out:
        process = subprocess.Popen(argv, env=environment, cwd=world.folder, stdout=out, stderr=out)

    def answer(path: str) -> tuple[int, str]:
        connection = HTTPConnection("127.0.0.1", port, timeout=20)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()

    def open_page(path: str) -> str:
        status, body = answer(path)
        assert status == 200, (path, status, log.read_text()[-3000:])
        return body

    def is_up() -> bool:
        try:
            return answer("/healthcheck")[0] == 200
        except OSError:
            return False

    try:
        wait_until(is_up, timeout=40, what=lambda: f"Flower: {log.read_text()}")
        yield open_page
    finally:
        process.kill()
        process.wait()


def environment_of(world: ServerWorld) -> Mapping[str, str]:
    return {**os.environ, "ANYJOB_CONFIG": str(next(world.folder.glob("anyjob-*.toml")))}
