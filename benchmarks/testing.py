"""What the sandbox costs a test. One command, no server.

    python benchmarks/testing.py

A thousand small tests with the fixture, less a thousand with an empty one; then twelve tries over 34 hours and a
follow-up job in one test.
"""

from __future__ import annotations

import logging
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import anyjob
from anyjob.testing import in_memory

TESTS = 1000
ROUNDS = 5

HEAD = """
import pytest
from dataclasses import dataclass
import anyjob

@dataclass
class Note:
    text: str

class TakeNote(anyjob.BackgroundJob[Note]):
    def execute(self, args: Note) -> None:
        pass

@pytest.fixture
def empty():
    yield
"""
EMPTY = """
@pytest.mark.parametrize("number", range({count}))
def test_empty(empty, number):
    pass
"""
SMALL = """
@pytest.mark.parametrize("number", range({count}))
def test_small(anyjob_sandbox, number):
    TakeNote.enqueue(Note("a"), delay=60)
    anyjob_sandbox.assert_enqueued(TakeNote, Note("a"), delay=60)
    anyjob_sandbox.travel(60)
    assert anyjob_sandbox.run() == 1
"""


def pytest_seconds(code: str) -> float:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "test_it.py"
        path.write_text(HEAD + code.format(count=TESTS))
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(path)]
        start = time.perf_counter()
        subprocess.run(command, check=True, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return time.perf_counter() - start


@dataclass
class Stubborn:
    number: int


@dataclass
class Sequel:
    number: int


class Persist(anyjob.BackgroundJob[Stubborn]):
    def execute(self, args: Stubborn) -> None:
        if anyjob.current_job().try_count < 12:
            raise ConnectionError("not yet")
        FollowUp.enqueue(Sequel(args.number), delay=60)


class FollowUp(anyjob.BackgroundJob[Sequel]):
    def execute(self, args: Sequel) -> None:
        pass


def twelve_tries() -> float:
    logging.getLogger("anyjob").setLevel(logging.CRITICAL)
    start = time.perf_counter()
    with in_memory() as sandbox:
        Persist.enqueue(Stubborn(7))
        assert sandbox.run_all(raises=False) == 13
        sandbox.assert_ran(Persist, times=12)
        sandbox.assert_ran(FollowUp, error=None)
    return time.perf_counter() - start


def main() -> None:
    """Measure both in turn, so that all meet the same machine."""
    seconds: dict[str, list[float]] = {EMPTY: [], SMALL: []}
    for _ in range(ROUNDS):
        for code, times in seconds.items():
            times.append(pytest_seconds(code))
    empty, small = (statistics.median(times) for times in seconds.values())
    print(f"{TESTS} tests with an empty fixture {empty:.2f} s, with the sandbox {small:.2f} s")
    print(f"a small test costs {(small - empty) / TESTS * 1000:.2f} ms more than an empty one")
    first, *tries = [twelve_tries() * 1000 for _ in range(20)]
    print(
        f"12 tries over 34 hours and a follow-up job: {statistics.median(tries):.1f} ms, the first time {first:.1f} ms"
    )


if __name__ == "__main__":
    main()
