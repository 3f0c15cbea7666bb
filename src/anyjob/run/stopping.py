"""The bound of a stop: running jobs are told, get their time, and what is left goes back."""

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
"""What a worker's process ends with that was stopped while jobs ran, and gave them back. Else it ends with 0."""

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

    `ended` waits so long and tells. If they did not, async ones are cancelled, all get a second more, and `hand_back`
    is called if that was not enough. `running` is how many they are, for the log.
    """
    log_event(logger, logging.INFO, "stopping", running=running, timeout=float(timeout))
    if ended(timeout):
        return True
    executor.cancel_async_jobs(stop)
    if not ended(_GRACE):
        hand_back()
    return False


def end_at_once(executor: JobExecutor, code: int) -> NoReturn:
    """End the process whatever its threads do: nothing else ends a job that doesn't want to."""
    executor.end_process()
    # In a thread: whoever still runs may hold the lock of a handler.
    flush = threading.Thread(target=logging.shutdown, name="anyjob-flush", daemon=True)
    flush.start()
    flush.join(_GRACE)
    os._exit(code)
