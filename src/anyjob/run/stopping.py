"""The bound of a stop: running jobs are told, get their time, and go back if they haven't ended."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from typing import Final, NoReturn

from anyjob.base.log import JobLogger, log_event
from anyjob.run.executor import JobExecutor

__all__ = ["HANDED_BACK", "end_at_once", "stop_in_time"]

logger = JobLogger("anyjob.worker")

HANDED_BACK: Final = 5
"""Exit code of a worker process that was stopped while jobs ran, and gave them back. Else it is 0."""

_GRACE: Final = 1.0


def stop_in_time(
    executor: JobExecutor,
    stop: threading.Event,
    timeout: float,
    *,
    ended: Callable[[float], bool],
    hand_back: Callable[[], object],
    running: int | None = None,
) -> bool:
    """Wait `timeout` seconds for the jobs that were executed with `stop`, which is set; return whether they ended.

    `ended` waits for so many seconds and returns whether they ended. If not, async jobs are cancelled, all jobs get a
    second more, and if that was not enough, `hand_back` is called. `running` is the number of jobs, for the log.
    """
    log_event(logger, logging.INFO, "stopping", running=running, timeout=float(timeout))
    if ended(timeout):
        return True
    executor.cancel_async_jobs(stop)
    if not ended(_GRACE):
        hand_back()
    return False


def end_at_once(executor: JobExecutor, code: int) -> NoReturn:
    """End the process whatever its threads do: nothing else ends a job that ignores the stop."""
    executor.end_process()
    # In a thread: a job that still runs may hold the lock of a handler.
    flush = threading.Thread(target=logging.shutdown, name="anyjob-flush", daemon=True)
    flush.start()
    flush.join(_GRACE)
    os._exit(code)
