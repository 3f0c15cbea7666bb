"""Two hundred messages that nobody of ours sent: nothing of them runs, their neighbours do, the worker stays."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from anyjob.base.envelope import write_envelope
from anyjob.seams.stored import JobState, StoredJob
from anyjob.testing.conformance.fixtures import KitFixtures, needs
from anyjob.testing.conformance.harness import WorkerHandle, World
from anyjob.testing.conformance.mutations import Fate, Mutant, mutations
from anyjob.testing.conformance.processes import WorkerProcess
from anyjob.testing.probes.journal import wait_until

__all__ = ["HostileConformance"]

MEMORY: Final = 400_000_000
"""Bytes that a process of a worker may take, with a bomb of 512 MB in its queue."""
_MARK: Final = re.compile(rb"hostile-\d{3}")
_TOLD: Final = re.compile(r"parked id=(\S+)")
_BASE64: Final = re.compile(rb"[A-Za-z0-9+/]{40,}={0,2}")


class HostileConformance(KitFixtures):
    """What arrives is run, parked or kept for later; nothing else can become of it."""

    @needs("delay", "parked jobs")
    def test_two_hundred_hostile_messages(self, *, world: World, tmp_path: Path) -> None:
        mutants = list(mutations(_right(world), os.environ.get("ANYJOB_TEST_SEED", "1")))
        neighbours, touched = [], tmp_path / "touched"
        for number, mutant in enumerate(mutants):
            if number % 20 == 0:
                neighbours += world.enqueue(f"before-{number}")
            world.put(mutant.raw)
        neighbours += world.enqueue("between")
        foreign = world.put_hostile(touched)
        neighbours += world.enqueue("after")

        worker = world.start_worker(defer_unknown=1.0)
        expected = foreign + sum(mutant.fate is Fate.PARKED for mutant in mutants)
        harmless = [mutant.mark for mutant in mutants if mutant.fate is Fate.RUNS]
        largest = _wait(world, worker, expected, len(neighbours) + len(harmless))
        neighbours += world.enqueue("sentinel")
        world.journal.wait(len(neighbours) + len(harmless))

        assert not touched.exists()
        assert Counter(each.id for each in world.journal.entries("begin")) == Counter([*neighbours, *harmless])
        parked = world.jobs(JobState.ABANDONED)
        _assert_parked(parked, mutants, expected)
        later = sum(mutant.fate is Fate.STAYS for mutant in mutants)
        assert world.manager.inspect().count().get(JobState.SCHEDULED, later) == later
        if isinstance(worker, WorkerProcess):
            assert worker.process.poll() is None, worker.said()
            told = set(_TOLD.findall(worker.log.read_text()))
            assert {each.id for each in parked if each.envelope is None} <= told
            assert largest < MEMORY
        worker.stop()


def _right(world: World) -> Mapping[str, Any]:
    """Return the JSON of a job that would run, with all its fields."""
    written = json.loads(write_envelope(world.manager.prepare(world.probe("hostile-mark"))))
    unset: dict[str, Any] = {
        "due_at": None,
        "last_try_at": None,
        "last_error": None,
        "try_count": 0,
        "lost_count": 0,
        "headers": {},
    }
    return {**unset, **written}


def _wait(world: World, worker: WorkerHandle, parked: int, ended: int) -> int:
    """Wait until so many are parked, and ended; return the most memory that a process of the worker took meanwhile."""
    largest = 0

    def done() -> bool:
        nonlocal largest
        if isinstance(worker, WorkerProcess):
            largest = max(largest, _memory({*worker.pids}))
        count = world.manager.inspect().count()[JobState.ABANDONED]
        return count >= parked and len(world.journal.entries("end")) >= ended

    def told() -> str:
        count = world.manager.inspect().count()
        return f"{parked} parked and {ended} ended jobs: {count}, {len(world.journal.entries('end'))} ended"

    wait_until(done, timeout=60, what=told)
    return largest


def _memory(pids: set[int]) -> int:
    """Return the bytes that the largest of some processes takes."""
    listed = subprocess.run(["ps", "-A", "-o", "pid=,rss="], capture_output=True, text=True, check=True).stdout  # noqa: S607
    sizes = ((int(pid), int(size)) for pid, size in (line.split() for line in listed.splitlines()))
    return max((size * 1024 for pid, size in sizes if pid in pids), default=0)


def _marks(raw: bytes) -> set[bytes]:
    """Return the marks in what was parked: where its frame could not be opened, in the frame, which may be base64."""
    return {*_MARK.findall(raw), *(mark for part in _BASE64.findall(raw) for mark in _MARK.findall(_decoded(part)))}


def _decoded(part: bytes) -> bytes:
    return base64.b64decode(part[: len(part) // 4 * 4])


def _assert_parked(jobs: Sequence[StoredJob], mutants: Sequence[Mutant], expected: int) -> None:
    """See each of those that can carry a mark parked once, no other, and as many in all."""
    assert all(job.failure for job in jobs)
    marks = Counter(mark for job in jobs for mark in _marks(job.raw))
    wanted = {each.mark.encode(): each.what for each in mutants if each.fate is Fate.PARKED and _MARK.search(each.raw)}
    assert {mark: what for mark, what in wanted.items() if marks[mark] != 1} == {}
    assert {*marks} == {*wanted}
    assert len(jobs) == expected
