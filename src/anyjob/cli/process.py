"""A worker of ours as a process: signals in, a graceful stop out."""

from __future__ import annotations

import logging
import signal
import threading
from types import FrameType

from anyjob.worker import JobWorker

__all__ = ["run_worker"]

logger = logging.getLogger("anyjob.worker")


def run_worker(worker: JobWorker) -> bool:
    """Run until TERM or INT; return whether all jobs finished in time.

    The first signal stops claiming and lets running jobs finish; a second one gives them back at once.
    """
    stop, hurry = threading.Event(), threading.Event()

    def on_signal(number: int, _frame: FrameType | None) -> None:
        (hurry if stop.is_set() else stop).set()
        logger.info("received signal=%s", signal.Signals(number).name)

    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, on_signal)
    worker.start()
    logger.info("ready")
    stop.wait()
    finished: list[bool] = []
    stopping = threading.Thread(target=lambda: finished.append(worker.stop()), daemon=True)
    stopping.start()
    while stopping.is_alive() and not hurry.is_set():
        stopping.join(timeout=0.1)  # signals are only handled between two waits
    if hurry.is_set():
        worker.stop(timeout=0)
        return False
    return finished == [True]
