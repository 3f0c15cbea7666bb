"""A try on Celery ends in every way there is: by remote control, by a limit, by what is raised around it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from celery_jobs import Blocks, Raises
from celery_worlds import CeleryRedisHarness, celery_amqp_harness
from servers import PrivateRedis

from anyjob.run.executor import JobExecutor
from anyjob.seams.stored import JobState
from anyjob.testing.conformance import ServerHarness, ServerWorld
from anyjob.testing.conformance.processes import QUEUES
from anyjob.testing.probes.jobs import FailingOnce
from anyjob.testing.probes.journal import wait_until
from anyjob_celery import OwnCeleryBackend

pytestmark = pytest.mark.timeout(90)

TESTS = Path(__file__).parents[1]
IMPORTS = ("anyjob.testing.probes.jobs", "celery_jobs")

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
def open_world(harness: ServerHarness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Open]:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(TESTS), str(tmp_path)]))
    with ExitStack() as stack:

        def open_(**options: Any) -> ServerWorld:
            backend = {"url": harness.url, "queues": list(QUEUES), "options": options}
            world = harness.open(tmp_path, backends={"main": backend})
            stack.callback(world.close)
            return world

        yield open_


def control_of(world: ServerWorld) -> Any:
    backend = world.manager.backend()
    assert isinstance(backend, OwnCeleryBackend)
    return backend.application(JobExecutor(world.manager.registry), stop_timeout=1.0).control


def assert_parked(world: ServerWorld, told: str, error: str) -> None:
    """See the one job parked for a reason that was told, and the worker at work."""
    (parked,) = world.wait_parked(timeout=40)
    assert parked.failure is not None
    assert told in parked.failure.message
    assert error in parked.failure.error_type
    world.enqueue("sentinel")
    world.journal.wait(1, "end", "sentinel")
    assert len(world.wait_parked()) == 1


def test_a_terminated_job_is_parked(open_world: Open) -> None:
    world = open_world()
    world.start_worker()
    job_id = world.manager.enqueue(world.probe("running", gate=str(world.new_gate())))
    world.journal.wait(1, "begin")
    control_of(world).terminate(job_id)
    assert_parked(world, "terminated by Celery's remote control", "GiveUp")
    assert world.journal.begun() == ["running", "sentinel"]


def test_a_revoked_job_is_parked(open_world: Open) -> None:
    world = open_world()
    world.start_worker()
    gate = world.new_gate()
    world.manager.enqueue(world.probe("running", gate=str(gate)))
    world.journal.wait(1, "begin")
    job_id = world.enqueue("waiting")[0]
    assert control_of(world).revoke(job_id, reply=True, timeout=5)
    gate.touch()
    assert_parked(world, "revoked by Celery's remote control", "GiveUp")
    assert world.journal.begun() == ["running", "sentinel"]


def test_a_time_limit_is_hard(open_world: Open) -> None:
    world = open_world()
    world.start_worker(imports=IMPORTS)
    world.manager.enqueue(Blocks(str(world.journal.path), "blocks"))
    world.journal.wait(1, "begin")
    begun = time.monotonic()
    assert_parked(world, "ran longer than 1 s", "JobTimeLimitError")
    assert time.monotonic() - begun < 20
    assert world.can.hard_time_limit
    assert not world.journal.entries("end", "blocks")


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo"])
def test_what_celery_takes_for_an_order_is_a_failure(open_world: Open, pool: str) -> None:
    world = open_world(pool=pool)
    world.start_worker(imports=IMPORTS)
    for error in ORDERS:
        world.manager.enqueue(Raises(str(world.journal.path), error, error))
    parked = world.wait_parked(len(ORDERS))
    assert {each.failure.error_type.rpartition(".")[2] for each in parked if each.failure} == {
        error.partition(":")[2] for error in ORDERS
    }
    world.enqueue("sentinel")
    world.journal.wait(1, "end", "sentinel")
    assert sorted(world.journal.begun()) == sorted((*ORDERS, "sentinel"))


ORDERS = (
    "builtins:SystemExit",
    "builtins:MemoryError",
    "celery.exceptions:Reject",
    "celery.exceptions:Ignore",
    "celery.exceptions:Retry",
    "celery.exceptions:Terminated",
    "billiard.exceptions:WorkerLostError",
)


SPOILER = """
import logging
from celery import signals

