"""One delivery of a job inside a sandbox: claimed, executed by the real executor in an empty context, settled."""

from __future__ import annotations

from collections.abc import Coroutine, Generator
from contextvars import Context
from functools import partial
from threading import Event
from typing import Any, Generic, TypeVar

from anyjob.envelope import JobEnvelope, read_envelope
from anyjob.executor import JobExecutor
from anyjob.outcome import Outcome
from anyjob.store import JobClaim
from anyjob.testing.sandbox_backend import SandboxBackend

__all__ = ["JobDelivery"]

T = TypeVar("T")


class JobDelivery:
    """A claim on one job. What is neither settled nor left to its lease is to be released."""

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
        return Context().run(partial(self._executor.execute, self._claim.raw, stop=stop))

    async def aexecute(self, stop: Event) -> Outcome:
        """Like `execute`, an async job in the caller's own task, so that what belongs to its loop can be used."""
        return await _InContext(self._executor.aexecute(self._claim.raw, stop=stop), Context())

    def settle(self, outcome: Outcome) -> None:
        self._backend.store.settle(self._claim, outcome)

    def release(self) -> None:
        self._backend.store.release([self._claim])


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
