"""What the benchmarks of the brokers' libraries share: each library with and without anyjob, in turn, in one run.

One job a call, many at once, and the worker; the native side is what a careful user of the library has today, with the
same safe settings.
"""

from __future__ import annotations

import argparse
import logging
import os
import statistics
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from cost import Cost, cost_here, cost_of_worker, end_in_order, mark

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


@dataclass(frozen=True)
class Workers:
    """The arguments of Python that start a worker with anyjob, and one without."""

    ours: Sequence[str]
    native: Sequence[str]
    jobs: int = WORK
    """How many they are given: fewer if each takes long."""


class Library(ABC):
    """A job library on one transport, without anyjob, and the commands of both sides' workers."""

    name: str
    workers: Mapping[str, Workers]
    """By what to call them."""

    def __init__(self, transport: str) -> None:
        self.transport = transport
        self.url = URLS[transport]
        self.backend_url = f"{self.name}+{self.url}" if self.name else self.url
        self.manager = anyjob.configure(
            backends={"main": {"url": self.backend_url, "queues": ["default"]}},
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

    def single(self) -> Mapping[str, Callable[[], Cost]]:
        """Return how to enqueue one by one, on each side."""

        def ours() -> None:
            for number in range(CHUNK):
                self.manager.enqueue(Email("a@b.c", number))

        def native() -> None:
            for number in range(CHUNK):
                self.send(number)

        ours(), native()  # the first ones connect and declare
        turns = range(SINGLE // CHUNK)
        return {
            "anyjob": lambda: Cost.of([cost_here(ours, CHUNK) for _ in turns]),
            "native": lambda: Cost.of([cost_here(native, CHUNK) for _ in turns]),
        }

    def bulk(self) -> Mapping[str, Callable[[], Cost]]:
        """Return how to enqueue many at once; the libraries have nothing better than a loop."""

        def ours() -> None:
            self.manager.enqueue_many(Email("a@b.c", number) for number in range(BULK))

        def native() -> None:
            for number in range(BULK // 5):
                self.send(number)

        return {"anyjob": lambda: cost_here(ours, BULK), "native": lambda: cost_here(native, BULK // 5)}

    def work(self, workers: Workers) -> Mapping[str, Callable[[], Cost]]:
        """Return how to run jobs in a worker that finds its queue full."""
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
        settings = {
            "ANYJOB_BACKEND": self.backend_url,
            "ANYJOB_NAMESPACE": NAMESPACE,
            "ANYJOB_IMPORTS": "side_by_side",
        }
        numbers = range(1, workers.jobs + 1)

        def worked() -> Cost:
            self.manager.enqueue_many(Email("a@b.c", number) for number in numbers)
            return cost_of_worker(workers.ours, {**environment, **settings}, workers.jobs)

        def worked_alone() -> Cost:
            for number in numbers:
                self.send(number)
            return cost_of_worker(workers.native, {**environment, "BENCH_NATIVE": self.transport}, workers.jobs)

        return {"anyjob": worked, "native": worked_alone}

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
                    channel.queue_delete(f"{queue.rpartition('.')[0]}:queues")  # our note of the queues' names


def lines_of(side: Library) -> Mapping[str, Callable[[], Mapping[str, Callable[[], Cost]]]]:
    """Return what can be measured of a library, by what to call it."""
    return {
        "one a call": side.single,
        f"{BULK:,} at once": side.bulk,
        **{name: partial(side.work, commands) for name, commands in side.workers.items()},
    }


def main(library: type[Library], what: str, transports: Sequence[str] = tuple(URLS)) -> None:
    """Measure, both sides in turn in each round, and print medians."""
    parser = argparse.ArgumentParser(description=what)
    parser.add_argument("transports", nargs="*", default=transports, metavar="|".join(transports))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="", metavar="TEXT", help="measure only the lines that this is in")
    parser.add_argument("--answer", action="store_true", help=argparse.SUPPRESS)  # for compare.py
    options = parser.parse_args()
    end_in_order()
    if not options.answer:
        print(HEAD)
    for transport in options.transports:
        side = library(transport)
        side.purge(for_good=False)
        try:
            lines = {name: line for name, line in lines_of(side).items() if options.only in name}
            if options.answer:
                _answer(side, lines)
            else:
                for name, line in lines.items():
                    print(f"| {transport} | {name} | {_row(in_turn(line(), options.rounds, side.purge))} |", flush=True)
        finally:
            side.purge(for_good=True)
            side.manager.close()


HEAD = """| | | anyjob, us a job | native | native / anyjob | anyjob, us of CPU a job | native | native / anyjob |
|---|---|---|---|---|---|---|---|"""


def in_turn(
    sides: Mapping[str, Callable[[], Cost]], rounds: int, after: Callable[[], None]
) -> Mapping[str, Sequence[Cost]]:
    """Measure all sides once in each round, in the other order each time; do `after` after each."""
    costs: dict[str, list[Cost]] = {name: [] for name in sides}
    for number in range(rounds):
        for name in sorted(sides, reverse=number % 2 == 1):
            costs[name].append(sides[name]())
            after()
    return costs


def ratio(above: Sequence[float], below: Sequence[float]) -> str:
    """Return the median of the rounds' ratios, and the least and the greatest."""
    ratios = sorted(one / other for one, other in zip(above, below, strict=True))
    return f"{statistics.median(ratios):.2f}x ({ratios[0]:.2f} to {ratios[-1]:.2f})"


def _row(costs: Mapping[str, Sequence[Cost]]) -> str:
    cells = []
    for what in ("wall", "cpu"):
        ours, native = ([getattr(each, what) for each in costs[side]] for side in ("anyjob", "native"))
        medians = [f"{statistics.median(values) * 1e6:.0f}" for values in (ours, native)]
        cells += [*medians, ratio(native, ours)]
    return " | ".join(cells)


def _answer(side: Library, lines: Mapping[str, Callable[[], Mapping[str, Callable[[], Cost]]]]) -> None:
    """Measure our side of the lines that are named on standard input, and write what each job cost."""
    print("\t".join(lines), flush=True)
    made = {}
    for said in sys.stdin:
        name = said.rstrip("\n")
        made[name] = made.get(name) or lines[name]()["anyjob"]
        cost = made[name]()
        side.purge()
        print(f"{cost.wall} {cost.cpu}", flush=True)
