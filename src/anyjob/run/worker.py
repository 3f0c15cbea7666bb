"""Claims jobs from a source and executes them: the worker of every backend that has no native one."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

from anyjob.base.errors import InvalidOptionError
from anyjob.base.forks import in_each_process
from anyjob.base.interrupt import stopped_by_interrupt
from anyjob.base.log import JobLogger
from anyjob.run.executor import JobExecutor
from anyjob.run.keeper import ClaimKeeper
from anyjob.run.one_thread import callable_anywhere
from anyjob.run.shift import WorkerShift
from anyjob.run.stopping import stop_in_time
from anyjob.seams.source import DEFAULT_LEASE, JobSource
from anyjob.seams.worker_options import WorkerOptions

__all__ = ["JobWorker"]

logger = JobLogger("anyjob.worker")


class JobWorker:
    """`concurrency` threads that claim, execute and settle, and one that keeps their leases alive.

    Use `start` and `stop` (or `with worker.start():`), or `drain` to run what is due in the calling thread. Async jobs
    run on one event loop beside the threads, each held by one of them. All methods are thread-safe; after `stop` a
    worker may be started again. It doesn't run in a forked child, even if it ran in the parent.
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
        self._lease = lease
        in_each_process(self._begin)

    def _begin(self) -> None:
        """Begin with no threads, as a forked child does: the parent's threads stay in the parent."""
        self._lock = threading.Lock()
        self._shift: WorkerShift | None = None

    @property
    def running(self) -> bool:
        """Whether it was started, was not told to stop and has not ended by itself."""
        shift = self._shift
        return shift is not None and not shift.stop.is_set() and shift.serving > 0

    @property
    def idle(self) -> int:
        """How many of its threads wait for a job."""
        shift = self._shift
        return 0 if shift is None else shift.idle

    def start(self) -> Self:
        """Start the threads and return at once."""
        with self._lock:
            if self._shift is not None:
                raise InvalidOptionError("The worker runs already; stop it first.")
            self._shift = shift = WorkerShift(self._source, self._executor, self._options, self._keeper())
        self._source.listen(self.wake)
        shift.start()
        return self

    def wake(self) -> None:
        """Look for jobs now: some may have come."""
        shift = self._shift
        if shift is not None:
            shift.wake()

    def join(self, timeout: float | None = None) -> bool:
        """Wait until it has ended, by itself (`burst`, `max_jobs`) or by `stop`; return whether it has.

        For `timeout` seconds at most, None: as long as it takes. Stop it also if it ended by itself.
        """
        shift = self._shift
        return shift is None or shift.wait_until_done(timeout)

    def stop(self, timeout: float | None = None) -> bool:
        """Claim no more, wait up to `timeout` seconds (None: `stop_timeout`) for running jobs, give the rest back.

        Jobs see `current_job().should_stop` at once; async ones are cancelled when the time is up. A job that is given
        back is charged no try. A sync job that goes on regardless can't settle any more. Return whether all finished in
        time. Called again meanwhile, with a shorter timeout, it gives back sooner.
        """
        with self._lock:
            shift = self._shift
            if shift is None:
                return True
            shift.stop.set()
            shift.tell_all()
        self._source.interrupt()
        finished = stop_in_time(
            self._executor,
            shift.stop,
            self._options.stops_within if timeout is None else timeout,
            ended=shift.wait_until_done,
            hand_back=shift.keeper.hand_back,
            running=len(shift.keeper.held),
        )
        shift.keeper.close()
        with self._lock:
            if self._shift is shift:
                self._shift = None
        if self._is_alone:
            self._source.close()  # and end its thread
        return finished

    def drain(self, max_jobs: int | None = None) -> int:
        """Run, in this thread, all jobs that are due now or become due meanwhile; return how many jobs were run.

        `max_jobs` at most; None: the options' `max_jobs`, if they have one. A Ctrl-C meanwhile is raised here as
        KeyboardInterrupt; the running job goes back, uncharged.
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
