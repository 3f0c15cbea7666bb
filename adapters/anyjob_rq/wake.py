"""Waits in the main thread of a worker, until a signal or a child's end."""

from __future__ import annotations

import contextlib
import select
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

__all__ = ["Wake"]

Handler = Callable[[int, FrameType | None], None]


class Wake:
    """A pause that every signal ends at once. A lock or a condition won't do: the code that a handler interrupts may
    hold it.
    """

    def __init__(self) -> None:
        self._read, self._write = socket.socketpair()
        self._read.setblocking(False)
        self._write.setblocking(False)

    def close(self) -> None:
        """Close its descriptors."""
        self._read.close()
        self._write.close()

    def wait(self, seconds: float) -> None:
        """Return after `seconds`, or at the first signal since the last wait."""
        if select.select([self._read], [], [], seconds)[0]:
            with contextlib.suppress(BlockingIOError):
                while self._read.recv(4096):
                    pass

    @contextmanager
    def on_signals(self, handler: Handler) -> Iterator[None]:
        """Call `handler` for TERM and INT in the body. Elsewhere than in the main thread this does nothing."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        wanted: dict[int, Handler] = {signal.SIGTERM: handler, signal.SIGINT: handler}
        if _CHILD_ENDS is not None:
            wanted[_CHILD_ENDS] = lambda _number, _frame: None  # without a handler it would not wake us
        before = {number: signal.signal(number, each) for number, each in wanted.items()}
        wakeup = signal.set_wakeup_fd(self._write.fileno(), warn_on_full_buffer=False)
        if hasattr(signal, "pthread_sigmask"):
            signal.pthread_sigmask(signal.SIG_UNBLOCK, wanted)  # signals that the pool blocked
        try:
            yield
        finally:
            signal.set_wakeup_fd(wakeup)
            for number, each in before.items():
                signal.signal(number, each)

    @staticmethod
    def leave_to_child() -> None:
        """Remove, in a forked child, the handlers that would wake its parent."""
        signal.set_wakeup_fd(-1)
        if _CHILD_ENDS is not None:
            signal.signal(_CHILD_ENDS, signal.SIG_DFL)


_CHILD_ENDS: Final = getattr(signal, "SIGCHLD", None)
