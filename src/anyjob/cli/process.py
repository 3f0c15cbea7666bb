"""A worker as a process: signals in, a graceful stop out."""

from __future__ import annotations

import logging
import signal
import threading
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Final, Generic, TypeVar

from anyjob.base.log import JobLogger, log_event
from anyjob.run.supervisor import say_up
from anyjob.run.worker import JobWorker

__all__ = ["run_worker"]

logger = JobLogger("anyjob.worker")

T = TypeVar("T")


def run_worker(worker: JobWorker, up: str | None = None) -> bool:
    """Run until TERM or INT, or until it ends by itself; return whether all jobs finished in time.

    The first signal stops claiming and lets running jobs finish; a second one gives them back at once. `up` is the file
    by which a `Supervisor` knows that jobs are run; it is gone at the end.
    """
    if up is None:
        return _run_until_told(worker)
    say_up(up)
    finished = _run_until_told(worker)
    Path(up).unlink(missing_ok=True)
    return finished


def _run_until_told(worker: JobWorker) -> bool:
    events: _Events[bool] = _Events()
    worker.start()
    logger.info("ready")

    def stop() -> None:
        finished = False
        try:
            finished = worker.stop()
        finally:
            events.put(finished)

    def stop_at_its_end() -> None:
        if worker.join() and not told:
            stop()

    told = False
    threading.Thread(target=stop_at_its_end, name="anyjob-end", daemon=True).start()
    event = events.next()
    if not isinstance(event, bool):
        told = True
        threading.Thread(target=stop, name="anyjob-stop", daemon=True).start()
        event = events.next()
    if isinstance(event, bool):
        return event
    worker.stop(timeout=0)
    return False


class _Events(Generic[T]):
    """Events, one after the other: TERM and INT, and those that are put here."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[T | signal.Signals] = SimpleQueue()
        # A handler may interrupt code that holds the locks of logging or of an Event; a SimpleQueue is made for it.
        self.put = self._queue.put
        for each in (signal.SIGTERM, signal.SIGINT):
            signal.signal(each, lambda number, _frame: self.put(signal.Signals(number)))

    def next(self) -> T | signal.Signals:
        """Wait for the next one, and log it if it is a signal."""
        while True:
            try:
                # A signal that comes just before a thread begins to wait does not wake it: look up now and then.
                event = self._queue.get(timeout=_LONGEST_WAIT)
            except Empty:
                continue
            if isinstance(event, signal.Signals):
                log_event(logger, logging.INFO, "received", signal=event.name)
            return event


_LONGEST_WAIT: Final = 0.5
