"""Starts worker processes, and starts them again when they crash. Needs no application."""

from __future__ import annotations

import logging
import os
import select
import signal
import subprocess
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Final

from anyjob.base.children import start_child
from anyjob.base.log import JobLogger, log_event

__all__ = ["UP_VARIABLE", "Supervisor", "say_up"]

logger = JobLogger("anyjob.worker")

UP_VARIABLE: Final = "_ANYJOB_UP"
"""Environment variable with the path of a file. A supervised worker makes the file once it runs, and removes it when it
ends by itself: if the file outlives the process, a job, or the system, ended the process.
"""


def say_up(path: str | None = None) -> None:
    """Tell the supervisor of this process, if it has one, that it runs. `path`: the value of the variable."""
    path = path or os.environ.get(UP_VARIABLE)
    if path:
        Path(path).touch()


class _Worker:
    """One command, its process and their state."""

    def __init__(self, argv: Sequence[str], up: Path) -> None:
        self._argv = argv
        self._up = up
        self._begun = 0.0
        self._pause = 0.0
        self._process: subprocess.Popen[bytes] | None = None
        self.starts_at: float | None = 0.0
        """When it is to be started, on the monotonic clock; None: it runs, or has ended for good."""
        self.code: int | None = None
        """Exit code, once it has ended for good."""
        self.was_up = False
        """Whether it ever ran, not just began."""

    def start(self) -> None:
        self.starts_at, self._begun = None, time.monotonic()
        self._process = start_child(self._argv, {**os.environ, UP_VARIABLE: str(self._up)})

    def send(self, number: int) -> None:
        if self._process is not None:
            self._process.send_signal(number)

    def end(self) -> tuple[int, bool] | None:
        """Return its exit code and whether it was up, if its process ended since the last call."""
        code = None if self._process is None else self._process.poll()
        if code is None:
            return None
        self._process = None
        was_up = self._up.exists()
        self._up.unlink(missing_ok=True)
        self.was_up |= was_up
        return code, was_up

    def start_later(self) -> float:
        """Start it again after a pause, which grows while it crashes at once; return the pause, in seconds."""
        now = time.monotonic()
        self._pause = 0.0 if now - self._begun > _LIVED else min(2 * self._pause + 0.5, _LONGEST_PAUSE)
        self.starts_at = now + self._pause
        return self._pause


class Supervisor:
    """Runs a worker process for each command until TERM or INT, which it passes on. In the main thread, and for POSIX.

    A worker that crashes while it runs jobs is started again, whatever its exit code, which a job may have chosen. If
    one ends by itself, or before it ran (wrong usage, a failed import), the others are told to stop, so that the
    supervisor of this process can start all anew. But if all are `bounded`, to end by themselves, and one ended well,
    the others go on. None outlives this process.

    `killed` are exit codes by which a command says that a process of its own was killed, `absent` those by which it
    says that the server was unreachable; after these it is started again if it ran. `also` are more signals to pass on.
    """

    def __init__(
        self,
        commands: Mapping[str, Sequence[str]],
        *,
        bounded: bool = False,
        killed: Collection[int] = (),
        absent: Collection[int] = (),
        also: Collection[signal.Signals] = (),
    ) -> None:
        self._commands = commands
        self._bounded = bounded
        self._killed = {*killed, -signal.SIGKILL}
        self._absent = absent
        self._signals = (signal.SIGTERM, signal.SIGINT, *also)
        self._received: list[int] = []
        self._told: int | None = None

    def run(self) -> int:
        """Return the worst exit code, when all have ended."""
        self._woken, self._wake = os.pipe()
        for end in (self._woken, self._wake):
            os.set_blocking(end, False)
        for number in (*self._signals, signal.SIGCHLD):
            signal.signal(number, self._on_signal)
        with TemporaryDirectory(prefix="anyjob-") as folder:
            workers = {
                name: _Worker(argv, Path(folder, str(number)))
                for number, (name, argv) in enumerate(self._commands.items())
            }
            while True:
                self._pass_on(workers.values())
                for name, each in workers.items():
                    self._look_at(name, each)
                codes = [each.code for each in workers.values() if each.code is not None]
                if len(codes) == len(workers):
                    return max(code if code >= 0 else 128 - code for code in codes)
                self._sleep(workers.values())

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        # Nothing but this: a handler may interrupt code that holds a lock.
        if number != signal.SIGCHLD:
            self._received.append(number)
        with suppress(BlockingIOError):  # full: it will wake us all the same
            os.write(self._wake, b"!")

    def _pass_on(self, workers: Collection[_Worker]) -> None:
        while self._received:
            number = self._received.pop(0)
            if number in (signal.SIGTERM, signal.SIGINT):
                self._told = number
            for each in workers:
                each.send(number)

    def _look_at(self, name: str, worker: _Worker) -> None:
        if worker.starts_at is not None:
            if self._told is not None:
                worker.starts_at, worker.code = None, 0
            elif worker.starts_at <= time.monotonic():
                worker.start()
        ended = worker.end()
        if ended is None:
            return
        code, was_up = ended
        if self._told is not None:
            unheard = code == -self._told or (not was_up and code in self._killed)
            worker.code = 0 if unheard else code  # the signal came before it listened
            log_event(logger, logging.INFO, "ended", backend=name, code=worker.code)
        elif was_up or code in self._killed or (worker.was_up and code in self._absent):
            log_event(logger, logging.ERROR, "died", backend=name, code=code, pause=worker.start_later())
        else:
            worker.code = code
            expected = self._bounded and code == 0
            log_event(logger, logging.INFO if expected else logging.ERROR, "ended", backend=name, code=code)
            if not expected:
                self._received.append(signal.SIGTERM)

    def _sleep(self, workers: Collection[_Worker]) -> None:
        starts = [each.starts_at for each in workers if each.starts_at is not None]
        timeout = max(0.0, min(starts) - time.monotonic()) if starts else None
        if not self._received:
            select.select([self._woken], [], [], timeout)
        with suppress(BlockingIOError):
            os.read(self._woken, 4096)


_LIVED: Final = 30.0
_LONGEST_PAUSE: Final = 30.0
