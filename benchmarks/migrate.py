"""`anyjob migrate` between all backends: jobs a second, and what the mover's process takes.

    python benchmarks/migrate.py                               # 10,000 jobs for each pair, on servers of its own
    python benchmarks/migrate.py celery+redis dramatiq+amqp    # one pair
    python benchmarks/migrate.py rq+redis celery+redis --memory  # 10,000 and 1,000,000 jobs

Half of the jobs wait and half are scheduled, on five levels and in three queues. It is held against the loop that one
writes oneself, which takes, sends and acknowledges one job after the other: the same mover with `--batch 1`.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import permutations
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from migration.pairs import KINDS, Pair, Servers, mixed

ALONE = 1_000
CHUNK = 10_000


def speed(servers: Servers, kinds: tuple[str, str], jobs: int) -> str:
    """Return jobs a second, in batches and one by one."""
    told = []
    for count, batch in ((jobs, 200), (ALONE, 1)):
        with _pair(servers, kinds) as pair:
            pair.fill(mixed(pair.a, count))
            begun = time.perf_counter()
            report = pair.move(batch=batch)
            told.append(count / (time.perf_counter() - begun))
            assert report.moved == count, report
    return f"{told[0]:>8,.0f} {told[1]:>12,.0f} {told[0] / told[1]:>6.1f}"


def memory(servers: Servers, kinds: tuple[str, str], jobs: int) -> str:
    """Return the most memory that the command's process has taken, and jobs a second."""
    with _pair(servers, kinds) as pair:
        for _ in range(jobs // CHUNK):
            pair.fill(mixed(pair.a, CHUNK))
        argv = [sys.executable, "-m", "anyjob", "--config", str(pair.settings), "migrate", "a", "b"]
        begun = time.perf_counter()
        with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as mover:
            assert mover.stdout is not None
            said = mover.stdout.read()
            _, _, used = os.wait4(mover.pid, 0)
        took = time.perf_counter() - begun
        assert f"moved {jobs} +" in said, said
    return f"{jobs:>10,} {used.ru_maxrss / 1024:>8.1f} MB {jobs / took:>8,.0f}/s"


@contextmanager
def _pair(servers: Servers, kinds: tuple[str, str]) -> Iterator[Pair]:
    with tempfile.TemporaryDirectory() as folder, Pair(servers, kinds, Path(folder)) as pair:
        yield pair


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="*", metavar="BACKEND", help=f"from and to, of {', '.join(KINDS)}")
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--memory", action="store_true", help="the process's memory for 10,000 and 1,000,000 jobs")
    given = parser.parse_args()
    pairs = [tuple(given.kinds)] if given.kinds else list(permutations(KINDS, 2))
    with tempfile.TemporaryDirectory() as folder:
        servers = Servers(Path(folder))
        try:
            print(f"{'':32}{'jobs/s':>8} {'one by one':>12} {'x':>6}" if not given.memory else "")
            for source, destination in pairs:
                name = f"{source} -> {destination}"
                if given.memory:
                    for jobs in (10_000, 1_000_000):
                        print(f"{name:32}{memory(servers, (source, destination), jobs)}", flush=True)
                else:
                    print(f"{name:32}{speed(servers, (source, destination), given.jobs)}", flush=True)
        finally:
            servers.close()


if __name__ == "__main__":
    main()
