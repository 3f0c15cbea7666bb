"""In-memory backends side by side: enqueue and run, jobs per second; then growth. One command, no server.

    python benchmarks/memory.py            # medians of 5 rounds, contenders in turn
    python benchmarks/memory.py --growth   # a million delayed jobs, and what they cost the immediate ones

Each contender enqueues and runs N no-op jobs with the arguments (to: str, number: int). anyjob checks, encodes and
decodes the arguments and the envelope of every job, as on any other backend; huey and Celery eager encode nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

JOBS = 20_000


def anyjob_memory() -> float:
    import anyjob

    @anyjob.job_name("bench.mail")
    @dataclass
    class Email:
        to: str
        number: int

    class SendEmail(anyjob.BackgroundJob[Email]):
        def execute(self, args: Email) -> None:
            pass

    manager = anyjob.configure(backend="memory:")

    def run() -> None:
        for number in range(JOBS):
            manager.enqueue(Email("a@b.c", number))
        assert manager.drain() == JOBS

    return _rate(run)


def anyjob_function() -> float:
    import anyjob

    @anyjob.background_job("bench.function")
    def send(to: str, number: int) -> None:
        pass

    manager = anyjob.configure(backend="memory:")

    def run() -> None:
        for number in range(JOBS):
            send.enqueue("a@b.c", number)
        assert manager.drain() == JOBS

    return _rate(run)


def huey_immediate() -> float:
    from huey import MemoryHuey

    huey = MemoryHuey(immediate=True)

    @huey.task()
    def send(to: str, number: int) -> None:
        pass

    def run() -> None:
        for number in range(JOBS):
            send("a@b.c", number)

    return _rate(run)


def taskiq_inmemory() -> float:
    from taskiq import InMemoryBroker

    broker = InMemoryBroker(await_inplace=True)

    @broker.task
    async def send(to: str, number: int) -> None:
        pass

    async def jobs() -> None:
        for number in range(JOBS):
            await send.kiq("a@b.c", number)

    return _rate(lambda: asyncio.run(jobs()))


def dramatiq_stub() -> float:
    import dramatiq
    from dramatiq.brokers.stub import StubBroker

    broker = StubBroker()
    dramatiq.set_broker(broker)

    @dramatiq.actor
    def send(to: str, number: int) -> None:
        pass

    worker = dramatiq.Worker(broker, worker_threads=1, worker_timeout=100)
    worker.start()

    def run() -> None:
        for number in range(JOBS):
            send.send("a@b.c", number)
        broker.join(send.queue_name)

    return _rate(run)


def celery_eager() -> float:
    from celery import Celery

    app = Celery(set_as_current=False)
    app.conf.task_always_eager = True

    @app.task
    def send(to: str, number: int) -> None:
        pass

    def run() -> None:
        for number in range(JOBS):
            send.delay("a@b.c", number)

    return _rate(run)


CONTENDERS: dict[str, Callable[[], float]] = {
    "anyjob memory:, class job": anyjob_memory,
    "anyjob memory:, function job": anyjob_function,
    "huey MemoryHuey immediate": huey_immediate,
    "taskiq InMemoryBroker": taskiq_inmemory,
    "dramatiq StubBroker": dramatiq_stub,
    "celery eager": celery_eager,
}


def _rate(run: Callable[[], None]) -> float:
    run()  # warm
    gc.collect()
    start = time.perf_counter()
    run()
    return JOBS / (time.perf_counter() - start)


def compare(rounds: int) -> None:
    """Run every contender in a process of its own, in turn, `rounds` times over."""
    rates: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    for _ in range(rounds):
        for name in CONTENDERS:
            environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
            output = subprocess.run(
                [sys.executable, __file__, "--only", name], capture_output=True, text=True, env=environment, check=True
            ).stdout
            rates[name].append(float(output.split()[-1]))
    taskiq = statistics.median(rates["taskiq InMemoryBroker"])
    print(f"{'':32}{'jobs/s':>10}{'min':>10}{'max':>10}{'x taskiq':>10}")
    for name, values in sorted(rates.items(), key=lambda item: -statistics.median(item[1])):
        median = statistics.median(values)
        print(f"{name:32}{median:10,.0f}{min(values):10,.0f}{max(values):10,.0f}{median / taskiq:10.2f}")


def growth() -> None:
    """Show memory and collector pauses at a million delayed jobs, and immediate jobs beside a crowd of delayed ones."""
    import anyjob

    @anyjob.job_name("bench.grow")
    @dataclass
    class Email:
        to: str
        body: str

    class SendEmail(anyjob.BackgroundJob[Email]):
        def execute(self, args: Email) -> None:
            pass

    manager = anyjob.configure(backend="memory:")
    args = Email("a@b.c", "x" * 104)

    def immediate() -> float:
        start = time.perf_counter()
        for _ in range(JOBS):
            manager.enqueue(args)
        assert manager.drain() == JOBS
        return JOBS / (time.perf_counter() - start)

    immediate()
    print(f"immediate jobs, nothing else there:        {immediate():10,.0f} jobs/s")
    before, enqueued = _resident(), 0
    for target in (100_000, 1_000_000):
        while enqueued < target:
            manager.enqueue(args, delay=timedelta(days=1))
            enqueued += 1
        print(f"immediate jobs, {target:9,} due tomorrow:   {immediate():10,.0f} jobs/s")
    print(f"memory a delayed job (130 B of arguments): {(_resident() - before) / enqueued:10,.0f} bytes")
    start = time.perf_counter()
    gc.collect()
    print(f"one full garbage collection:               {time.perf_counter() - start:10.3f} s")
    os._exit(0)  # without the report of a million jobs that were not run


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--growth", action="store_true")
    parser.add_argument("--only", choices=CONTENDERS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        print(CONTENDERS[options.only]())
    elif options.growth:
        growth()
    else:
        compare(options.rounds)


if __name__ == "__main__":
    main()
