"""Our delays and the library's own, side by side: how late, who waits, what survives kill -9, does priority count.

    python benchmarks/delays.py celery                  # both transports, on servers of their own
    python benchmarks/delays.py dramatiq redis

The library's own are `delay = "native"`, on safe settings. By default (Celery's visibility timeout of an hour,
Dramatiq's maintenance with one command of a thousand) none of the 20 whose workers were killed runs in time on Redis.
"""

from __future__ import annotations

import argparse
import secrets
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

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
    """1,500 jobs for tomorrow, then five for now and five in 1 s: how long these take."""
    world.manager.enqueue_many([world.probe("far") for _ in range(1_500)], delay=timedelta(days=1))
    world.start_worker()
    begun = time.monotonic()
    world.enqueue(*["now"] * 5)
    world.enqueue(*["soon"] * 5, delay=1)
    told = "5 of 5 after {0:.1f} s"
    now = _within(lambda: len(world.journal.entries("begin", "now")) == 5, begun, told)
    soon = _within(lambda: len(world.journal.entries("begin", "soon")) == 5, begun, told)
    return f"now {now}, soon {soon}"


def after_a_kill(world: ServerWorld) -> str:
    """20 jobs in 3 s, every worker killed meanwhile, one started when they are due: how soon they run."""
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
    found = _within(lambda: len(world.journal.begun()) == 21, begun, "20 of 20 after {0:.1f} s")
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


def _within(done: Callable[[], bool], begun: float, told: str) -> str:
    try:
        wait_until(done, timeout=PATIENCE)
    except AssertionError:
        return f"not within {PATIENCE:g} s"
    return told.format(time.monotonic() - begun)


def _pause(seconds: float) -> None:
    threading.Event().wait(seconds)


MEASURED = (lateness, head_of_line, after_a_kill, priority)
HARNESSES: Mapping[str, Mapping[str, Callable[[Path], ServerHarness]]] = {
    "celery": {"redis": celery_redis_harness, "amqp": celery_amqp_harness},
    "dramatiq": {"redis": dramatiq_redis_harness, "amqp": dramatiq_amqp_harness},
}
BROKERS = {
    "redis": """
from dramatiq.brokers.redis import RedisBroker
broker = RedisBroker(url={url!r}, maintenance_chance=1_000_000, heartbeat_timeout=30_000)
""",
    "amqp": """
from dramatiq.brokers.rabbitmq import RabbitmqBroker
broker = RabbitmqBroker(url={url!r}, confirm_delivery=True, max_priority=4)
""",
}


def backend_of(harness: ServerHarness, folder: Path, *, native: bool) -> Mapping[str, Any]:
    """Return the settings of a backend with our delays, or with the library's own: Dramatiq's need its own broker."""
    library, _, url = harness.url.partition("+")
    made: dict[str, Any] = {"url": harness.url, "queues": ["default"]}
    if native and library == "dramatiq":
        module, transport = f"native{secrets.token_hex(4)}", "redis" if url.startswith("redis") else "amqp"
        setup = BROKERS[transport].format(url=url.removesuffix("//") + ("" if transport == "redis" else "/%2F"))
        (folder / f"{module}.py").write_text(f"import dramatiq\n{setup}\ndramatiq.set_broker(broker)\n")
        sys.path.insert(0, str(folder))
        made["url"] = f"dramatiq://?broker={module}:broker"
    if native:
        made["options"] = {"delay": "native"}
    return made


def measured(make: Callable[[Path], ServerHarness], measure: Callable[[ServerWorld], str], *, native: bool) -> str:
    """Measure one thing on a server of its own."""
    with tempfile.TemporaryDirectory() as server, tempfile.TemporaryDirectory() as folder:
        harness = make(Path(server))
        try:
            backend = backend_of(harness, Path(folder), native=native)
            with harness.open(Path(folder), backends={"main": backend}) as world:
                return measure(world)
        finally:
            harness.close()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("library", choices=HARNESSES)
    parser.add_argument("transports", nargs="*", default=["redis", "amqp"], metavar="redis|amqp")
    options = parser.parse_args()
    print(f"| | | ours | {options.library}'s |\n|---|---|---|---|")
    for transport in options.transports:
        for measure in MEASURED:
            make = HARNESSES[options.library][transport]
            told = " | ".join(measured(make, measure, native=native) for native in (False, True))
            print(f"| {transport} | {(measure.__doc__ or '').partition(':')[0]} | {told} |", flush=True)


if __name__ == "__main__":
    main()
