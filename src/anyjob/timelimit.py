"""Ends a job that runs longer than it may: one watching thread, started with the first limit."""

from __future__ import annotations

import heapq
import itertools
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta

from anyjob.clock import Clock
from anyjob.errors import JobTimeLimitError

__all__ = ["TimeLimits"]


class TimeLimits:
    """Calls back, once, whoever is not done by the time on the injected clock. Thread-safe, fork-safe."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._changed = threading.Condition()
        self._pid = 0
        self._sequence = itertools.count()
        self._alarms: list[tuple[datetime, int, Callable[[], None]]] = []

    @contextmanager
    def watch(self, seconds: float, expire: Callable[[], None]) -> Iterator[None]:
        """Call `expire` from another thread if the body takes longer than `seconds`."""
        alarm = (self._clock.now() + timedelta(seconds=seconds), next(self._sequence), expire)
        with self._changed:
            if self._pid != os.getpid():  # first use, or a forked child, which inherits no thread
                self._pid, self._alarms = os.getpid(), []
                threading.Thread(target=self._run, name="anyjob-time-limits", daemon=True).start()
            heapq.heappush(self._alarms, alarm)
            self._changed.notify()
        try:
            yield
        finally:
            with self._changed:
                if alarm in self._alarms:
                    self._alarms.remove(alarm)
                    heapq.heapify(self._alarms)

    def _run(self) -> None:
        with self._changed:
            while True:
                now = self._clock.now()
                while self._alarms and self._alarms[0][0] <= now:
                    heapq.heappop(self._alarms)[2]()
                self._clock.wait(self._changed, (self._alarms[0][0] - now).total_seconds() if self._alarms else None)

    @contextmanager
    def in_this_thread(self, seconds: float) -> Iterator[None]:
        """Raise `JobTimeLimitError` in the body when its time is up.

        Python delivers it between two bytecodes of this thread: a call that blocks in C (a socket, `time.sleep`)
        returns first. Put time-outs on those.
        """
        thread_id = threading.get_ident()
        lock = threading.Lock()
        state = _Interrupt()

        def expire() -> None:
            with lock:
                if not state.done:
                    state.fired = True
                    _raise_in(thread_id, JobTimeLimitError)

        try:
            with self.watch(seconds, expire):
                yield
        except JobTimeLimitError as error:
            if not error.args:
                raise JobTimeLimitError(f"ran longer than {seconds:g} s") from error
            raise
        finally:
            with lock:
                state.done = True
                if state.fired:
                    _raise_in(thread_id, None)  # not delivered yet: take it back


class _Interrupt:
    done = False
    fired = False


def _raise_in(thread_id: int, error: type[BaseException] | None) -> None:
    import ctypes  # heavy, and needed only when a limit has struck

    ctypes.pythonapi.PyThreadState_SetAsyncExc(
        ctypes.c_ulong(thread_id), None if error is None else ctypes.py_object(error)
    )
