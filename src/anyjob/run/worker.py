"""Claims jobs from a source and executes them: the worker of every backend that has no native one."""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Final, Self

from anyjob.base.clock import deadline_in
from anyjob.base.errors import InvalidOptionError
from anyjob.base.forks import in_each_process
from anyjob.base.interrupt import stopped_by_interrupt
from anyjob.base.log import JobLogger
from anyjob.run.absence import FIRST_PAUSE, log_pause, next_pause
from anyjob.run.executor import JobExecutor
from anyjob.run.keeper import ClaimKeeper
from anyjob.run.one_thread import callable_anywhere
from anyjob.run.stopping import stop_in_time
from anyjob.seams.outcome import Deferred, Retry
from anyjob.seams.source import DEFAULT_LEASE, JobClaim, JobSource
from anyjob.seams.worker_options import WorkerOptions

__all__ = ["JobWorker"]

logger = JobLogger("anyjob.worker")


class _Shift:
    """From one start to its stop, with the jobs held in it.

    A thread that outlives its shift is not revived by the next one, whose jobs this one's stop doesn't give back.
    """

    def __init__(self, keeper: ClaimKeeper, serving: int, max_jobs: int | None) -> None:
        self.keeper = keeper
        self.stop = threading.Event()
        self.serving = serving
        self.resting = 0
        self.looks = False
        """Whether one of those that rest looks for jobs, for all of them."""
        self.ready: deque[JobClaim] = deque()
        """What it found, for the others."""
        self.burst_is_over = False
        self._left = None if max_jobs is None else threading.Semaphore(max_jobs)

    @property
    def is_over(self) -> bool:
        return self.burst_is_over or self.stop.is_set()

    def may_begin(self) -> bool:
        """Whether one more job may be claimed; `begun_none` takes it back."""
        return self._left is None or self._left.acquire(blocking=False)

    def begun_none(self) -> None:
        if self._left is not None:
            self._left.release()


