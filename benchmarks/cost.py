"""What a job costs: wall time, and CPU of all processes that take part. Linux: it reads /proc.

A worker tells by a pipe when it has done a twentieth of its jobs and when it has done all; what it cost is the
difference between these two moments, so that its start counts for nothing. Who measures sleeps meanwhile.
"""

from __future__ import annotations

import os
import select
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self


@dataclass(frozen=True)
class Cost:
    """Seconds a job, of the clock and of all processors together."""

    wall: float
    cpu: float

    @classmethod
    def of(cls, values: Sequence[Self]) -> Self:
        """Return the medians."""
        return cls(statistics.median(each.wall for each in values), statistics.median(each.cpu for each in values))


def end_in_order() -> None:
    """Have SIGTERM end this process as an exit does: with its workers ended, and what it left on servers removed."""
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))


def mark(number: int) -> None:
    """Tell that so many jobs are done, if it is one of the two numbers that count. Jobs call it."""
    jobs = int(os.environ["BENCH_JOBS"])
    if number in (jobs // 20, jobs):
        with Path(os.environ["BENCH_MARKS"]).open("a") as pipe:
            pipe.write(f"{time.monotonic()}\n")


def cost_here(run: Callable[[], object], jobs: int) -> Cost:
    """Return what `run` costs this process."""
    begun, used = time.perf_counter(), time.process_time()
    run()
    return Cost((time.perf_counter() - begun) / jobs, (time.process_time() - used) / jobs)


def cost_of_worker(
    arguments: Sequence[str], environment: Mapping[str, str], jobs: int, *, patience: float = 120.0
) -> Cost:
    """Start Python with `arguments`, wait until it has done so many jobs, end it, and return what each of them cost.

    Ends this program if the worker ends before, or needs more than `patience` seconds.
    """
    with tempfile.TemporaryDirectory() as folder, (Path(folder) / "log").open("w+") as log:
        path = Path(folder) / "marks"
        os.mkfifo(path)
        pipe = os.open(path, os.O_RDWR)  # for writing as well: else it would read as closed while nobody writes
        worker = subprocess.Popen(
            [sys.executable, *arguments],
            env={**environment, "BENCH_MARKS": str(path), "BENCH_JOBS": f"{jobs}"},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        ended = os.pidfd_open(worker.pid)
        try:
            moments: list[tuple[float, float]] = []
            deadline = time.monotonic() + patience
            while len(moments) < 2:
                ready, _, _ = select.select([pipe, ended], [], [], max(0.0, deadline - time.monotonic()))
                if pipe not in ready:
                    log.seek(0)
                    why = "ended" if ready else f"was not done after {patience:g} s"
                    sys.exit(f"the worker {why}: {' '.join(arguments)}\n{log.read()[-2000:]}")
                cpu = _cpu_of(worker.pid)
                moments += [(float(told), cpu) for told in os.read(pipe, 4096).split()]
        finally:
            worker.terminate()
            worker.wait()
            os.close(pipe)
            os.close(ended)
    (first, used_first), (last, used_last) = moments
    measured = jobs - jobs // 20
    return Cost((last - first) / measured, (used_last - used_first) / measured)


def _cpu_of(root: int) -> float:
    """Return the seconds of CPU of a process and of all below it, the dead ones that were waited for included."""
    used: dict[int, tuple[int, int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended since
            continue
        used[int(path.parent.name)] = (int(fields[1]), sum(map(int, fields[11:15])))
    family = {root}
    while more := {pid for pid, (parent, _) in used.items() if parent in family} - family:
        family |= more
    return sum(ticks for pid, (_, ticks) in used.items() if pid in family) / os.sysconf("SC_CLK_TCK")
