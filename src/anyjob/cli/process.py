"""A worker of ours as a process: signals in, a graceful stop out."""

from __future__ import annotations

import logging
import signal
import threading
from queue import SimpleQueue
from types import FrameType

from anyjob.worker import JobWorker

__all__ = ["run_worker"]

logger = logging.getLogger("anyjob.worker")


def run_worker(worker: JobWorker) -> bool:
    """Run until TERM or INT; return whether all jobs finished in time.

    The first signal stops claiming and lets running jobs finish; a second one gives them back at once.
    """
    received: SimpleQueue[signal.Signals | None] = SimpleQueue()

    def on_signal(number: int, _frame: FrameType | None) -> None:
        # Nothing but this: a handler interrupts whatever holds the locks of logging or of an Event. A SimpleQueue is
        # made for it.
        received.put(signal.Signals(number))

    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, on_signal)
    worker.start()
    logger.info("ready")
    _log(received.get())
    finished: list[bool] = []

    def stop() -> None:
        try:
            finished.append(worker.stop())
        finally:
            received.put(None)

    threading.Thread(target=stop, name="anyjob-stop", daemon=True).start()
    hurry = received.get()
    if hurry is None:
        return finished == [True]
    _log(hurry)
    worker.stop(timeout=0)
    return False


def _log(received: signal.Signals | None) -> None:
    if received is not None:
        logger.info("received signal=%s", received.name)
