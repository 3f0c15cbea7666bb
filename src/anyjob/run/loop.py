"""The one long-lived event loop for the async jobs of a process."""

from __future__ import annotations

import threading
from collections.abc import Coroutine
from concurrent.futures import CancelledError, Future
from typing import TYPE_CHECKING, Any, TypeVar

from anyjob.base.errors import JobDefinitionError
from anyjob.base.forks import in_each_process
from anyjob.base.log import JobLogger

if TYPE_CHECKING:
    import asyncio

__all__ = ["JobLoop"]

logger = JobLogger("anyjob.worker")

T = TypeVar("T")


class JobLoop:
    """An asyncio loop in a daemon thread, started on first use, anew in a forked child. Thread-safe.

    One loop for all jobs, so that connection pools and locks made in one job work in the next. Only `close` ends it: if
    a job stops the loop, or cancels the tasks of others, those go on.
    """

    def __init__(self) -> None:
        in_each_process(self._begin)

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._closing = threading.Event()
        self._owners: dict[asyncio.Task[Any], object] = {}

    def run(self, coroutine: Coroutine[Any, Any, T], owner: object = None) -> T:
        """Run `coroutine` on the loop with this thread's context variables and wait for its result.

        `owner` is whoever may `cancel` it. Raises what the coroutine raises, and `JobDefinitionError` on the loop's own
        thread, where waiting would never end.
        """
        import asyncio  # a heavy import, which only async jobs need

        if threading.current_thread() is self._thread:
            coroutine.close()
            raise JobDefinitionError("An async job can't wait for another job: await it, or enqueue it.")
        future = self.submit(self._owned(coroutine, owner))
        try:
            return future.result()
        except CancelledError as error:  # the task was cancelled; asyncio's own class tells the waiting thread
            raise asyncio.CancelledError from error
        except BaseException:
            future.cancel()  # the waiting thread was interrupted: the coroutine must not go on alone
            raise

    def submit(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        """Start `coroutine` on the loop with this thread's context variables."""
        import asyncio

        return asyncio.run_coroutine_threadsafe(coroutine, self._started())

    def cancel(self, owner: object) -> None:
        """Cancel the coroutines that run on the loop for `owner`, and no others."""
        for task, each in list(self._owners.items()):
            if each is owner:
                task.get_loop().call_soon_threadsafe(task.cancel)

    def close(self) -> None:
        """Stop the loop, cancelling its tasks, and give its thread a second. A later `run` starts anew."""
        with self._lock:
            (loop, self._loop), (thread, self._thread) = (self._loop, None), (self._thread, None)
            if loop is None or loop.is_closed():
                return
            self._closing.set()
            loop.call_soon_threadsafe(loop.stop)
        if thread is not None and thread is not threading.current_thread():
            thread.join(1.0)

    async def _owned(self, coroutine: Coroutine[Any, Any, T], owner: object) -> T:
        import asyncio

        task = asyncio.current_task()
        assert task is not None  # noqa: S101  # for mypy: we are in one
        self._owners[task] = owner
        try:
            return await coroutine
        finally:
            del self._owners[task]

    def _started(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None or self._loop.is_closed():
                import asyncio

                self._loop, self._owners = asyncio.new_event_loop(), {}
                self._closing = threading.Event()
                serve = threading.Thread(
                    target=_serve, args=(self._loop, self._closing), name="anyjob-loop", daemon=True
                )
                self._thread = serve
                serve.start()
            return self._loop


def _serve(loop: asyncio.AbstractEventLoop, closing: threading.Event) -> None:
    import asyncio

    asyncio.set_event_loop(loop)
    while not (closing.is_set() or loop.is_closed()):
        try:
            loop.run_forever()
            if not (closing.is_set() or loop.is_closed()):
                logger.warning("a job stopped the loop of async jobs; it goes on, for the others")
        except BaseException:
            # A task raised SystemExit or KeyboardInterrupt: asyncio raises it where the task is awaited, and leaves
            # the loop. The other tasks must go on.
            logger.warning("the loop of async jobs goes on after", exc_info=True)
    if loop.is_closed():
        logger.error("a job closed the loop of async jobs, and with it what ran there; the next job starts another")
        return
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()
