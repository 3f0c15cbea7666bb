"""Worker processes are started again when a job took them along."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "05_write_an_adapter"

SUPERVISOR = """
import json, sys
from anyjob.run.supervisor import Supervisor
commands, bounded = json.loads(sys.argv[1])
sys.exit(Supervisor(commands, bounded=bounded, killed=(1,), absent=(4,)).run())
"""

WORKER = """
import os, select, signal, sys
from pathlib import Path
from anyjob.run.supervisor import say_up
number, codes = Path(sys.argv[1]), sys.argv[2:]
told = []
signal.signal(signal.SIGTERM, lambda number, frame: told.append(number))
life = int(number.read_text()) if number.exists() else 0
number.write_text(str(life + 1))
how, _, code = codes[life].partition(":")
if how != "early":
    say_up()
if how == "wait":
    os.write(1, b"waits" + bytes([10]))
    while not told:
        select.select([], [], [], 0.05)  # not pause: the signal may come just before it
elif how == "well":
    Path(os.environ["_ANYJOB_UP"]).unlink()
os._exit(int(code))
"""


@contextmanager
def supervised(tmp_path: Path, *workers: str, bounded: bool = False) -> Iterator[subprocess.Popen[str]]:
    """Run a worker for each text; its words are how its lives end: `died:0`, `early:3`, `well:0`, `wait:5`."""
    import json

    commands = {
        f"w{number}": [sys.executable, "-c", WORKER, str(tmp_path / f"w{number}"), *lives.split()]
        for number, lives in enumerate(workers)
    }
    argv = [sys.executable, "-c", SUPERVISOR, json.dumps([commands, bounded])]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def read_until(process: subprocess.Popen[str], text: str) -> str:
    assert process.stdout is not None
    read = ""
    for line in process.stdout:
        read += line
        if text in line:
            return read
    pytest.fail(f"it ended without {text}: {read}")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_what_dies_is_started_again_whatever_its_exit_code_until_it_is_told_to_stop(
    tmp_path: Path, number: signal.Signals
) -> None:
    with supervised(tmp_path, "died:0 died:3 wait:5") as process:
        said = read_until(process, "waits")
        assert "died backend=w0 code=0 pause=0.5s" in said
        assert "died backend=w0 code=3 pause=1.5s" in said  # it died at once
        if number == signal.SIGINT:  # which this worker does not handle: as one that does not listen yet
            process.send_signal(number)
            assert process.wait(10) == 0
        else:
            process.send_signal(number)
            assert process.wait(10) == 5


@pytest.mark.parametrize("code", [2, 3, 4])
def test_what_ends_before_it_ran_ends_the_supervisor(tmp_path: Path, code: int) -> None:
    with supervised(tmp_path, f"early:{code}") as process:
        assert process.wait(10) == code


def test_once_it_ran_a_worker_is_started_again_where_its_server_is_away(tmp_path: Path) -> None:
    with supervised(tmp_path, "died:9 early:4 early:3") as process:
        assert process.wait(20) == 3  # but not if its settings are wrong by now


def test_one_that_ends_by_itself_has_the_others_told(tmp_path: Path) -> None:
    with supervised(tmp_path, "wait:0", "well:0") as process:
        assert process.wait(10) == 0


def test_bounded_ones_that_end_well_leave_the_others_to_go_on(tmp_path: Path) -> None:
    with supervised(tmp_path, "wait:5", "well:0", bounded=True) as process:
        read_until(process, "waits")
        process.terminate()
        assert process.wait(10) == 5


JOBS = """
import os
from anyjob import background_job

@background_job("leave")
def leave() -> None:
    os._exit(0)

@background_job("stay")
def stay() -> None:
    print("stayed", flush=True)
"""


@pytest.mark.timeout(60)
def test_a_job_that_kills_its_process_is_parked_after_its_losses_on_a_store_too(tmp_path: Path) -> None:
    pytest.importorskip("click", reason="anyjob[cli] is not installed")
    info = tmp_path / "folder-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: folder\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[anyjob.backends]\nfolder = folder_store:folder_backend\n")
    (tmp_path / "left_jobs.py").write_text(JOBS)
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(tmp_path), str(EXAMPLE)]),
        "ANYJOB_IMPORTS": "left_jobs",
        "ANYJOB_BACKEND": f"folder:{tmp_path / 'jobs'}",
        "ANYJOB_LEASE": "0.5",
        "ANYJOB_MAX_LOSSES": "1",
    }
    command = [sys.executable, "-m", "anyjob"]

    def run(*argv: str) -> str:
        return subprocess.run([*command, *argv], env=environment, text=True, capture_output=True, check=True).stdout

    run("enqueue", "leave", "{}")
    with subprocess.Popen(
        [*command, "worker"], env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        try:
            assert "its process ended 2 times while it ran" in read_until(process, "gave up job=leave")
            run("enqueue", "stay", "{}")
            read_until(process, "stayed")
            process.terminate()
            assert process.wait(10) == 0
        finally:
            process.kill()
    assert '"abandoned": 1' in run("count", "--json")
