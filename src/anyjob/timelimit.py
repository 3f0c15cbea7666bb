"""Ends a job that runs longer than it may: one watching thread, started with the first limit."""

from __future__ import annotations

import heapq
import itertools
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from anyjob.clock import Clock, seconds_from_now
from anyjob.errors import JobTimeLimitError
from anyjob.log import JobLogger

__all__ = ["TimeLimits"]

logger = JobLogger("anyjob.worker")


class _TimeIsUp(BaseException):
    """What a job feels at its limit: no `except Exception` of its own swallows it."""


class TimeLimits:
    """Calls back, once, whoever is not done by the time on the injected clock. Thread-safe, fork-safe."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._changed = threading.Condition()
        self._pid = 0
        self._turn = 0
        self._sequence = itertools.count()
        self._alarms: list[tuple[float, int, Callable[[], None]]] = []

    @contextmanager
    def watch(self, seconds: float, expire: Callable[[], None]) -> Iterator[None]:
        """Call `expire` from another thread if the body takes longer than `seconds`.

        It may still be called while, or just after, the body ends.
        """
        alarm = (seconds_from_now(self._clock, seconds), next(self._sequence), expire)
        with self._changed:
            if self._pid != os.getpid():  # first use, or a forked child, which inherits no thread
                self._pid, self._alarms = os.getpid(), []
                self._turn += 1
                thread = threading.Thread(target=self._run, args=(self._turn,), name="anyjob-time-limits", daemon=True)
                thread.start()
            heapq.heappush(self._alarms, alarm)
            self._changed.notify()
        try:
            yield
        finally:
            with self._changed:
                if alarm in self._alarms:
                    self._alarms.remove(alarm)
                    heapq.heapify(self._alarms)

    def close(self) -> None:
        """End the thread, and with it all watches. A later one starts it anew."""
        with self._changed:
            self._pid = 0
            self._turn += 1
            self._changed.notify_all()

    def _run(self, turn: int) -> None:
        while turn == self._turn:
            due = []
            with self._changed:
                if turn != self._turn:
                    return
                now = self._clock.monotonic()
                while self._alarms and self._alarms[0][0] <= now:
                    due.append(heapq.heappop(self._alarms))
                if not due:
                    self._clock.wait(self._changed, self._alarms[0][0] if self._alarms else None)
            for _, _, expire in due:  # without the lock: who is interrupted may be about to take it
                try:
                    expire()
                except Exception:
                    logger.exception("a time limit could not be enforced")

    @contextmanager
    def in_this_thread(self, seconds: float) -> Iterator[None]:
        """Raise `JobTimeLimitError` once the body ran longer than `seconds`.

        Python interrupts between two bytecodes of this thread: a call that blocks in C (a socket, `time.sleep`) returns
        first. Put time-outs on those.
        """
        thread_id = threading.get_ident()
        state = _Interrupt()

        def expire() -> None:
            with state.lock:
                if not state.done:
                    state.fired = True
                    _raise_in(thread_id, _TimeIsUp)

        try:
            with self.watch(seconds, expire):
                # Disarmed in here, so that the interrupt can't strike where locks of others are taken.
                try:
                    yield
                finally:
                    with state.lock:
                        state.done = True
                        if state.fired:
                            _raise_in(thread_id, None)  # not delivered yet: take it back
        except _TimeIsUp as error:
            raise JobTimeLimitError(f"ran longer than {seconds:g} s") from error


class _Interrupt:
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.done = False
        self.fired = False


def _raise_in(thread_id: int, error: type[BaseException] | None) -> None:
    import ctypes  # heavy, and needed only when a limit has struck

    ctypes.pythonapi.PyThreadState_SetAsyncExc(
        ctypes.c_ulong(thread_id), None if error is None else ctypes.py_object(error)
    )
