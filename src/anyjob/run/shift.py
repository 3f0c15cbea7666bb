"""The threads of a worker, from one start to its stop."""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Sequence
from typing import Final

from anyjob.base.clock import deadline_in
from anyjob.run.absence import FIRST_PAUSE, log_pause, next_pause
from anyjob.run.executor import JobExecutor
from anyjob.run.keeper import ClaimKeeper
from anyjob.seams.outcome import Deferred, Retry
from anyjob.seams.source import JobClaim, JobSource
from anyjob.seams.worker_options import WorkerOptions

__all__ = ["WorkerShift"]


class WorkerShift:
    """The threads that serve a worker from one start to its stop, and their claims. Thread-safe.

    The next shift does not revive a thread that outlives this one, and the stop of this one gives back no jobs of the
    next.
    """

    def __init__(self, source: JobSource, executor: JobExecutor, options: WorkerOptions, keeper: ClaimKeeper) -> None:
        self.keeper = keeper
        self.stop = threading.Event()
        """Set to end the shift; then call `tell_all`."""
        self.serving = options.concurrency
        """How many threads have not ended."""
        self.idle = 0
        """How many of them rest, because there is no job."""
        self.burst_is_over = False
        self._source = source
        self._executor = executor
        self._options = options
        self._clock = source.clock
        self._looks = False  # whether one resting thread looks for jobs, for all of them
        self._ready: deque[JobClaim] = deque()  # the jobs that it found for the others
        self._left = None if options.max_jobs is None else threading.Semaphore(options.max_jobs)
        self._numbers = itertools.count(1)
        self._news = 0
        lock = threading.RLock()
        self._changed, self._handed, self._news_came = (threading.Condition(lock) for _ in range(3))

    def start(self) -> None:
        """Start the threads, and the one that keeps the leases."""
        for number in range(self.serving):
            # A daemon: a job that ignores the stop must not keep its process from ending.
            threading.Thread(target=self._serve, name=f"anyjob-worker-{number}", daemon=True).start()
        self.keeper.start()

    def wake(self) -> None:
        """Look for jobs now: some may have come."""
        self._news = next(self._numbers)
        if self.idle:
            with self._changed:
                self._news_came.notify_all()

    def tell_all(self) -> None:
        """Wake all waiting threads."""
        with self._changed:
            for each in (self._changed, self._handed, self._news_came):
                each.notify_all()

    def wait_until_done(self, timeout: float | None) -> bool:
        """Wait until the threads have ended; each of them wakes us."""
        deadline = None if timeout is None else deadline_in(self._clock, timeout)
        with self._changed:
            while self.serving:
                if deadline is not None and self._clock.monotonic() >= deadline:
                    return False
                self._clock.wait(self._changed, deadline)
            return True

    def _serve(self) -> None:
        pause, claim, seen = FIRST_PAUSE, None, None
        while claim is not None or (not self._is_over and self._may_begin()):
            try:
                if claim is None and (claim := self._rest(seen)) is None:
                    self._begun_none()
                    continue
                claim, seen = self._run(claim)
                pause = FIRST_PAUSE
            except BaseException as error:  # noqa: BLE001  # a job was interrupted, or can't be settled: no reason to end
                claim = seen = None
                if not self.stop.is_set():
                    self._go_on(pause, error)
                    pause = next_pause(pause)
        with self._changed:
            self.serving -= 1
            self.wake()  # the thread that looks may be the last one of a burst
            self.tell_all()
        if not self.serving:
            self.keeper.close()

    def _run(self, claim: JobClaim) -> tuple[JobClaim | None, int | None]:
        """Run a job; return the next one, if there is one at once and this thread may begin it; else return the number
        of the last news before the source had none.
        """
        keeper, claims = self.keeper, _NONE
        outcome = keeper.execute(claim, stop=self.stop)
        seen = self._news
        if self._is_over or not self._may_begin():
            keeper.settle(claim, outcome)
            return None, None
        try:
            claims = keeper.settle_and_claim(claim, outcome)
        finally:
            if not claims:
                self._begun_none()
        if self.idle and isinstance(outcome, Retry | Deferred):
            self.wake()  # the thread that looks does not know when this is due
        if claims and self.stop.is_set():
            keeper.release(claims)
            return None, None
        return (claims[0], None) if claims else (None, seen)

    def _rest(self, seen: int | None) -> JobClaim | None:
        """Wait until there is a job for this thread; return None if it is to end.

        One resting thread looks for all of them: so only one asks the server, and an enqueue wakes one. `seen`: no job
        was due when this was the number of the last news; None: no thread has looked yet.
        """
        with self._changed:
            self.idle += 1
            if self._looks and (seen is None or self._options.burst):
                self.wake()
        try:
            while True:
                with self._changed:
                    while self._looks and not self._ready and not self._is_over:
                        self._handed.wait()
                    if self._is_over:
                        left = list(self._ready)
                        self._ready.clear()
                        break
                    if self._ready:
                        return self._ready.popleft()
                    self._looks = True
                found: Sequence[JobClaim] = ()
                try:
                    found = self._look(None if self._options.burst else seen)
                finally:
                    with self._changed:
                        self._looks = False
                        self._ready.extend(found)
                        self._handed.notify(len(found) + 1)  # one of them goes on to look
        finally:
            with self._changed:
                self.idle -= 1
        if left:
            self.keeper.release(left)
        return None

    def _look(self, seen: int | None) -> Sequence[JobClaim]:
        """Look for jobs for all resting threads, until there are some or the shift is over.

        It asks the source without the lock, because a slow source must not delay an enqueue, which makes news.
        """
        pause = FIRST_PAUSE
        while True:
            try:
                if seen is not None and not self._wait_for_news(seen, self._until_due()):
                    return ()
                limit, seen = self.idle, self._news
                if claims := self.keeper.claim(limit):
                    return claims
                pause = FIRST_PAUSE
            except Exception as error:  # noqa: BLE001  # the source failed: the next look may succeed
                self._go_on(pause, error)
                seen, pause = None, next_pause(pause)
            if self._is_over:
                return ()

    def _wait_for_news(self, seen: int, until: float) -> bool:
        """Wait for other news than `seen`, or until something is due; return False if the shift is over."""
        with self._changed:
            if self._options.burst and self.idle == self.serving and self._news == seen:
                self.burst_is_over = True
                self.tell_all()
            while not self._is_over and self._news == seen and self._clock.monotonic() < until:
                self._clock.wait(self._news_came, until)
            return not self._is_over

    def _until_due(self) -> float:
        """Return when to look again, on the monotonic clock: if the wall clock is set meanwhile, we see it within
        `poll`.

        That clock is read first, so that time that passes before the wall's is read ends the wait early, never late.
        """
        begun, poll = self._clock.monotonic(), self._source.poll
        if self._source.waits:
            return begun  # it waits itself
        due_at = self._source.next_due_at(self._options.queues)
        return begun + (poll if due_at is None else min((due_at - self._clock.now()).total_seconds(), poll))

    def _go_on(self, pause: float, error: BaseException) -> None:
        """Log the error, and wait before the next attempt."""
        log_pause(error, pause, self._executor.worker)
        until = deadline_in(self._clock, pause)
        with self._changed:
            while not self._is_over and self._clock.monotonic() < until:
                self._clock.wait(self._changed, until)

    @property
    def _is_over(self) -> bool:
        return self.burst_is_over or self.stop.is_set()

    def _may_begin(self) -> bool:
        """Whether this thread may claim one more job; `_begun_none` gives the permission back."""
        return self._left is None or self._left.acquire(blocking=False)

    def _begun_none(self) -> None:
        if self._left is not None:
            self._left.release()


_NONE: Final[Sequence[JobClaim]] = ()
