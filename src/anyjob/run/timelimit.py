"""Ends a job that runs longer than it may: one watching thread, started with the first limit."""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from anyjob.base.clock import Clock, deadline_in
from anyjob.base.envelope import JobEnvelope
from anyjob.base.errors import JobTimeLimitError
from anyjob.base.forks import in_each_process
from anyjob.base.log import JobLogger, log_event

__all__ = ["TIME_LIMIT_GRACE", "TimeIsUp", "TimeLimits"]

logger = JobLogger("anyjob.worker")


TIME_LIMIT_GRACE: Final = 5.0
"""Seconds in which a job has to end after its time limit. Then it is stuck: a worker that can ends its process."""


class TimeIsUp(BaseException):
    """Raised in a job at its limit: no `except Exception` of its own swallows it."""


class TimeLimits:
    """Calls back once the time is up on the injected clock. Thread-safe, fork-safe."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._turn = 0
        self._sequence = itertools.count()
        in_each_process(self._begin)

    def _begin(self) -> None:
        self._changed = threading.Condition()
        self._runs = False
        self._alarms: list[tuple[float, int, Callable[[], float | None]]] = []

    @contextmanager
    def watch(self, seconds: float, expire: Callable[[], float | None]) -> Iterator[None]:
        """Call `expire` from another thread if the body takes longer than `seconds`.

        It returns after how many more seconds it is to be called again, or None. It may still be called while, or just
        after, the body ends.
        """
        number = next(self._sequence)
        with self._changed:
            if not self._runs:
                self._runs, self._alarms = True, []
                self._turn += 1
                thread = threading.Thread(target=self._run, args=(self._turn,), name="anyjob-time-limits", daemon=True)
                thread.start()
            self._set_alarm(seconds, number, expire)
            self._changed.notify()
        try:
            yield
        finally:
            with self._changed:
                self._alarms = [alarm for alarm in self._alarms if alarm[1] != number]
                heapq.heapify(self._alarms)

    def close(self) -> None:
        """End the thread, and with it all watches. A later watch starts it anew."""
        with self._changed:
            self._runs = False
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
            for _, number, expire in due:  # without the lock: the interrupted thread may be about to take it
                try:
                    again = expire()
                except Exception:
                    logger.exception("a time limit could not be enforced")
                    continue
                if again is not None:
                    with self._changed:
                        self._set_alarm(again, number, expire)

    def _set_alarm(self, seconds: float, number: int, expire: Callable[[], float | None]) -> None:
        """Note whom to call when. The caller holds the lock."""
        heapq.heappush(self._alarms, (deadline_in(self._clock, seconds), number, expire))

    @contextmanager
    def limit(self, seconds: float, who: JobEnvelope | None, strike: Callable[[], None]) -> Iterator[None]:
        """Call `strike` from another thread once the body ran longer than `seconds`, and raise `JobTimeLimitError` at
        its end, however it ended: a late result is no success.

        If it goes on for `TIME_LIMIT_GRACE` seconds more, this logs that `who` is stuck, and strikes again; and so on,
        after pauses that double.
        """
        begun, pause = self._clock.monotonic(), TIME_LIMIT_GRACE
        struck = ended = False

        def ran() -> float:
            return self._clock.monotonic() - begun

        def expire() -> float | None:
            nonlocal struck, pause
            if ended:
                return None
            if struck:
                log_event(logger, logging.ERROR, "stuck", who, time_limit=float(seconds), ran=ran())
                pause *= 2
            struck = True
            strike()
            return pause

        late: BaseException | None = None
        try:
            with self.watch(seconds, expire):
                yield
        except (Exception, TimeIsUp) as error:
            if not struck and ran() <= seconds:
                raise
            late = error
        finally:
            ended = True
        if struck or ran() > seconds:  # a call that kept the interpreter's lock kept `strike` from being called, too
            raise JobTimeLimitError(f"ran longer than {seconds:g} s") from late

    @contextmanager
    def in_this_thread(self, seconds: float, who: JobEnvelope | None = None) -> Iterator[None]:
        """Interrupt the body once it ran longer than `seconds`, as `limit` does.

        Python interrupts between two bytecodes of this thread: a call that blocks in C (a socket, `time.sleep`) returns
        first. Put time-outs on those.
        """
        thread_id = threading.get_ident()
        state = _Interrupt()

        def strike() -> None:
            with state.lock:
                if not state.done:
                    state.fired = True
                    _raise_in(thread_id, TimeIsUp)

        with self.limit(seconds, who, strike):
            # Disarmed in here, so that the interrupt can't strike where locks of others are taken.
            try:
                yield
            finally:
                with state.lock:
                    state.done = True
                    if state.fired:
                        _raise_in(thread_id, None)  # not delivered yet: take it back


class _Interrupt:
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.done = False
        self.fired = False


def _raise_in(thread_id: int, error: type[BaseException] | None) -> None:
    import ctypes  # a heavy import, needed only at a time limit

    ctypes.pythonapi.PyThreadState_SetAsyncExc(
        ctypes.c_ulong(thread_id), None if error is None else ctypes.py_object(error)
    )
