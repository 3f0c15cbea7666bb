"""One delivery of a job inside a sandbox: claimed, executed by the real executor in an empty context, settled."""

from __future__ import annotations

import sys
from collections.abc import Coroutine, Generator
from contextvars import Context
from functools import partial
from threading import Event
from typing import Any, Generic, TypeVar

from anyjob.base.envelope import JobEnvelope, read_envelope
from anyjob.run.executor import JobExecutor
from anyjob.seams.outcome import Outcome
from anyjob.seams.source import JobClaim
from anyjob.testing.sandbox_backend import SandboxBackend

__all__ = ["JobDelivery"]

T = TypeVar("T")


class JobDelivery:
    """A claim on one job. Release it unless it is settled, or left until its lease expires."""

    def __init__(self, backend: SandboxBackend, executor: JobExecutor, claim: JobClaim) -> None:
        self.id = claim.id
        self._backend = backend
        self._executor = executor
        self._claim = claim

    @property
    def envelope(self) -> JobEnvelope:
        return read_envelope(self._claim.raw)

    def execute(self, stop: Event) -> Outcome:
        """Run the job: nothing of the test's context variables is there, as in a worker."""
        call = self._executor.execute
        if self._is_async and _has_django() and not _on_a_loop():
            # What it does by `sync_to_async`, as the ORM does, comes back to this thread and its transaction.
            from asgiref.sync import async_to_sync

            call = async_to_sync(self._executor.aexecute)
        return Context().run(partial(call, self._claim.raw, stop=stop))

    async def aexecute(self, stop: Event) -> Outcome:
        """Like `execute`, an async job in the caller's own task, so that what belongs to its loop can be used."""
        if not self._is_async and _has_django() and _on_a_loop():
            # Django allows no ORM on a loop's thread; the test's own `sync_to_async` leads where its transaction is.
            from asgiref.sync import sync_to_async

            return await sync_to_async(self.execute)(stop)
        return await _InContext(self._executor.aexecute(self._claim.raw, stop=stop), Context())

    @property
    def _is_async(self) -> bool:
        configuration = self._executor.registry.find(self.envelope.name)
        return configuration is not None and configuration.is_async

    def settle(self, outcome: Outcome) -> None:
        self._backend.store.settle(self._claim, outcome)

    def release(self) -> None:
        self._backend.store.release([self._claim])


def _has_django() -> bool:
    return "django.db" in sys.modules  # a process that never imported it has no transaction to join


def _on_a_loop() -> bool:
    import asyncio

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


class _InContext(Generic[T]):
    """Awaits a coroutine in the caller's task but in another context: whatever the event loop, no task is made."""

    def __init__(self, coroutine: Coroutine[Any, Any, T], context: Context) -> None:
        self._coroutine = coroutine
        self._context = context

    def __await__(self) -> Generator[Any, Any, T]:
        step = partial(self._coroutine.send, None)
        while True:
            try:
                trap = self._context.run(step)
            except StopIteration as end:
                result: T = end.value
                return result
            try:
                answer = yield trap
            except BaseException as error:  # noqa: BLE001  # a cancellation: the coroutine's to handle
                step = partial(self._coroutine.throw, error)
            else:
                step = partial(self._coroutine.send, answer)
