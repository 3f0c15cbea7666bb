"""Group commit: threads that end jobs at the same time are settled by one of them, in one call."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Protocol

from anyjob.base.errors import AnyjobError
from anyjob.base.forks import in_each_process
from anyjob.seams.outcome import Outcome
from anyjob.seams.source import JobClaim

__all__ = ["Combiner"]


class Exchange(Protocol):
    """Settles claims and claims up to `limit` jobs, as `JobSource.settle_and_claim` does."""

    def __call__(
        self, ended: Sequence[tuple[JobClaim, Outcome]], limit: int
    ) -> tuple[Sequence[bool], Sequence[JobClaim]]: ...


class _Request:
    """One thread's request, and the answer."""

    __slots__ = ("claims", "ended", "error", "held", "is_answered", "limit", "turn")

    def __init__(self, ended: tuple[JobClaim, Outcome], limit: int) -> None:
        self.ended = ended
        self.limit = limit
        self.turn: threading.Lock | None = None
        self.is_answered = False
        self.held = False
        self.claims: Sequence[JobClaim] = ()
        self.error: Exception | None = None


class Combiner:
    """Calls `exchange` for all threads that want it, one call at a time. Thread-safe and fork-safe.

    If no call is in flight, a thread makes one at once, by itself. Threads that come meanwhile wait, and the first of
    them makes the next call for all.
    """

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        in_each_process(self._begin)

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._is_busy = False
        self._waiting: list[_Request] = []

    def settle_and_claim(self, claim: JobClaim, outcome: Outcome, limit: int) -> tuple[bool, Sequence[JobClaim]]:
        """Settle a claim and claim up to `limit` jobs; return whether the claim was held, and the new claims. Raises
        the error of the call: then any part of it may be done.
        """
        mine = _Request((claim, outcome), limit)
        with self._lock:
            if leads := not self._is_busy:
                self._is_busy = True
                batch = [mine]
            else:
                mine.turn = threading.Lock()
                mine.turn.acquire()
                self._waiting.append(mine)
        if not leads:
            assert mine.turn is not None  # noqa: S101  # for mypy
            mine.turn.acquire()  # until another thread has the answer, or makes this one lead
            if not mine.is_answered:
                with self._lock:
                    batch, self._waiting = self._waiting, []
                leads = True
        if leads:
            self._answer(batch, mine)
        if mine.error is not None:
            raise mine.error
        return mine.held, mine.claims

    def _answer(self, batch: Sequence[_Request], mine: _Request) -> None:
        try:
            held, claims = self._exchange([each.ended for each in batch], sum(each.limit for each in batch))
            begin = 0
            for each, is_held in zip(batch, held, strict=True):
                each.held = is_held
                each.claims = claims[begin : begin + each.limit]
                begin += each.limit
        except BaseException as error:
            for each in batch:
                each.error = error if isinstance(error, Exception) else AnyjobError(f"interrupted by {error!r}")
            if not isinstance(error, Exception):
                raise
        finally:
            with self._lock:
                self._is_busy = bool(self._waiting)
                wake = [*self._waiting[:1], *(each for each in batch if each is not mine)]
            for each in batch:
                each.is_answered = True
            for each in wake:
                if each.turn is not None:
                    each.turn.release()