class JobWorker:
    """`concurrency` threads that claim, execute and settle, and one that keeps their leases alive.

    Use `start` and `stop` (or `with worker.start():`), or `drain` to run what is due in the calling thread. Async jobs
    run on one event loop beside the threads, each held by one of them. All methods are thread-safe; after `stop` a
    worker may be started again. In a forked child it doesn't run, whatever it did in the parent.
    """

    def __init__(
        self,
        source: JobSource,
        executor: JobExecutor,
        options: WorkerOptions | None = None,
        *,
        lease: float = DEFAULT_LEASE,
    ) -> None:
        self._source = callable_anywhere(source)
        self._is_alone = source.one_thread
        self._executor = executor
        self._options = options or WorkerOptions()
        self._clock = source.clock
        self._lease = lease
        self._numbers = itertools.count(1)
        in_each_process(self._begin)

    def _begin(self) -> None:
        """Begin with no threads, as a forked child does: what the parent's run is the parent's."""
        lock = threading.RLock()
        self._changed, self._handed, self._news_came = (threading.Condition(lock) for _ in range(3))
        self._news = 0
        self._idle = 0
        self._shift: _Shift | None = None

    @property
    def running(self) -> bool:
        """Whether it was started, was not told to stop and has not ended by itself."""
        shift = self._shift
        return shift is not None and not shift.stop.is_set() and shift.serving > 0

    @property
    def idle(self) -> int:
        """How many of its threads wait for a job."""
        return self._idle

    def start(self) -> Self:
        """Start the threads and return at once."""
        with self._changed:
            if self._shift is not None:
                raise InvalidOptionError("The worker runs already; stop it first.")
            options = self._options
            self._shift = shift = _Shift(self._keeper(), options.concurrency, options.max_jobs)
        self._source.listen(self.wake)
        for number in range(shift.serving):
            # A daemon: a job that ignores the stop must not keep a process alive that was told to end.
            name = f"anyjob-worker-{number}"
            threading.Thread(target=self._serve, args=(shift,), name=name, daemon=True).start()
        shift.keeper.start()
        return self

    def wake(self) -> None:
        """Look for jobs now: some may have come."""
        self._news = next(self._numbers)
        if self._idle:
            with self._changed:
                self._news_came.notify_all()

    def join(self, timeout: float | None = None) -> bool:
        """Wait until it has ended, by itself (`burst`, `max_jobs`) or by `stop`; return whether it has.

        For `timeout` seconds at most, None: as long as it takes. Even one that ended by itself is to be stopped.
        """
        with self._changed:
            shift = self._shift
        return shift is None or self._wait_until_done(shift, timeout)

    def stop(self, timeout: float | None = None) -> bool:
        """Claim no more, wait up to `timeout` seconds (None: `stop_timeout`) for running jobs, give the rest back.

        Jobs see `current_job().should_stop` at once; async ones are cancelled when the time is up. What was given back
        costs its job no try. A sync job that goes on regardless can settle nothing any more. Return whether all
        finished in time. Called again meanwhile, with a shorter timeout, it gives back sooner.
        """
        with self._changed:
            shift = self._shift
            if shift is None:
                return True
            shift.stop.set()
            self._tell_all()
        self._source.interrupt()
        finished = stop_in_time(
            self._executor,
            shift.stop,
            self._options.stops_within if timeout is None else timeout,
            ended=lambda seconds: self._wait_until_done(shift, seconds),
            hand_back=shift.keeper.hand_back,
            running=len(shift.keeper.held),
        )
        shift.keeper.close()
        with self._changed:
            if self._shift is shift:
                self._shift = None
        if self._is_alone:
            self._source.close()  # with its thread
        return finished

    def drain(self, max_jobs: int | None = None) -> int:
        """Run, in this thread, what is due now and what becomes due meanwhile; return how many jobs were run.

        `max_jobs` at most; None: those of the options, if they say so.
        A Ctrl-C meanwhile is raised here as KeyboardInterrupt; the job that ran goes back, uncharged.
        """
        keeper, stop = self._keeper(insists=lambda: False), threading.Event()
        keeper.recover()
        max_jobs = self._options.max_jobs if max_jobs is None else max_jobs
        claims = keeper.claim() if max_jobs != 0 else ()
        if not claims:
            return 0
        count = 0
        keeper.start()
        try:
            with stopped_by_interrupt(stop):
                while claims:
                    (claim,) = claims
                    outcome = keeper.execute(claim, stop=stop)
                    count += 1
                    if count == max_jobs or stop.is_set():
                        keeper.settle(claim, outcome)
                        break
                    claims = keeper.settle_and_claim(claim, outcome)
                    if not claims and self._source.waits:
                        claims = keeper.claim()
        finally:
            keeper.close()
        return count

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _keeper(self, insists: Callable[[], bool] = lambda: True) -> ClaimKeeper:
        queues = self._options.queues
        return ClaimKeeper(
            self._source, self._executor, queues=queues, lease=self._lease, wake=self.wake, insists=insists
        )

    def _serve(self, shift: _Shift) -> None:
        pause, claim, seen = FIRST_PAUSE, None, None
        while claim is not None or (not shift.is_over and shift.may_begin()):
            try:
                if claim is None and (claim := self._rest(shift, seen)) is None:
                    shift.begun_none()
                    continue
                claim, seen = self._run(claim, shift)
                pause = FIRST_PAUSE
            except BaseException as error:  # noqa: BLE001  # a job was interrupted, or can't be settled: no reason to end
                claim = seen = None
                if not shift.stop.is_set():
                    self._go_on(shift, pause, error)
                    pause = next_pause(pause)
        with self._changed:
            shift.serving -= 1
            self.wake()  # who looks may be the last one of a burst
            self._tell_all()
        if not shift.serving:
            shift.keeper.close()

    def _run(self, claim: JobClaim, shift: _Shift) -> tuple[JobClaim | None, int | None]:
        """Run a job; return the next one, if there is one at once and this thread may begin it, and else the number of
        the last news before it was found that there is none.
        """
        keeper, claims = shift.keeper, _NONE
        outcome = keeper.execute(claim, stop=shift.stop)
        seen = self._news
        if shift.is_over or not shift.may_begin():
            keeper.settle(claim, outcome)
            return None, None
        try:
            claims = keeper.settle_and_claim(claim, outcome)
        finally:
            if not claims:
                shift.begun_none()
        if self._idle and isinstance(outcome, Retry | Deferred):
            self.wake()  # who looks does not know when this is due
        if claims and shift.stop.is_set():
            keeper.release(claims)
            return None, None
        return (claims[0], None) if claims else (None, seen)

    def _rest(self, shift: _Shift, seen: int | None) -> JobClaim | None:
        """Wait until there is a job for this thread; return None if there is to be none.

        One of the threads that rest looks for all of them: a server is not asked by each, and an enqueue wakes one.
        `seen`: nothing was due when this was the number of the last news; None: nobody looked.
        """
        with self._changed:
            shift.resting += 1
            self._idle += 1
            if shift.looks and (seen is None or self._options.burst):
                self.wake()
        try:
            while True:
                with self._changed:
                    while shift.looks and not shift.ready and not shift.is_over:
                        self._handed.wait()
                    if shift.is_over:
                        left = list(shift.ready)
                        shift.ready.clear()
                        break
                    if shift.ready:
                        return shift.ready.popleft()
                    shift.looks = True
                found: Sequence[JobClaim] = ()
                try:
                    found = self._look(shift, None if self._options.burst else seen)
                finally:
                    with self._changed:
                        shift.looks = False
                        shift.ready.extend(found)
                        self._handed.notify(len(found) + 1)  # one of them looks on
        finally:
            with self._changed:
                shift.resting -= 1
                self._idle -= 1
        if left:
            shift.keeper.release(left)
        return None

    def _look(self, shift: _Shift, seen: int | None) -> Sequence[JobClaim]:
        """Look for jobs for all threads that rest, until there are some or the shift is over.

        The source is asked without the lock, for a slow one must not hold up who enqueues: that makes news.
        """
        pause = FIRST_PAUSE
        while True:
            try:
                if seen is not None and not self._wait_for_news(shift, seen, self._until_due()):
                    return ()
                limit, seen = shift.resting, self._news
                if claims := shift.keeper.claim(limit):
                    return claims
                pause = FIRST_PAUSE
            except Exception as error:  # noqa: BLE001  # the source failed: the next look may succeed
                self._go_on(shift, pause, error)
                seen, pause = None, next_pause(pause)
            if shift.is_over:
                return ()

    def _wait_for_news(self, shift: _Shift, seen: int, until: float) -> bool:
        """Wait for other news than `seen`, or until something is due; return False if the shift is over."""
        with self._changed:
            if self._options.burst and shift.resting == shift.serving and self._news == seen:
                shift.burst_is_over = True
                self._tell_all()
            while not shift.is_over and self._news == seen and self._clock.monotonic() < until:
                self._clock.wait(self._news_came, until)
            return not shift.is_over

    def _until_due(self) -> float:
        """Return when to look again, on the monotonic clock: a wall clock that is set meanwhile is seen within `poll`.

        That clock is read first, so that time that passes before the wall's is read ends the wait early, never late.
        """
        begun, poll = self._clock.monotonic(), self._source.poll
        if self._source.waits:
            return begun  # it waits itself
        due_at = self._source.next_due_at(self._options.queues)
        return begun + (poll if due_at is None else min((due_at - self._clock.now()).total_seconds(), poll))

    def _go_on(self, shift: _Shift, pause: float, error: BaseException) -> None:
        """Log what failed, and wait before it is tried again."""
        log_pause(error, pause, self._executor.worker)
        until = deadline_in(self._clock, pause)
        with self._changed:
            while not shift.is_over and self._clock.monotonic() < until:
                self._clock.wait(self._changed, until)

    def _tell_all(self) -> None:
        """Wake all that wait for anything, holding the lock."""
        for each in (self._changed, self._handed, self._news_came):
            each.notify_all()

    def _wait_until_done(self, shift: _Shift, timeout: float | None) -> bool:
        """Wait until the shift's threads are done; each of them wakes us."""
        deadline = None if timeout is None else deadline_in(self._clock, timeout)
        with self._changed:
            while shift.serving:
                if deadline is not None and self._clock.monotonic() >= deadline:
                    return False
                self._clock.wait(self._changed, deadline)
            return True


_NONE: Final[Sequence[JobClaim]] = ()
