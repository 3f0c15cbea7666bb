"""A source whose calls belong to one thread, made callable from any."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from queue import SimpleQueue
from typing import Any, TypeVar

from anyjob.base.forks import in_each_process
from anyjob.seams.outcome import Outcome
from anyjob.seams.source import JobClaim, JobSource, LostJob

__all__ = ["callable_anywhere"]

T = TypeVar("T")


def callable_anywhere(source: JobSource) -> JobSource:
    """Return the source; if it is `one_thread`, wrapped so that one thread of its own makes all calls."""
    if not source.one_thread:
        return source
    is_one_step = type(source).settle_and_claim is not JobSource.settle_and_claim
    return (_OneStepSource if is_one_step else _OneThreadSource)(source)


class _Call:
    __slots__ = ("action", "answered", "error", "result")

    def __init__(self, action: Callable[[], Any]) -> None:
        self.action = action
        self.answered = threading.Lock()
        self.answered.acquire()
        self.result: Any = None
        self.error: BaseException | None = None

    def make(self) -> None:
        try:
            self.result = self.action()
        except BaseException as error:  # noqa: BLE001  # raised in the calling thread
            self.error = error
        self.answered.release()


class _OneThreadSource(JobSource):
    """Makes the calls of `source` one after the other, in a daemon thread that starts with the first. Thread-safe.

    A `claim` that waits is interrupted by any other call.
    """

    def __init__(self, source: JobSource) -> None:
        self._source = source
        self.clock = source.clock
        self.poll = source.poll
        self.waits = source.waits
        in_each_process(self._begin)

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._calls: SimpleQueue[_Call | None] | None = None

    def claim(self, *, queues: Sequence[str] | None, limit: int, lease: timedelta, worker: str) -> Sequence[JobClaim]:
        return self._call(
            lambda: self._source.claim(queues=queues, limit=limit, lease=lease, worker=worker), is_claim=True
        )

    def settle(self, claim: JobClaim, outcome: Outcome) -> bool:
        return self._call(lambda: self._source.settle(claim, outcome))

    def release(self, claims: Sequence[JobClaim]) -> None:
        self._call(lambda: self._source.release(claims))

    def renew(self, claims: Sequence[JobClaim], lease: timedelta) -> Sequence[JobClaim]:
        return self._call(lambda: self._source.renew(claims, lease))

    def recover(self) -> Sequence[LostJob]:
        return self._call(self._source.recover)

    def next_due_at(self, queues: Sequence[str] | None) -> datetime | None:
        return self._call(lambda: self._source.next_due_at(queues))

    def listen(self, wake: Callable[[], None]) -> None:
        self._call(lambda: self._source.listen(wake))

    def interrupt(self) -> None:
        self._source.interrupt()

    def close(self) -> None:
        with self._lock:
            calls, self._calls = self._calls, None
        if calls is not None:
            self._make(calls, self._source.close)
            calls.put(None)

    def _call(self, action: Callable[[], T], *, is_claim: bool = False) -> T:
        with self._lock:
            if self._calls is None:
                self._calls = SimpleQueue()
                threading.Thread(target=_serve, args=(self._calls,), name="anyjob-source", daemon=True).start()
            calls = self._calls
        return self._make(calls, action, is_claim=is_claim)

    def _make(self, calls: SimpleQueue[_Call | None], action: Callable[[], T], *, is_claim: bool = False) -> T:
        call = _Call(action)
        calls.put(call)
        if not is_claim:
            self._source.interrupt()
        call.answered.acquire()
        if call.error is not None:
            raise call.error
        result: T = call.result
        return result


class _OneStepSource(_OneThreadSource):
    """The same for a source that settles and claims in one step."""

    def settle_and_claim(
        self,
        ended: Sequence[tuple[JobClaim, Outcome]],
        *,
        queues: Sequence[str] | None,
        limit: int,
        lease: timedelta,
        worker: str,
    ) -> tuple[Sequence[bool], Sequence[JobClaim]]:
        def exchange() -> tuple[Sequence[bool], Sequence[JobClaim]]:
            return self._source.settle_and_claim(ended, queues=queues, limit=limit, lease=lease, worker=worker)

        return self._call(exchange)


def _serve(calls: SimpleQueue[_Call | None]) -> None:
    while (call := calls.get()) is not None:
        call.make()
