"""The servers' own backends (`redis:`, `amqp:`) and our worker, beside the libraries' own workers without anyjob.

    python benchmarks/on_servers.py                      # both servers, those of ANYJOB_TEST_*_URL
    python benchmarks/on_servers.py redis --rounds 9

Each contender has its queue filled, and its worker started on it, once in each round. What is told is how much longer
than ours, or how much more CPU, each took: the median of the rounds, and the least and the greatest.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import entry_points

from cost import Cost, end_in_order
from on_celery import NATIVE, WORKER, CeleryAlone
from on_dramatiq import DramatiqAlone
from on_rq import RQAlone
from side_by_side import NAMESPACE, URLS, Email, Library, Workers, in_turn, ratio


class Plain(Library):
    """A server and our worker, nothing else: both sides are ours."""

    name = ""
    workers: Mapping[str, Workers] = {
        f"{threads}": Workers(["-m", "anyjob", "worker", "--concurrency", f"{threads}"], []) for threads in (1, 8)
    }
    queues: Mapping[str, Mapping[str, int]] = {f"{NAMESPACE}.jobs.default": {"x-max-priority": 4}}

    def send(self, number: int) -> None:
        self.manager.enqueue(Email("a@b.c", number))


@dataclass(frozen=True)
class Contender:
    """A worker, and the queue that is filled for it."""

    library: Library
    workers: Workers
    side: str = "native"

    @property
    def cost(self) -> Callable[[], Cost]:
        return self.library.work(self.workers)[self.side]


OURS = "anyjob"
FEWER = 500
"""Jobs for those that run one at a time: some take 15 ms for each."""


def contenders(transport: str) -> tuple[Sequence[Library], Mapping[str, Mapping[str, Contender]]]:
    """Return all libraries, and who works one job at a time, and who eight."""
    plain, dramatiq, celery = Plain(transport), DramatiqAlone(transport), CeleryAlone(transport)
    threads = Workers([], [*NATIVE, *WORKER, "-c", "8", "-P", "threads"])
    one = {
        OURS: Contender(plain, plain.workers["1"], "anyjob"),
        "celery, solo": Contender(celery, celery.workers["worker, solo"]),
        "celery, prefork": Contender(celery, celery.workers["worker, prefork"]),
        "dramatiq, 1 thread": Contender(dramatiq, dramatiq.workers["worker, 1 thread"]),
    }
    eight = {
        OURS: Contender(plain, plain.workers["8"], "anyjob"),
        "celery, 8 threads": Contender(celery, threads),
        "dramatiq, 8 threads": Contender(dramatiq, dramatiq.workers["worker, 8 threads"]),
    }
    libraries: list[Library] = [plain, dramatiq, celery]
    if transport == "redis":
        libraries.append(rq := RQAlone(transport))
        one["rq, SimpleWorker"] = Contender(rq, rq.workers["worker, simple"])
        one["rq, Worker"] = Contender(rq, rq.workers["worker, a process a job"])
    fewer = {
        name: replace(each, workers=replace(each.workers, jobs=min(each.workers.jobs, FEWER)))
        for name, each in one.items()
    }
    return libraries, {"1": fewer, "8": eight}


def measure(transport: str, rounds: int) -> None:
    """Print a row for each contender."""
    libraries, groups = contenders(transport)

    def purge() -> None:
        for each in libraries:
            each.purge()

    try:
        for at_once, group in groups.items():
            purge()
            costs = in_turn({name: each.cost for name, each in group.items()}, rounds, purge)
            for name in group:
                cells = [cell for what in ("wall", "cpu") for cell in _cells(costs, name, what)]
                print(f"| {transport} | {at_once} | {name} | {' | '.join(cells)} |", flush=True)
    finally:
        for each in libraries:
            each.purge(for_good=True)
            each.manager.close()


def _cells(costs: Mapping[str, Sequence[Cost]], name: str, what: str) -> Sequence[str]:
    theirs, ours = ([getattr(each, what) for each in costs[side]] for side in (name, OURS))
    return f"{statistics.median(theirs) * 1e6:.0f}", "1" if name == OURS else ratio(theirs, ours)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("transports", nargs="*", default=list(URLS), metavar="|".join(URLS))
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    end_in_order()
    print("| | jobs at a time | | us a job | x anyjob | us of CPU a job | x anyjob |\n|---|---|---|---|---|---|---|")
    for transport in options.transports:
        if entry_points(group="anyjob.backends", name=transport):
            measure(transport, options.rounds)
        else:
            print(f"| {transport} | | skipped: no backend `{transport}:` is installed | | | | |")


if __name__ == "__main__":
    main()
