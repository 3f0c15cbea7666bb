"""Runs Dramatiq's command, and again when a job took its process along: `python -m anyjob_dramatiq <its arguments>`.

Dramatiq ends all its processes when one of them dies. Under a supervisor of your own, `dramatiq` alone will do.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Final

from anyjob.base.children import start_child
from anyjob_dramatiq.lifecycle import UP_VARIABLE

_KILLED: Final = 1  # what Dramatiq ends with when a process of it was killed; more is wrong usage, or a failed import
_TOLD_EARLY: Final = (_KILLED, -signal.SIGTERM, -signal.SIGINT)  # ... when it, or a process of it, did not listen yet
_LIVED: Final = 30.0
_LONGEST_PAUSE: Final = 30.0


class Supervisor:
    """Starts the command until it is told to stop; passes signals on.

    Once a worker was up, nothing that a job does to its process ends it: its exit code tells nothing, for a job may
    have chosen it. Before that, wrong usage and failed imports do. `up` is a path: the worker makes that file.
    """

    def __init__(self, argv: list[str], up: Path) -> None:
        self._argv = [sys.executable, "-m", "dramatiq", *argv]
        self._up = up
        self._process: subprocess.Popen[bytes] | None = None
        self._stopping = False
        self._woken, self._wake = os.pipe()

    def run(self) -> int:
        """Return the exit code of the last run."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._pass_on)
        pause = 0.0
        while True:
            begun = time.monotonic()
            code = self._run_once()
            was_up = self._up.exists()
            self._up.unlink(missing_ok=True)
            if self._stopping and not was_up and code in _TOLD_EARLY:
                return 0
            if self._stopping or not (was_up or code in (_KILLED, -signal.SIGKILL)):
                return code
            pause = 0.0 if time.monotonic() - begun > _LIVED else min(2 * pause + 0.5, _LONGEST_PAUSE)
            sys.stderr.write(f"anyjob: a process of dramatiq's died; it starts again in {pause:g}s\n")
            select.select([self._woken], [], [], pause)
            if self._stopping:
                return code

    def _run_once(self) -> int:
        self._process = start_child(self._argv, {**os.environ, UP_VARIABLE: str(self._up)})
        if self._stopping:  # told so meanwhile
            self._process.send_signal(signal.SIGTERM)
        return self._process.wait()

    def _pass_on(self, number: int, _frame: FrameType | None) -> None:
        if number != signal.SIGHUP:
            self._stopping = True
            os.write(self._wake, b"x")
        if self._process is not None:
            self._process.send_signal(number)


if __name__ == "__main__":
    with TemporaryDirectory(prefix="anyjob-") as folder:
        sys.exit(Supervisor(sys.argv[1:], Path(folder) / "up").run())
