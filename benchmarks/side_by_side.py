"""What the benchmarks of the brokers' libraries share: each library with and without anyjob, in turn, in one run.

One job a call, many at once, and the worker; the native side is what a careful user of the library has today, with the
same safe settings.
"""

from __future__ import annotations

import argparse
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import anyjob
from anyjob_amqp import read_url

SINGLE, CHUNK = 1_000, 100
BULK = 10_000
WORK = 2_000

URLS = {
    "redis": os.environ.get("ANYJOB_TEST_REDIS_URL", "redis://localhost:6379/0"),
    "amqp": os.environ.get("ANYJOB_TEST_AMQP_URL", "amqp://guest:guest@localhost:5672/%2F"),
}
NAMESPACE = os.environ.setdefault("BENCH_NAMESPACE", f"anyjob-bench-{os.getpid()}")  # workers are told; runs stay apart

logging.getLogger("anyjob").setLevel(logging.WARNING)  # our two lines a job, as the native side's are left out


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


class Library(ABC):
    """A job library on one transport, without anyjob, and the commands of both sides' workers."""

    name: str
    workers: Mapping[str, tuple[Sequence[str], Sequence[str]]]
    """The arguments of Python that start a worker of one job at a time, with anyjob and without, by what to call it."""

    def __init__(self, transport: str) -> None:
        self.transport = transport
        self.url = URLS[transport]
        self.manager = anyjob.configure(
            backends={"main": {"url": f"{self.name}+{self.url}", "queues": ["default"]}},
            namespace=NAMESPACE,
            imports=["side_by_side"],
        )

    @abstractmethod
    def send(self, number: int) -> None:
        """Send one job, to a queue of its own, whose name begins with `NAMESPACE`."""

    @property
    @abstractmethod
    def queues(self) -> Mapping[str, Mapping[str, int]]:
        """The queues of both sides on RabbitMQ, with their arguments."""

    def single(self) -> Mapping[str, float]:
        """Return seconds a job, enqueued one by one."""

        def ours() -> None:
            for number in range(CHUNK):
                self.manager.enqueue(Email("a@b.c", number))

        def native() -> None:
            for number in range(CHUNK):
                self.send(number)

        ours(), native()  # the first ones connect and declare
        turns = [_timed({"anyjob": ours, "native": native}) for _ in range(SINGLE // CHUNK)]
        return {side: statistics.median(turn[side] for turn in turns) / CHUNK for side in ("anyjob", "native")}

    def bulk(self) -> Mapping[str, float]:
        """Return seconds a job, many at once; the libraries have nothing better than a loop."""

        def ours() -> None:
            self.manager.enqueue_many(Email("a@b.c", number) for number in range(BULK))

        def native() -> None:
            for number in range(BULK // 5):
                self.send(number)

        timed = _timed({"anyjob": ours, "native": native})
        return {"anyjob": timed["anyjob"] / BULK, "native": timed["native"] / (BULK // 5)}

    def work(self, ours: Sequence[str], native: Sequence[str]) -> Mapping[str, float]:
        """Return seconds a job in a worker of one job at a time, which finds its queue full."""
        self.manager.enqueue_many(Email("a@b.c", number) for number in range(1, WORK + 1))
        for number in range(1, WORK + 1):
            self.send(number)
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
        settings = {
            "ANYJOB_BACKEND": f"{self.name}+{self.url}",
            "ANYJOB_NAMESPACE": NAMESPACE,
            "ANYJOB_IMPORTS": "side_by_side",
        }
        return {
            "anyjob": _worked(ours, {**environment, **settings}),
            "native": _worked(native, {**environment, "BENCH_NATIVE": self.transport}),
        }

    def purge(self, *, for_good: bool = False) -> None:
        """Remove what the measurements left.

        The queues stay till the end: the libraries declare a queue once per connection, and what they then send to one
        that was deleted is gone, in half the time.
        """
        if self.transport == "redis":
            from redis import Redis

            with Redis.from_url(self.url) as client:
                for key in client.scan_iter(f"{NAMESPACE}*", 1000):
                    client.delete(key)
            return
        import amqp

        address = read_url(self.url, "benchmark")
        host = f"{address.host}:{address.port}"
        with amqp.Connection(host, address.user, address.password, virtual_host=address.vhost) as connection:
            channel = connection.channel()
            for queue, arguments in self.queues.items():
                channel.queue_declare(queue, durable=True, auto_delete=False, arguments=arguments)
                channel.queue_purge(queue)
                if for_good:
                    channel.queue_delete(queue)


def _worked(arguments: Sequence[str], environment: Mapping[str, str]) -> float:
    with tempfile.TemporaryDirectory() as folder:
        marks = Path(folder) / "marks"
        worker = subprocess.Popen(
            [sys.executable, *arguments],
            env={**environment, "BENCH_MARKS": str(marks)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            while not marks.exists() or len(times := marks.read_text().split()) < 2:
                if worker.poll() is not None:
                    sys.exit(f"the worker ended: {arguments}")
                os.sched_yield()
        finally:
            worker.terminate()
            worker.wait()
        first, last = map(float, times)
        return (last - first) / (WORK - WORK // 20)


def _timed(sides: Mapping[str, Callable[[], None]]) -> Mapping[str, float]:
    taken = {}
    for name, side in sides.items():
        begun = time.perf_counter()
        side()
        taken[name] = time.perf_counter() - begun
    return taken


def main(library: type[Library], what: str) -> None:
    """Measure, both sides in turn in each round, and print medians."""
    parser = argparse.ArgumentParser(description=what)
    parser.add_argument("transports", nargs="*", default=list(URLS), metavar="redis|amqp")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    print("| | | anyjob, us a job | native, us a job | native / anyjob |\n|---|---|---|---|---|")
    for transport in options.transports:
        side = library(transport)
        side.purge()
        measured: dict[str, Callable[[], Mapping[str, float]]] = {
            "one a call": side.single,
            f"{BULK:,} at once": side.bulk,
            **{name: partial(side.work, *commands) for name, commands in side.workers.items()},
        }
        for name, measure in measured.items():
            rounds = []
            for _ in range(options.rounds):
                rounds.append(measure())
                side.purge()
            ours, native = (statistics.median(each[of] for each in rounds) * 1e6 for of in ("anyjob", "native"))
            print(f"| {transport} | {name} | {ours:.0f} | {native:.0f} | {native / ours:.2f}x |", flush=True)
        side.purge(for_good=True)
        side.manager.close()
