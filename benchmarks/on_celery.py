"""Celery with and without anyjob, in turn, on both transports: one job a call, many at once, and the worker.

    python benchmarks/on_celery.py                       # both transports, on the servers of ANYJOB_TEST_*_URL
    python benchmarks/on_celery.py redis --rounds 3

Both sides have the same safe settings: late acknowledgement, prefetch 1, JSON, confirmed publishes on RabbitMQ. The
native side is what a careful user of Celery has today. (Not called celery.py: `import celery` would find it.)
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import anyjob

SINGLE = 500
BULK = 10_000
WORK = 2_000

URLS = {
    "redis": os.environ.get("ANYJOB_TEST_REDIS_URL", "redis://localhost:6379/0"),
    "amqp": os.environ.get("ANYJOB_TEST_AMQP_URL", "amqp://guest:guest@localhost:5672//"),
}
NAMESPACE = "anyjob-bench"
NATIVE = {
    "redis": {"broker_transport_options": {"priority_steps": [0, 1, 2, 3, 4], "global_keyprefix": f"{NAMESPACE}:"}},
    "amqp": {"broker_transport_options": {"confirm_publish": True}},
}
ARGUMENTS = {"redis": None, "amqp": {"x-max-priority": 4}}


@anyjob.job_name("bench.mail")
@dataclass
class Email:
    """What both sides send."""

    to: str
    number: int


class SendEmail(anyjob.BackgroundJob[Email]):
    """Does nothing, but for the two numbers by which the time is told."""

    def execute(self, args: Email) -> None:
        mark(args.number)


def mark(number: int) -> None:
    """Write down when the first twentieth was done, and when all was."""
    if number in (WORK // 20, WORK):
        with Path(os.environ["BENCH_MARKS"]).open("a") as file:
            file.write(f"{time.time()}\n")


def native_app(transport: str):  # type: ignore[no-untyped-def]
    """Return the application without anyjob, and its task."""
    from celery import Celery
    from kombu import Queue

    app = Celery(NAMESPACE, broker=URLS[transport])
    app.conf.update(
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        worker_prefetch_multiplier=1,
        broker_connection_retry_on_startup=True,
        task_ignore_result=True,
        task_default_queue=f"{NAMESPACE}-native",
        task_queues=[Queue(f"{NAMESPACE}-native", queue_arguments=ARGUMENTS[transport])],
        **NATIVE[transport],
    )

    @app.task(name="bench.native")
    def send(to: str, number: int) -> None:  # noqa: ARG001
        mark(number)

    return app, send


if "BENCH_NATIVE" in os.environ:  # the worker without anyjob imports this module
    app, _ = native_app(os.environ["BENCH_NATIVE"])


def manager_of(transport: str) -> anyjob.JobManager:
    """Return the manager of the side with anyjob."""
    backend = {"url": f"celery+{URLS[transport]}", "queues": ["default"]}
    return anyjob.configure(backends={"main": backend}, namespace=NAMESPACE, imports=["on_celery"])


def single(transport: str) -> Mapping[str, float]:
    """Return seconds a job, enqueued one by one."""
    manager, (_, task) = manager_of(transport), native_app(transport)

    def ours() -> None:
        for number in range(SINGLE):
            manager.enqueue(Email("a@b.c", number))

    def native() -> None:
        for number in range(SINGLE):
            task.apply_async(("a@b.c", number), priority=2)

    return _timed({"anyjob": ours, "native": native}, SINGLE)


def bulk(transport: str) -> Mapping[str, float]:
    """Return seconds a job, many at once; Celery has nothing better than a loop."""
    manager, (_, task) = manager_of(transport), native_app(transport)

    def ours() -> None:
        manager.enqueue_many(Email("a@b.c", number) for number in range(BULK))

    def native() -> None:
        for number in range(BULK // 5):
            task.apply_async(("a@b.c", number), priority=2)

    timed = _timed({"anyjob": ours, "native": native}, 1)
    return {"anyjob": timed["anyjob"] / BULK, "native": timed["native"] / (BULK // 5)}


def work(transport: str, pool: str) -> Mapping[str, float]:
    """Return seconds a job in a worker of one process, which finds its queue full."""
    manager, (app, task) = manager_of(transport), native_app(transport)
    with app.connection_for_write() as connection:
        app.amqp.queues[f"{NAMESPACE}-native"](connection).declare()
    manager.enqueue_many(Email("a@b.c", number) for number in range(1, WORK + 1))
    for number in range(1, WORK + 1):
        task.apply_async(("a@b.c", number), priority=2)
    command = [sys.executable, "-m", "celery", "-A"]
    options = ["worker", "-c", "1", "-P", pool, "--without-gossip", "--without-mingle", "-l", "WARNING"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    settings = {
        "ANYJOB_BACKEND": f"celery+{URLS[transport]}",
        "ANYJOB_NAMESPACE": NAMESPACE,
        "ANYJOB_IMPORTS": "on_celery",
    }
    return {
        "anyjob": _worked([*command, "anyjob_celery.app", *options], {**environment, **settings}),
        "native": _worked([*command, "on_celery", *options], {**environment, "BENCH_NATIVE": transport}),
    }


def _worked(command: Sequence[str], environment: Mapping[str, str]) -> float:
    with tempfile.TemporaryDirectory() as folder:
        marks = Path(folder) / "marks"
        worker = subprocess.Popen(
            command,
            env={**environment, "BENCH_MARKS": str(marks)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            while not marks.exists() or len(times := marks.read_text().split()) < 2:
                if worker.poll() is not None:
                    sys.exit(f"the worker ended: {command}")
                os.sched_yield()
        finally:
            worker.terminate()
            worker.wait()
        first, last = map(float, times)
        return (last - first) / (WORK - WORK // 20)


def _timed(sides: Mapping[str, Callable[[], None]], jobs: int) -> Mapping[str, float]:
    taken = {}
    for name, side in sides.items():
        begun = time.perf_counter()
        side()
        taken[name] = (time.perf_counter() - begun) / jobs
    return taken


MEASURED: Mapping[str, Callable[[str], Mapping[str, float]]] = {
    "one a call": single,
    f"{BULK:,} at once": bulk,
    "worker, prefork": lambda transport: work(transport, "prefork"),
    "worker, solo": lambda transport: work(transport, "solo"),
}


def purge(transport: str) -> None:
    """Remove what the measurements left."""
    manager, (app, _) = manager_of(transport), native_app(transport)
    if transport == "redis":
        from redis import Redis

        with Redis.from_url(URLS["redis"]) as client:
            for key in client.scan_iter(f"{NAMESPACE}:*", 1000):
                client.delete(key)
    else:
        with app.connection_for_write() as connection:
            for queue in (f"{NAMESPACE}.default", f"{NAMESPACE}-native", f"{NAMESPACE}:parked"):
                connection.default_channel.queue_delete(queue)
    manager.close()


def main() -> None:
    """Measure, both sides in turn in each round, and print medians."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("transports", nargs="*", default=list(URLS), metavar="redis|amqp")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    print("| | | anyjob, us a job | native, us a job | native / anyjob |\n|---|---|---|---|---|")
    for transport in options.transports:
        purge(transport)
        for name, measure in MEASURED.items():
            rounds = []
            for _ in range(options.rounds):
                rounds.append(measure(transport))
                purge(transport)
            ours, native = (statistics.median(each[side] for each in rounds) * 1e6 for side in ("anyjob", "native"))
            print(f"| {transport} | {name} | {ours:.0f} | {native:.0f} | {native / ours:.2f}x |", flush=True)


if __name__ == "__main__":
    main()
