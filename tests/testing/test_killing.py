"""The kit's kill leaves nobody alive, whoever starts new processes meanwhile, and wherever."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from anyjob.testing.conformance.processes import WorkerProcess
from anyjob.testing.probes.journal import wait_until

_REPLACES_ITS_CHILDREN = """
import os, pathlib, subprocess, sys
folder = pathlib.Path(sys.argv[1])
line = "import os, pathlib, threading; pathlib.Path(str(os.getpid())).touch(); threading.Event().wait(60)"
def start(**options):
    return subprocess.Popen([sys.executable, "-c", line], cwd=folder, **options)
if os.fork() == 0:  # an orphan, which starts one in a session of its own
    if os.fork() == 0:
        start(start_new_session=True).wait()
    os._exit(0)
os.wait()
children = [start() for _ in range(3)]
while True:
    children = [each if each.poll() is None else start() for each in children]
"""


def test_nobody_outlives_a_kill(tmp_path: Path) -> None:
    (tmp_path / "pids").mkdir()
    script = tmp_path / "script.py"
    script.write_text(_REPLACES_ITS_CHILDREN)
    worker = WorkerProcess([sys.executable, str(script), str(tmp_path / "pids")], {**os.environ}, tmp_path / "log")
    wait_until(lambda: len([*(tmp_path / "pids").iterdir()]) == 4, what=lambda: f"4 processes; {worker.said()}")
    family = worker.pids
    assert {int(each.name) for each in (tmp_path / "pids").iterdir()} < family
    worker.kill()
    started = {int(each.name) for each in (tmp_path / "pids").iterdir()}
    assert not worker.pids
    assert not [pid for pid in family | started if Path(f"/proc/{pid}/status").exists() and not _ended(pid)]


def _ended(pid: int) -> bool:
    return "State:\tZ" in Path(f"/proc/{pid}/status").read_text()
