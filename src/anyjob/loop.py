"""The one long-lived event loop on which a process that runs jobs runs its async ones."""

from __future__ import annotations

import os
import threading
from collections.abc import Coroutine
from concurrent.futures import CancelledError, Future
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import asyncio

__all__ = ["JobLoop"]

T = TypeVar("T")


class JobLoop:
    """An asyncio loop in a daemon thread, started on first use, anew in a forked child. Thread-safe.

    One loop for all jobs, so that connection pools and locks made in one job work in the next.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pid = 0
        self._loop: asyncio.AbstractEventLoop | None = None

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run `coroutine` on the loop with this thread's context variables and wait for its result."""
        import asyncio

        future = self.submit(coroutine)
        try:
            return future.result()
        except CancelledError as error:  # the task was cancelled; asyncio's own class says so to who waits
            raise asyncio.CancelledError from error
        except BaseException:
            future.cancel()  # the waiter was interrupted: the coroutine must not go on alone
            raise

    def submit(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        """Start `coroutine` on the loop with this thread's context variables."""
        import asyncio

        return asyncio.run_coroutine_threadsafe(coroutine, self._started())

    def cancel_all(self) -> None:
        """Cancel what runs on the loop now."""
        import asyncio

        loop = self._loop
        if loop is not None and self._pid == os.getpid():
            loop.call_soon_threadsafe(lambda: [task.cancel() for task in asyncio.all_tasks(loop)])

    def close(self) -> None:
        """Stop the loop, cancelling what is left on it. A later `run` starts a new one."""
        with self._lock:
            loop, self._loop = self._loop, None
            if loop is not None and self._pid == os.getpid():
                loop.call_soon_threadsafe(loop.stop)

    def _started(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None or self._pid != os.getpid():
                import asyncio

                self._loop, self._pid = asyncio.new_event_loop(), os.getpid()
                threading.Thread(target=_serve, args=(self._loop,), name="anyjob-loop", daemon=True).start()
            return self._loop


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    import asyncio

    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        loop.close()
