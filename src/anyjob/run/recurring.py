"""A thread that makes one call again and again, and outlives an unreachable server."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import ClassVar, Final, Self

from anyjob.base.clock import Clock, deadline_in
from anyjob.base.errors import AnyjobError
from anyjob.base.forks import in_each_process
from anyjob.base.log import JobLogger

__all__ = ["RecurringThread"]

logger = JobLogger("anyjob.worker")


class RecurringThread:
    """Calls `action` until it is stopped; each call returns the seconds until the next, on `clock`'s monotonic.

    An exception of the action is logged, and never ends the thread. A forked child does not have it.
    """

    known_errors: ClassVar[tuple[type[Exception], ...]] = (AnyjobError,)
    """The errors of an unreachable server: logged without a traceback."""

    def __init__(self, name: str, action: Callable[[], float], clock: Clock) -> None:
        self._action = action
        self._clock = clock
        in_each_process(self._begin)
        self._stopped = False
        self._failing = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def _begin(self) -> None:
        self._changed = threading.Condition()

    def start(self) -> Self:
        """Start, with a first call at once."""
        self._thread.start()
        return self

    def end(self) -> None:
        """Make no further call, and don't wait for one that is being made."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def stop(self) -> None:
        """Make no further call, and wait for one that is being made (the client's timeouts bound it)."""
        self.end()
        self._thread.join()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _run(self) -> None:
        while self._pause(self._act()):
            pass

    def _pause(self, seconds: float) -> bool:
        """Wait; return False if there is to be no further call."""
        until = deadline_in(self._clock, seconds)
        with self._changed:
            while not self._stopped:
                if self._clock.monotonic() >= until:
                    return True
                self._clock.wait(self._changed, until)
        return False

    def _act(self) -> float:
        try:
            pause = self._action()
        except Exception as error:  # of any kind: the next call may succeed
            if not self._failing:  # an unreachable server is logged once
                known = isinstance(error, self.known_errors)
                logger.warning("%s fails, and is tried again: %s", self._thread.name, error, exc_info=not known)
            self._failing = True
            return _PAUSE
        if self._failing:
            logger.info("%s goes on", self._thread.name)
        self._failing = False
        return pause


_PAUSE: Final = 0.25