class Raises(logging.Filter):
    def filter(self, record):
        raise RuntimeError("a filter")

for name in {loggers!r}:
    logging.getLogger(name).addFilter(Raises())

def exits(**_):
    raise SystemExit(7)

for name in {receivers!r}:
    getattr(signals, name).connect(exits, weak=False)
"""


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo"])
@pytest.mark.parametrize(
    ("loggers", "receivers"),
    [
        (["anyjob.worker", "celery.app.trace"], []),
        ([], ["task_postrun"]),
    ],
)
def test_what_is_raised_around_a_job_changes_nothing(
    open_world: Open, tmp_path: Path, pool: str, loggers: list[str], receivers: list[str]
) -> None:
    (tmp_path / "spoiler.py").write_text(SPOILER.format(loggers=loggers, receivers=receivers))
    world = open_world(pool=pool)
    world.start_worker(imports=(*IMPORTS, "spoiler"))
    world.enqueue("succeeds")
    world.manager.enqueue(FailingOnce(str(world.journal.path), "fails"))
    assert_parked(world, "try 1 of fails", "ConformanceError")
    assert world.journal.begun() == ["succeeds", "fails", "sentinel"]
    wait_until(
        lambda: world.manager.inspect().count().get(JobState.RUNNING, 0) == 0, what="all of it to be acknowledged"
    )


def test_what_keeps_a_message_from_its_job_parks_it(open_world: Open, tmp_path: Path) -> None:
    (tmp_path / "spoiler.py").write_text(SPOILER.format(loggers=["celery.worker.strategy"], receivers=[]))
    world = open_world()
    world.start_worker(imports=(*IMPORTS, "spoiler"))
    world.manager.enqueue(FailingOnce(str(world.journal.path), "never"))
    (parked,) = world.wait_parked()
    assert parked.failure is not None
    assert "a filter" in parked.failure.message


@pytest.mark.parametrize(
    ("option", "told"),
    [
        (("--time-limit", "2"), "Give the job a time_limit"),
        (("--soft-time-limit", "2"), "Give the job a time_limit"),
        (("--pool", "custom"), "is none of prefork, threads, solo"),
    ],
)
def test_a_command_line_that_undoes_a_promise_is_refused(
    open_world: Open, monkeypatch: pytest.MonkeyPatch, option: tuple[str, str], told: str
) -> None:
    world = open_world()
    monkeypatch.setenv("ANYJOB_CONFIG", str(next(world.folder.glob("anyjob-*.toml"))))
    monkeypatch.setenv("CELERY_CUSTOM_WORKER_POOL", "celery.concurrency.base:BasePool")
    argv = [sys.executable, "-m", "celery", "-A", "anyjob_celery.app", "worker", *option]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=30, cwd=world.folder)
    assert done.returncode != 0
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("anyjob: ")]
    assert told in line


APPLICATION = """
from celery import Celery

app = Celery("shop", broker={broker!r})
app.conf.update(
    task_time_limit=2,
    worker_prefetch_multiplier=1,
    task_default_queue="own",
    broker_connection_retry_on_startup=True,
)
"""


def test_a_limit_of_an_application_is_a_failed_try(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = PrivateRedis(tmp_path)
    harness = CeleryRedisHarness(server)
    (tmp_path / "limited_shop.py").write_text(APPLICATION.format(broker=server.url))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(TESTS), str(tmp_path)]))
    monkeypatch.syspath_prepend(tmp_path)
    try:
        with harness.open(tmp_path, backends={"main": "celery://?app=limited_shop:app"}) as world:
            world.start_worker(imports=IMPORTS)
            world.manager.enqueue(world.probe("blocks", gate=str(world.new_gate())))
            world.journal.wait(2, "begin", "blocks")
            assert_parked(world, "ran longer than 2 s", "JobTimeLimitError")
    finally:
        harness.close()
