"""RQ's own command line, whose `worker` starts on a full server as well, and whose pool ends when it is told to."""

from __future__ import annotations

import signal
from typing import Any

from rq.cli.cli import main
from rq.worker_pool import WorkerData, WorkerPool

from anyjob.extend import HANDED_BACK
from anyjob_rq.private import use_in_command_line

__all__: list[str] = []


class _Pool(WorkerPool):
    """Tells all its workers to stop: RQ's pool doesn't know yet a worker that is just being started, and that worker's
    process forgets a signal that arrives too early. So signals are blocked: here until the pool knows the worker, there
    until the worker listens (`Wake`).
    """

    handed_back = False

    def handle_dead_worker(self, worker_data: WorkerData) -> None:
        self.handed_back |= worker_data.process.exitcode == HANDED_BACK
        super().handle_dead_worker(worker_data)

    def start(self, *args: Any, **options: Any) -> None:
        super().start(*args, **options)
        if self.handed_back:
            raise SystemExit(HANDED_BACK)

    def start_worker(self, *args: Any, **options: Any) -> None:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
        try:
            super().start_worker(*args, **options)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


use_in_command_line(_Pool)
main(prog_name="rq")
