"""Ctrl-C while jobs run in the main thread: it is the process's, and no job is charged for it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event
from types import FrameType

__all__ = ["stopped_by_interrupt"]


class _StopFirst:
    """A handler of SIGINT that sets `stop` and then does what the one before it did."""

    def __init__(self, stop: Event, before: _StopFirst | None) -> None:
        self._stop = stop
        self._before = before

    def __call__(self, signum: int, frame: FrameType | None) -> None:
        self._stop.set()
        (self._before or signal.default_int_handler)(signum, frame)


@contextmanager
def stopped_by_interrupt(stop: Event) -> Iterator[None]:
    """Let a Ctrl-C set `stop` before it raises KeyboardInterrupt, so that the worker knows it as an order to stop.

    In the main thread, and where Python's own handler is in force; elsewhere it changes nothing. If something in the
    body swallowed the interrupt, it is raised at the body's end.
    """
    before = signal.getsignal(signal.SIGINT) if threading.current_thread() is threading.main_thread() else None
    if before is not signal.default_int_handler and not isinstance(before, _StopFirst):
        yield
        return
    signal.signal(signal.SIGINT, _StopFirst(stop, before if isinstance(before, _StopFirst) else None))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if stop.is_set():
        raise KeyboardInterrupt
