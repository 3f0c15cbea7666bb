"""RQ's own command line, whose `worker` starts on a full server as well, and whose pool ends when it is told to."""

from __future__ import annotations

import signal
from typing import Any

from redis import Redis
from rq.cli import workers
from rq.cli.cli import main
from rq.suspension import WORKERS_SUSPENDED
from rq.worker_pool import WorkerPool

__all__: list[str] = []


def _is_suspended(connection: Redis) -> bool:
    """RQ asks this in a transaction, and Redis refuses any, even of reads, once its memory is used up."""
    return bool(connection.exists(WORKERS_SUSPENDED))


class _Pool(WorkerPool):
    """Tells all its workers to stop: RQ's doesn't know one yet that is just being started, whose process, moreover,
    forgets a signal that comes too soon. So signals wait: here until it is known, there until it listens (`Wake`).
    """

    def start_worker(self, *args: Any, **options: Any) -> None:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
        try:
            super().start_worker(*args, **options)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


for name, ours in (("is_suspended", _is_suspended), ("WorkerPool", _Pool)):
    setattr(workers, name, ours)  # nothing public tells it otherwise
main(prog_name="rq")
