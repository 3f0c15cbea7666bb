"""Workers as processes: signals in, a graceful stop out."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Mapping, Sequence
from queue import Empty, SimpleQueue
from typing import Final, Generic, TypeVar

from anyjob.base.children import start_child
from anyjob.base.log import JobLogger, log_event
from anyjob.run.worker import JobWorker

__all__ = ["run_children", "run_worker"]

logger = JobLogger("anyjob.worker")

T = TypeVar("T")


def run_worker(worker: JobWorker) -> bool:
    """Run until TERM or INT, or until it ends by itself; return whether all jobs finished in time.

    The first signal stops claiming and lets running jobs finish; a second one gives them back at once.
    """
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


def run_children(commands: Mapping[str, Sequence[str]], *, bounded: bool = False) -> int:
    """Run a worker process for each backend until TERM or INT, which they are passed; return the worst exit code.

    When one ends by itself, the others are told to stop: whoever started us starts all anew. But if all are `bounded`,
    to end by themselves, one that ended well leaves the others to go on. None outlives us.
    """
    events: _Events[tuple[str, int]] = _Events()
    children = {alias: start_child(argv) for alias, argv in commands.items()}
    for each in children.items():
        threading.Thread(target=lambda alias, child: events.put((alias, child.wait())), args=each, daemon=True).start()
    codes: dict[str, int] = {}
    told: signal.Signals | None = None
    while len(codes) < len(children):
        event = events.next()
        if isinstance(event, signal.Signals):
            told = event
        else:
            alias, code = event
            codes[alias] = 0 if told is not None and code == -told else code  # told before it had begun
            expected = told is not None or (bounded and code == 0)
            log_event(logger, logging.INFO if expected else logging.ERROR, "ended", backend=alias, code=code)
            if expected:
                continue
            told = signal.SIGTERM
        for alias, child in children.items():
            if alias not in codes:
                child.send_signal(told)
    return max(code if code >= 0 else 128 - code for code in codes.values())


class _Events(Generic[T]):
    """What happens, one after the other: TERM and INT, and what is put here."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[T | signal.Signals] = SimpleQueue()
        # A handler interrupts whatever holds the locks of logging or of an Event; a SimpleQueue is made for it.
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
