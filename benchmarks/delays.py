"""Delays: how late, who waits, what survives kill -9, does priority count. Beside Celery's countdown, on Celery.

    python benchmarks/delays.py                         # on servers of their own
    python benchmarks/delays.py dramatiq+redis

The countdown is `delay = "native"`, on the same safe settings; with Celery's own (visibility timeout of an hour) its
column "after kill -9" is 0 on Redis.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from celery_worlds import celery_amqp_harness, celery_redis_harness
from dramatiq_worlds import dramatiq_amqp_harness, dramatiq_redis_harness

from anyjob import JobPriority
from anyjob.testing.conformance import ServerHarness, ServerWorld
from anyjob.testing.probes.journal import wait_until

PATIENCE = 45.0


def lateness(world: ServerWorld) -> str:
    """20 jobs in 3 s, on an idle worker: how late, in seconds."""
    world.start_worker()
    world.enqueue("warm")
    world.journal.wait(1)
    due = {}
    for number in range(20):
        due[f"{number}"] = time.time() + 3
        world.enqueue(f"{number}", delay=3)
    world.journal.wait(21, timeout=PATIENCE)
    late = sorted(each.at - due[each.label] for each in world.journal.entries("begin", *due))
    return f"{late[0]:.3f} / {statistics.median(late):.3f} / {late[-1]:.3f} s"


def head_of_line(world: ServerWorld) -> str:
    """1,500 jobs for tomorrow, then five for now: how long these take."""
    world.manager.enqueue_many([world.probe("far") for _ in range(1_500)], delay=timedelta(days=1))
    world.start_worker()
    begun = time.monotonic()
    world.enqueue(*["now"] * 5)
    return _within(lambda: len(world.journal.entries("begin", "now")) == 5, begun, "5 of 5 after {0:.1f} s")


def after_a_kill(world: ServerWorld) -> str:
    """20 jobs in 3 s, every worker killed meanwhile, one started when they are due: how many ran within 16 s."""
    worker = world.start_worker()
    world.enqueue("warm")
    world.journal.wait(1)
    due = time.time() + 3
    world.enqueue(*(f"{number}" for number in range(20)), delay=3)
    _pause(1)
    worker.kill()
    wait_until(lambda: time.time() > due, what="them to be due")
    world.start_worker()
    begun = time.monotonic()
    found = _within(lambda: len(world.journal.begun()) == 21, begun, "20 of 20 after {0:.1f} s", patience=16)
    lost = max((each.lost_count for each in world.journal.entries()), default=0)
    return found + (f", lost_count {lost}" if lost else "")


def priority(world: ServerWorld) -> str:
    """60 LOW and then 5 HIGH jobs, due while the worker was busy: the places of the HIGH ones."""
    world.start_worker()
    gate = world.new_gate()
    world.manager.enqueue(world.probe("busy", gate=str(gate)))
    world.journal.wait(1, "begin")
    due = datetime.now(UTC) + timedelta(seconds=1.5)
    world.enqueue(*["low"] * 60, priority=JobPriority.LOW, run_at=due)
    world.enqueue(*["high"] * 5, priority=JobPriority.HIGH, run_at=due)
    late = due + timedelta(seconds=2)
    wait_until(lambda: datetime.now(UTC) > late, what="all to be due")
    gate.touch()
    world.journal.wait(66, timeout=PATIENCE)
    return ", ".join(f"{place}" for place, label in enumerate(world.journal.begun()[1:]) if label == "high")


def _within(done: Callable[[], bool], begun: float, told: str, *, patience: float = PATIENCE) -> str:
    try:
        wait_until(done, timeout=patience)
    except AssertionError:
        return f"not within {patience:g} s"
    return told.format(time.monotonic() - begun)


def _pause(seconds: float) -> None:
    threading.Event().wait(seconds)


MEASURED = (lateness, head_of_line, after_a_kill, priority)
HARNESSES: Mapping[str, Callable[[Path], ServerHarness]] = {
    "celery+redis": celery_redis_harness,
    "celery+amqp": celery_amqp_harness,
    "dramatiq+redis": dramatiq_redis_harness,
    "dramatiq+amqp": dramatiq_amqp_harness,
}
OPTIONS: Mapping[bool, Sequence[Mapping[str, str]]] = {True: ({}, {"delay": "native"}), False: ({},)}


def main() -> None:
    """Measure and print."""
    print("| | | ours | Celery's countdown |\n|---|---|---|---|")
    for name in sys.argv[1:] or HARNESSES:
        with tempfile.TemporaryDirectory() as server:
            harness = HARNESSES[name](Path(server))
            for measure in MEASURED:
                told = []
                for options in OPTIONS[name.startswith("celery")]:
                    backend = {"url": harness.url, "queues": ["default"], "options": options}
                    with (
                        tempfile.TemporaryDirectory() as folder,
                        harness.open(Path(folder), backends={"main": backend}) as world,
                    ):
                        told.append(measure(world))
                what = (measure.__doc__ or "").partition(":")[0]
                print(f"| {name} | {what} | {' | '.join(told)} |", flush=True)
            harness.close()


if __name__ == "__main__":
    main()
