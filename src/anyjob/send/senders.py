"""The threads of `aenqueue`, which must not block the event loop: one for each backend, so that jobs stay in order."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextvars import copy_context
from typing import TYPE_CHECKING, Final, TypeVar

from anyjob.base.errors import EnqueueError
from anyjob.base.forks import in_each_process

if TYPE_CHECKING:
    import asyncio
    from concurrent.futures import ThreadPoolExecutor

__all__ = ["JobSenders"]

T = TypeVar("T")


class JobSenders:
    """Runs blocking sends for event loops, each within `timeout` seconds of the call. Thread-safe; a forked child has
    threads of its own.
    """

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        in_each_process(self._begin)

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._threads: dict[str, ThreadPoolExecutor] = {}

    async def send(self, alias: str, ids: Sequence[str], call: Callable[[], T]) -> T:
        """Return the result of `call`, which sends the jobs `ids` to that backend.

        Jobs that still wait for their turn when the time is up are never sent: `EnqueueError` says that they are
        rejected. A single job that is being sent just then is in doubt, unless the backend answers very soon. Many jobs
        may take longer, because a backend bounds each of their batches.
        """
        import asyncio  # a heavy import, which only async callers need

        sending = self._thread_of(alias).submit(copy_context().run, call)
        sent = asyncio.wrap_future(sending)
        await _done(sent, self._timeout)
        if not sent.done():
            if sending.cancel():
                raise EnqueueError(
                    f"Backend {alias!r}: not sent within {self._timeout:g} s, for others had not been before it.",
                    rejected=ids,
                )
            await _done(sent, _GRACE if len(ids) == 1 else None)
        if not sent.done():
            sent.add_done_callback(lambda late: late.cancelled() or late.exception())  # the caller was told: in doubt
            raise EnqueueError(f"Backend {alias!r}: no answer within {self._timeout:g} s.", in_doubt=ids)
        return sent.result()

    def close(self) -> None:
        """End the threads, once they have sent the jobs they were given. A later send starts others."""
        with self._lock:
            threads, self._threads = self._threads, {}
        for each in threads.values():
            each.shutdown()

    def _thread_of(self, alias: str) -> ThreadPoolExecutor:
        from concurrent.futures import ThreadPoolExecutor

        with self._lock:
            if alias not in self._threads:
                self._threads[alias] = ThreadPoolExecutor(1, thread_name_prefix=f"anyjob-send-{alias}")
            return self._threads[alias]


async def _done(sent: asyncio.Future[T], timeout: float | None) -> None:  # noqa: ASYNC109  # the send itself goes on
    """Wait until `sent` is done or the time is up. If it is cancelled, it cancels a send that has not begun."""
    import asyncio

    try:
        await asyncio.wait([sent], timeout=timeout)
    except asyncio.CancelledError:
        sent.cancel()
        raise


_GRACE: Final = 1.0
