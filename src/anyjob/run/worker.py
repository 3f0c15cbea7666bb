"""Claims jobs from a source and executes them: the worker of every backend that has no native one."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Sequence
from contextvars import Context
from datetime import timedelta
from types import TracebackType
from typing import Final, Self

from anyjob.base.clock import deadline_in
from anyjob.base.errors import InvalidOptionError
from anyjob.base.forks import in_each_process
from anyjob.base.interrupt import stopped_by_interrupt
from anyjob.base.log import FENCED, JobLogger, log_event
from anyjob.run.executor import JobExecutor
from anyjob.seams.outcome import Outcome
from anyjob.seams.source import DEFAULT_LEASE, JobClaim, JobSource
from anyjob.seams.worker_options import WorkerOptions

__all__ = ["HANDED_BACK", "JobWorker"]

logger = JobLogger("anyjob.worker")

HANDED_BACK: Final = 5
"""What a worker's process ends with that was stopped while jobs ran, and gave them back. Else it ends with 0."""


class _Shift:
    """From one start to its stop, with the jobs held in it.

    A thread that outlives its shift is not revived by the next one, whose jobs this one's stop doesn't give back.
    """

    def __init__(self, serving: int, max_jobs: int | None = None) -> None:
        self.stop = threading.Event()
        self.serving = serving
        self.resting = 0
        self.burst_is_over = False
        self.left = None if max_jobs is None else threading.Semaphore(max_jobs)
        self.held: dict[int, JobClaim] = {}
        self.ended = threading.Condition()
        self.over = False

    def may_begin(self) -> bool:
        """Whether one more job may be claimed; `begun_none` takes it back."""
        return self.left is None or self.left.acquire(blocking=False)

    def begun_none(self) -> None:
        if self.left is not None:
            self.left.release()


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
        self._source = source
        self._executor = executor
        self._options = options or WorkerOptions()
        self._clock = source.clock
        self._lease = timedelta(seconds=lease)
        in_each_process(self._begin)

    def _begin(self) -> None:
        """Begin with no threads, as a forked child does: what the parent's run is the parent's."""
        self._changed = threading.Condition()
        self._idle = 0
        self._news = 0
        self._shift: _Shift | None = None

    @property
    def running(self) -> bool:
        """Whether it was started, was not told to stop and has not ended by itself."""
        shift = self._shift
        return shift is not None and not shift.stop.is_set() and shift.serving > 0

    def start(self) -> Self:
        """Start the threads and return at once."""
        with self._changed:
            if self._shift is not None:
                raise InvalidOptionError("The worker runs already; stop it first.")
            self._shift = shift = _Shift(self._options.concurrency, self._options.max_jobs)
        self._source.listen(self.wake)
        for number in range(shift.serving):
            self._start_thread(f"anyjob-worker-{number}", self._serve, shift)
        self._start_thread("anyjob-leases", self._keep_leases, shift)
        return self

    def wake(self) -> None:
        """Look for jobs now: some were enqueued in this process."""
        if self._idle:
            with self._changed:
                self._news += 1
                self._changed.notify_all()

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
        timeout = self._options.stops_within if timeout is None else timeout
        with self._changed:
            shift = self._shift
            if shift is None:
                return True
            log_event(logger, logging.INFO, "stopping", running=len(shift.held), timeout=float(timeout))
            shift.stop.set()
            self._changed.notify_all()
            finished = self._wait_until_done(shift, timeout)
        if not finished:
            self._executor.cancel_async_jobs(shift.stop)
            with self._changed:
                self._wait_until_done(shift, _GRACE)
            self._hand_back(shift)
        self._end(shift)
        with self._changed:
            if self._shift is shift:
                self._shift = None
        return finished

    def drain(self, max_jobs: int | None = None) -> int:
        """Run, in this thread, what is due now and what becomes due meanwhile; return how many jobs were run.

        `max_jobs` at most; None: those of the options, if they say so.
        A Ctrl-C meanwhile is raised here as KeyboardInterrupt; the job that ran goes back, uncharged.
        """
        self._recover()
        worker = self._executor.worker
        max_jobs = self._options.max_jobs if max_jobs is None else max_jobs
        claims = self._claim(worker) if max_jobs != 0 else ()
        if not claims:
            return 0
        count, shift = 0, _Shift(0)
        self._start_thread("anyjob-leases", self._keep_leases, shift)
        try:
            with stopped_by_interrupt(shift.stop):
                while claims:
                    for claim in claims:
                        self._run(claim, shift)
                        count += 1
                    claims = self._claim(worker) if count != max_jobs and not shift.stop.is_set() else ()
        finally:
            self._end(shift)
        return count

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _serve(self, shift: _Shift) -> None:
        worker, pause = self._executor.worker, _FIRST_PAUSE
        while not (shift.stop.is_set() or shift.burst_is_over) and shift.may_begin():
            claims: Sequence[JobClaim] = ()
            try:
                claims = self._claim(worker) or self._wait_for_jobs(worker, shift)
                for claim in claims:
                    self._run(claim, shift)
                pause = _FIRST_PAUSE
            except BaseException as error:  # noqa: BLE001  # the store failed, or a job was interrupted: no reason to end
                if not shift.stop.is_set():
                    log_event(logger, logging.ERROR, "goes on", pause=pause, worker=worker, exc_info=error)
                    self._pause(pause)
                    pause = min(2 * pause, _LONGEST_PAUSE)
            finally:
                if not claims:
                    shift.begun_none()
        with self._changed:
            shift.serving -= 1
            self._changed.notify_all()
        if not shift.serving:
            self._end(shift)

    def _claim(self, worker: str) -> Sequence[JobClaim]:
        return self._source.claim(queues=self._options.queues, limit=1, lease=self._lease, worker=worker)

    def _wait_for_jobs(self, worker: str, shift: _Shift) -> Sequence[JobClaim]:
        """Sleep until something may be due; return what was claimed in the last look before it.

        The store is asked without the lock, for a slow one must not hold up who enqueues. An enqueue that the look
        missed finds us idle, and makes news.
        """
        with self._changed:
            self._idle += 1
            news = self._news
        try:
            claims = self._claim(worker)
            if not claims:
                until = self._until_due()
                with self._changed:
                    if self._news == news and not (shift.stop.is_set() or shift.burst_is_over):
                        self._rest(shift, until)
            return claims
        finally:
            with self._changed:
                self._idle -= 1

    def _rest(self, shift: _Shift, until: float) -> None:
        """Wait, holding `_changed`; in a burst, the last thread that finds nothing due ends it for all."""
        shift.resting += 1
        if self._options.burst and shift.resting == shift.serving:
            shift.burst_is_over = True
            self._changed.notify_all()
        else:
            self._clock.wait(self._changed, until)
            shift.resting -= 1

    def _until_due(self) -> float:
        """Return when to look again, on the monotonic clock: a wall clock that is set meanwhile is seen within `poll`.

        That clock is read first, so that time that passes before the wall's is read ends the wait early, never late.
        """
        begun = self._clock.monotonic()
        due_at = self._source.next_due_at(self._options.queues)
        if due_at is None:
            return begun + self._source.poll
        return begun + min((due_at - self._clock.now()).total_seconds(), self._source.poll)

    def _run(self, claim: JobClaim, shift: _Shift) -> None:
        try:
            shift.held[claim.token] = claim
            # As in a process of its own: nothing of who drains here, or of the job before, is the job's.
            outcome = Context().run(self._executor.execute, claim.raw, redelivered=claim.redelivered, stop=shift.stop)
        except BaseException:
            self._source.release([claim])
            raise
        else:
            try:
                held = self._source.settle(claim, outcome)
            except Exception as error:  # noqa: BLE001  # it is raised if it doesn't pass
                held = self._settle_later(claim, outcome, shift, error)
            if not held:
                log_event(logger, logging.WARNING, "fenced", id=claim.id, reason=FENCED)
        finally:
            shift.held.pop(claim.token, None)

    def _settle_later(self, claim: JobClaim, outcome: Outcome, shift: _Shift, error: Exception) -> bool:
        """Settle once the store is back: what ran must not count as a crash. The lease is kept meanwhile.

        Raises the store's error in the end, and at once in `drain`, where it is the caller's to know. The job then
        comes again when its lease ends, and counts as lost: one whose outcome can never be kept is parked as such.
        """
        pause = _FIRST_PAUSE
        while shift.serving and not shift.over and pause <= _LONGEST_PAUSE:
            log_event(logger, logging.WARNING, "not settled", id=claim.id, pause=pause, exc_info=error)
            self._pause(pause)
            pause *= 2
            with contextlib.suppress(Exception):
                return self._source.settle(claim, outcome)
        raise error

    def _keep_leases(self, shift: _Shift) -> None:
        """Renew what this worker runs and recover what others lost, three times a lease."""
        while not shift.over:
            try:
                self._source.renew(list(shift.held.values()), self._lease)
                self._recover()
            except Exception as error:  # noqa: BLE001  # the next time may succeed
                log_event(logger, logging.ERROR, "leases not renewed", worker=self._executor.worker, exc_info=error)
            with shift.ended:  # a condition of its own: news of jobs are none of its business
                if not shift.over:
                    self._clock.wait(shift.ended, deadline_in(self._clock, self._lease.total_seconds() / 3))

    def _recover(self) -> None:
        lost = self._source.recover()
        for job in lost:
            expired = float(job.expired_for)
            log_event(logger, logging.WARNING, "rescued", id=job.id, lost_by=job.worker, lease_expired=expired)
            self._executor.tell("lost", job.raw)
        if lost:
            self.wake()

    def _hand_back(self, shift: _Shift) -> None:
        left = list(shift.held.values())
        self._source.release(left)
        for claim in left:
            log_event(logger, logging.WARNING, "released", id=claim.id, reason="it still ran")
            self._executor.tell("released", claim.raw)

    def _start_thread(self, name: str, target: Callable[[_Shift], None], shift: _Shift) -> None:
        # A daemon: a job that ignores the stop must not keep a process alive that was told to end.
        threading.Thread(target=target, args=(shift,), name=name, daemon=True).start()

    def _end(self, shift: _Shift) -> None:
        with shift.ended:
            shift.over = True
            shift.ended.notify_all()

    def _pause(self, seconds: float) -> None:
        with self._changed:
            self._clock.wait(self._changed, deadline_in(self._clock, seconds))

    def _wait_until_done(self, shift: _Shift, timeout: float | None) -> bool:
        """Wait, holding `_changed`, until the shift's threads are done; each of them wakes us."""
        deadline = None if timeout is None else deadline_in(self._clock, timeout)
        while shift.serving:
            if deadline is not None and self._clock.monotonic() >= deadline:
                return False
            self._clock.wait(self._changed, deadline)
        return True


_GRACE: Final = 1.0
_FIRST_PAUSE: Final = 1.0
_LONGEST_PAUSE: Final = 30.0
