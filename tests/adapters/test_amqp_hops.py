"""Delays that are longer than the longest pass through RabbitMQ's delay queues: here three seconds, else 36 hours."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from amqp_worlds import amqp_harness
from celery_worlds import celery_amqp_harness
from dramatiq_worlds import dramatiq_amqp_harness
from rabbit import PrivateRabbit, RabbitHarness, RabbitWorld

from anyjob import JobPriority
from anyjob.seams.stored import JobState
from anyjob.testing.conformance.fixtures import move
from anyjob.testing.conformance.harness import JOBS
from anyjob.testing.probes.journal import wait_until
from anyjob_amqp import topology

BITS = 2
LONGEST = 2**BITS - 1

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.skipif(not PrivateRabbit.is_installed(), reason="there is no RabbitMQ here to be started"),
]


MAKERS = {"celery": celery_amqp_harness, "dramatiq": dramatiq_amqp_harness, "plain": amqp_harness}


@pytest.fixture(scope="module", params=sorted(MAKERS))
def harness(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitHarness]:
    with closing(MAKERS[request.param](tmp_path_factory.mktemp("node"))) as harness:
        yield harness


@pytest.fixture
def world(harness: RabbitHarness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setattr(topology, "_BITS", BITS)
    (tmp_path / "few_bits.py").write_text(f"from anyjob_amqp import topology\ntopology._BITS = {BITS}\n")
    with harness.open(tmp_path) as world:
        yield world


def start_worker(world: RabbitWorld) -> Any:
    return world.start_worker(imports=("few_bits", JOBS))


def test_it_comes_in_time_and_once_with_its_priority(world: RabbitWorld) -> None:
    start_worker(world)
    world.enqueue("warm")
    world.journal.wait(1)
    due = time.time() + 2 * LONGEST + 1.5
    world.enqueue("long", delay=due - time.time(), priority=JobPriority.HIGH)
    (end,) = world.journal.wait(1, "end", "long", timeout=30)
    assert 0 <= end.at - due <= 2
    assert (end.priority, end.try_count, end.lost_count) == (JobPriority.HIGH, 1, 0)
    world.enqueue("sentinel", delay=LONGEST + 1)
    world.journal.wait(1, "end", "sentinel")
    assert world.journal.begun() == ["warm", "long", "sentinel"]


def test_it_waits_for_a_worker_between_two_passes(world: RabbitWorld) -> None:
    due = time.time() + 3 * LONGEST
    world.enqueue("long", delay=due - time.time())
    counted = world.manager.inspect().count
    wait_until(lambda: counted()[JobState.WAITING], what="it to have passed once")
    start_worker(world)
    wait_until(lambda: counted()[JobState.SCHEDULED], what="it to be on its way again")
    (begun,) = world.journal.wait(1, "begin", timeout=30)
    assert 0 <= begun.at - due <= 2


def test_a_move_takes_it_along_wherever_it_is(world: RabbitWorld, harness: RabbitHarness, tmp_path: Path) -> None:
    due = time.time() + 4 * LONGEST
    world.enqueue("between", delay=due - time.time())
    wait_until(lambda: world.manager.inspect().count()[JobState.WAITING], what="it to have passed once")
    world.enqueue("under-way", delay=due - time.time())
    (tmp_path / "other").mkdir()
    with harness.open(tmp_path / "other") as other:
        report = move(("from", world.manager.backend()), ("to", other.manager.backend()))
        assert (report.moved, list(report.in_doubt)) == (2, [])
        assert other.manager.inspect().count()[JobState.SCHEDULED] == 2
