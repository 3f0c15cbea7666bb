"""Worker processes that this one starts, and that end when it does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence

__all__ = ["start_child"]


def start_child(argv: Sequence[str], environment: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
    """Start a command that is told to stop (TERM) when this process ends, even by `kill -9`: on Linux; elsewhere it
    outlives a `kill -9`. To be called in the main thread, before others are started.

    It has a process group of its own: what a terminal sends to all would reach it twice, and twice means hurry.
    """
    return subprocess.Popen(argv, env=environment, process_group=0, preexec_fn=_stop_with(os.getpid()))  # noqa: PLW1509


def _stop_with(parent: int) -> Callable[[], None] | None:
    if sys.platform != "linux":
        return None
    import ctypes  # a heavy import, needed only to start workers

    libc = ctypes.CDLL(None)

    def ask_the_kernel() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)  # kept by exec
        if os.getppid() != parent:  # it ended before it could be watched
            os.kill(os.getpid(), signal.SIGTERM)

    return ask_the_kernel


_PR_SET_PDEATHSIG = 1
