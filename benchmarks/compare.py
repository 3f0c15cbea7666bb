"""One version of anyjob against another: the lines of the other benchmarks, before and after, in turn.

    python benchmarks/compare.py ../before .                       # two checkouts, all lines
    python benchmarks/compare.py ../before . on_dramatiq redis --only "8 threads" --rounds 15
    python benchmarks/compare.py ../before . migrate rq+redis celery+redis
    python benchmarks/compare.py ../before . memory

Each checkout is installed in an environment of its own, with the libraries of this one; the yardstick is this
checkout's, but for `migrate`, which each brings itself. A round measures both, in the other order each time. `after /
before` is of speeds: 0.95x is five hundredths slower, or that much more CPU. The median of the rounds, the least and
the greatest: below nine rounds, or on a busy machine, they tell little.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import venv
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from itertools import permutations
from pathlib import Path
from typing import Any

from cost import Cost, end_in_order
from side_by_side import URLS, in_turn, ratio

HERE = Path(__file__).parent
ON_LIBRARIES = {"on_celery": tuple(URLS), "on_dramatiq": tuple(URLS), "on_rq": ("redis",)}
MIGRATED = ("rq+redis", "celery+redis", "dramatiq+redis", "celery+amqp", "dramatiq+amqp")
IN_MEMORY = ("anyjob memory:, class job", "anyjob memory:, function job")
PAIR = 2


class Version:
    """A checkout, in an environment of its own in `folder`."""

    def __init__(self, checkout: Path, folder: Path) -> None:
        self.checkout = checkout.resolve()
        venv.create(folder, with_pip=False, symlinks=True)
        self.python = str(folder / "bin" / "python")
        shared = sysconfig.get_path("purelib")
        packages = Path(sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)}))
        # A path alone: this environment's own .pth files, which lead to its own anyjob, are not read.
        (packages / "shared.pth").write_text(f"{shared}\n")
        install = ["-m", "pip", "--python", self.python, "install", "-q", "--no-deps", "-e", str(self.checkout)]
        subprocess.run([sys.executable, *install], check=True)

    def run(self, *arguments: str) -> str:
        """Return what a program of Python's writes."""
        # Not `run`, which kills it when this one is interrupted: it has servers to stop.
        with subprocess.Popen([self.python, *arguments], stdout=subprocess.PIPE, text=True) as program:
            written, _ = program.communicate()
        if program.returncode:
            sys.exit(f"failed: {' '.join(arguments)}")
        return written


class Answers:
    """A benchmark's process that measures the lines that it is told to, with one version of anyjob."""

    def __init__(self, stack: ExitStack, version: Version, name: str, transport: str) -> None:
        self.process = stack.enter_context(
            subprocess.Popen(
                [version.python, str(HERE / f"{name}.py"), transport, "--answer"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env={name: value for name, value in os.environ.items() if name != "BENCH_NAMESPACE"},  # one of its own
            )
        )
        self.lines = self._read().split("\t")

    def cost(self, line: str) -> Cost:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()
        wall, cpu = map(float, self._read().split())
        return Cost(wall, cpu)

    def _read(self) -> str:
        assert self.process.stdout is not None
        said = self.process.stdout.readline()
        if not said:
            sys.exit("a benchmark ended")
        return said.rstrip("\n")


def on_library(before: Version, after: Version, name: str, transport: str, only: str, rounds: int) -> None:
    """Compare our side of each line."""
    with ExitStack() as stack:
        sides = {"after": Answers(stack, after, name, transport), "before": Answers(stack, before, name, transport)}
        for line in sides["after"].lines:
            if only in line:
                measured = {side: _asks(answers, line) for side, answers in sides.items()}
                _tell(f"{name} {transport}", line, measured, rounds)


def migrate(before: Version, after: Version, kinds: Sequence[str], rounds: int) -> None:
    """Compare `anyjob migrate`, each version by its own benchmark, and with servers of its own each time."""

    def moved(version: Version, pair: Sequence[str]) -> Cost:
        told = version.run(str(version.checkout / "benchmarks" / "migrate.py"), *pair)
        return Cost(1 / float(told.split()[-3].replace(",", "")), float("nan"))

    for pair in [kinds] if kinds else permutations(MIGRATED, PAIR):
        measured = {side: _bound(moved, version, pair) for side, version in _named(before, after)}
        _tell("migrate", " -> ".join(pair), measured, rounds)


def memory(before: Version, after: Version, only: str, rounds: int) -> None:
    """Compare enqueue and run in one process."""

    def ran(version: Version, line: str) -> Cost:
        return Cost(1 / float(version.run("-W", "ignore", str(HERE / "memory.py"), "--only", line)), float("nan"))

    for line in IN_MEMORY:
        if only in line:
            _tell("memory", line, {side: _bound(ran, version, line) for side, version in _named(before, after)}, rounds)


def _named(before: Version, after: Version) -> Sequence[tuple[str, Version]]:
    return ("after", after), ("before", before)


def _asks(answers: Answers, line: str) -> Callable[[], Cost]:
    return lambda: answers.cost(line)


def _bound(measure: Callable[[Version, Any], Cost], version: Version, what: Any) -> Callable[[], Cost]:
    return lambda: measure(version, what)


def _tell(benchmark: str, line: str, measured: dict[str, Callable[[], Cost]], rounds: int) -> None:
    costs = in_turn(measured, rounds, lambda: None)
    cells = []
    for what in ("wall", "cpu"):
        before, after = ([getattr(each, what) for each in costs[side]] for side in ("before", "after"))
        if before[0] == before[0]:  # no NaN: it was measured
            medians = [f"{statistics.median(values) * 1e6:.0f}" for values in (before, after)]
            cells += [*medians, ratio(before, after)]
        else:
            cells += ["", "", ""]
    print(f"| {benchmark} | {line} | {' | '.join(cells)} |", flush=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("benchmark", nargs="?", choices=[*ON_LIBRARIES, "migrate", "memory"], help="default: all")
    parser.add_argument("which", nargs="*", help="transports, or for migrate from and to")
    parser.add_argument("--only", default="", metavar="TEXT", help="measure only the lines that this is in")
    parser.add_argument("--rounds", type=int, default=9)
    given = parser.parse_args()
    end_in_order()
    with tempfile.TemporaryDirectory() as folder:
        versions = (Version(given.before, Path(folder) / "before"), Version(given.after, Path(folder) / "after"))
        print("| | | before, us a job | after | after / before | before, us of CPU a job | after | after / before |")
        print("|---|---|---|---|---|---|---|---|")
        for name, transports in ON_LIBRARIES.items():
            if given.benchmark in (None, name):
                for transport in given.which or transports:
                    on_library(*versions, name, transport, given.only, given.rounds)
        if given.benchmark in (None, "memory"):
            memory(*versions, given.only, given.rounds)
        if given.benchmark in (None, "migrate"):
            migrate(*versions, given.which, given.rounds)


if __name__ == "__main__":
    main()
