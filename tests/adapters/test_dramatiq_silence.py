"""Who settles a message on RabbitMQ whose connection is lost under a silent job, or that is given back meanwhile."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from dramatiq_worlds import dramatiq_amqp_harness

from anyjob.base.errors import EnvelopeError
from anyjob.seams.outcome import Outcome
from anyjob.seams.stored import JobState
from anyjob.testing.conformance.harness import JOBS
from anyjob.testing.probes.journal import wait_until
from anyjob_dramatiq.amqp_source import AmqpSource
from anyjob_dramatiq.frame import Delivery
from anyjob_dramatiq.intake import JobIntake
from anyjob_dramatiq.runner import JobRunner

pytestmark = pytest.mark.timeout(90)

HOLDING = """
import ctypes
from pathlib import Path
from anyjob import background_job
from anyjob.testing.probes.journal import wait_until
from anyjob_amqp import consumer

consumer.HEARTBEAT = 1

@background_job("silent.hold", retry=None)
def hold(log: str, seconds: int, gate: str) -> None:
    with Path(log).open("a") as file:
        file.write("begin\\\\n")
    ctypes.PyDLL(None).sleep(seconds)  # PyDLL keeps the lock during the call
    if gate:
        wait_until(Path(gate).exists, what="the gate")
    with Path(log).open("a") as file:
        file.write("end\\\\n")
"""


@pytest.fixture
def world(tmp_path: Path) -> Iterator[Any]:
    (tmp_path / "holding.py").write_text(HOLDING.replace("\\\\n", "\\n"))
    harness = dramatiq_amqp_harness()
    with harness.open(tmp_path) as world:
        yield world
    harness.close()


@pytest.mark.parametrize("goes_on", [False, True], ids=["ends at once", "goes on"])
def test_its_success_counts_and_it_runs_once(world: Any, tmp_path: Path, goes_on: bool) -> None:
    log, gate, worker_log = tmp_path / "log", tmp_path / "gate", tmp_path / "worker-0.log"
    args = json.dumps({"log": str(log), "seconds": 6, "gate": str(gate) if goes_on else ""}).encode()
    world.start_worker(imports=("holding", JOBS), concurrency=2)  # one thread is free, to ask for more
    world.enqueue("warm")
    world.journal.wait(1)
    world.manager.enqueue_many([world.envelope("silent.hold", args)])
    told = "held again id=" if goes_on else "acknowledged id="
    wait_until(lambda: told in worker_log.read_text(), timeout=30, what="the message to come again")
    gate.touch()
    wait_until(lambda: "end" in log.read_text(), what="its end")
    world.enqueue("sentinel")
    world.journal.wait(1, "end", "sentinel")
    wait_until(lambda: not any(world.manager.inspect().count().values()), what="nothing to be left")
    assert log.read_text().split() == ["begin", "end"]


# What is given back while a thread settles it


@pytest.fixture
def source(world: Any) -> Iterator[AmqpSource]:
    source: AmqpSource = world.manager.backends["main"].messages_source()
    source.open(1, lambda _: None)
    yield source
    source.close()


def take(world: Any, source: AmqpSource) -> Delivery:
    world.enqueue("x")
    taken: list[Any] = []

    def is_taken() -> bool:
        taken.extend(source.take(["default"], 1))
        return bool(taken)

    wait_until(is_taken, what="a message")
    found: Delivery = taken[0].args[0]
    found.begun = True
    return found


def test_what_was_settled_is_acknowledged_and_not_sent_anew(world: Any, source: AmqpSource) -> None:
    take(world, source).settled = True
    assert source.give_back_all() == []
    source.close()
    wait_until(lambda: not any(world.manager.inspect().count().values()), what="nothing to be left")


def test_what_was_given_back_is_not_settled_too(world: Any, source: AmqpSource) -> None:
    held, intake = take(world, source), JobIntake(source)
    settled: list[Outcome] = []

    def execute(raw: bytes, **_: object) -> Outcome:
        assert source.give_back_all() == [held.id]
        outcome: Outcome = world.manager.executor.refuse(raw, "whatever")
        return outcome

    executor: Any = SimpleNamespace(execute=execute)
    with pytest.raises(EnvelopeError, match="whatever"):
        JobRunner(executor, intake, settled.append).run(held)
    assert settled == []
    source.close()
    wait_until(lambda: world.manager.inspect().count()[JobState.WAITING] == 1, what="it to wait again")


def test_it_declares_how_long_a_job_may_be_silent(world: Any) -> None:
    assert world.can.silence_bound.total_seconds() == 90
    assert world.manager.inspect().count()[JobState.WAITING] == 0
