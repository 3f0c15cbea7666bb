"""Keeps the claims of a process: runs, settles and renews them, gives them back at a stop. The same for all workers."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from contextvars import Context
from datetime import timedelta
from typing import Final, Self

from anyjob.base.clock import deadline_in
from anyjob.base.errors import AnyjobError, DuplicateJobIdError
from anyjob.base.forks import in_each_process
from anyjob.base.log import JobLogger, log_event
from anyjob.run.absence import FIRST_PAUSE, next_pause
from anyjob.run.claim_log import log_fenced, log_not_settled, log_released, log_rescued
from anyjob.run.combining import Combiner
from anyjob.run.executor import JobExecutor
from anyjob.run.one_thread import callable_anywhere
from anyjob.run.recurring import RecurringThread
from anyjob.seams.outcome import Outcome
from anyjob.seams.source import DEFAULT_LEASE, JobClaim, JobSource

__all__ = ["ClaimKeeper"]

logger = JobLogger("anyjob.worker")


class ClaimKeeper:
    """Keeps the claims of one process, from `claim` until each job is settled or given back.

    For our own worker, and for the glue of a native one, which asks it to `run` a claim or, if its system executes jobs
    elsewhere (in a forked child, in a thread of its own), to `settle` the outcome. `keep` is to be called three times a
    lease; `start` begins a thread that does so. `hand_back` and `close` end it all.

    `claim` raises errors of the server. An outcome is settled later instead, as soon as the server is back, because a
    job that ran must not count as crashed. Without `insists`, `settle` raises those errors, too.

    Thread-safe. A forked child holds no claim of its parent; it may execute and settle one, whose lease the parent goes
    on to keep.
    """

    def __init__(
        self,
        source: JobSource,
        executor: JobExecutor,
        *,
        queues: Sequence[str] | None = None,
        lease: float = DEFAULT_LEASE,
        insists: Callable[[], bool] = lambda: True,
        away: tuple[type[Exception], ...] = (Exception,),
        wake: Callable[[], None] | None = None,
    ) -> None:
        """`queues` are those to claim from, None: all; `lease` is in seconds; `insists` says whether to settle later,
        and `away` after which errors of the source; `wake` is called if jobs were recovered.
        """
        self._source = source = callable_anywhere(source)
        self._executor = executor
        self._queues = queues
        self._lease = timedelta(seconds=lease)
        self._insists = insists
        self._away = away
        self._wake = wake
        self._thread: RecurringThread | None = None
        # If a source can't do it in one step, each thread calls it by itself.
        combines = type(source).settle_and_claim is not JobSource.settle_and_claim
        self._combiner = Combiner(self._exchange) if combines else None
        in_each_process(self._begin)

    def _begin(self) -> None:
        self._worker = self._executor.worker
        self._held: dict[int, JobClaim] = {}  # by the claim's own identity
        self._changed = threading.Condition()
        self._closed = False

    @property
    def held(self) -> Sequence[JobClaim]:
        """The claims of this process that are neither settled nor given back."""
        return list(self._held.values())

    def claim(self, limit: int = 1) -> Sequence[JobClaim]:
        """Claim up to `limit` jobs, which are kept from now on."""
        claims = self._source.claim(queues=self._queues, limit=limit, lease=self._lease, worker=self._worker)
        for claim in claims:
            self._held[id(claim)] = claim
        return claims

    def run(self, claim: JobClaim, *, stop: threading.Event | None = None) -> Outcome:
        """Execute a claimed job and settle it; return its outcome. Raises as `execute` and `settle` do."""
        outcome = self.execute(claim, stop=stop)
        self.settle(claim, outcome)
        return outcome

    def execute(self, claim: JobClaim, *, stop: threading.Event | None = None) -> Outcome:
        """Execute a claimed job, as in a process of its own: in an empty context. Its outcome is to be settled.

        An exception is meant for the process, which stops: the job was given back, uncharged.
        """
        try:
            return Context().run(self._executor.execute, claim.raw, redelivered=claim.redelivered, stop=stop)
        except BaseException:
            self._let_go([claim])
            raise

    def settle(self, claim: JobClaim, outcome: Outcome) -> bool:
        """Settle a job, now or once the server is reachable; return False, having logged it, if its lease was lost.

        Raises the server's error in the end: when this keeper is closed, or when the server answers for half a minute
        that it can't keep this outcome. The job is then redelivered when its lease expires, and counts as lost.
        """
        try:
            if self._combiner is None:
                held = self._source.settle(claim, outcome)
            else:
                held, _ = self._combiner.settle_and_claim(claim, outcome, 0)
        except Exception as error:  # noqa: BLE001  # raised below unless it passes
            return self._settle_later(claim, outcome, error)
        self._held.pop(id(claim), None)
        if not held:
            log_fenced(claim.id)
        return held

    def settle_and_claim(self, claim: JobClaim, outcome: Outcome, limit: int = 1) -> Sequence[JobClaim]:
        """Settle a job, as `settle` does, and claim up to `limit`; in one step if the source can, together with the
        jobs that other threads end meanwhile.

        It claims no job after the server was unreachable, nor if a claim would wait.
        """
        if self._combiner is None:
            self.settle(claim, outcome)
            return () if self._source.waits else self.claim(limit)
        try:
            held, claims = self._combiner.settle_and_claim(claim, outcome, limit)
        except Exception as error:  # noqa: BLE001  # as in `settle`
            self._settle_later(claim, outcome, error)
            return ()
        self._held.pop(id(claim), None)
        if not held:
            log_fenced(claim.id)
        for each in claims:
            self._held[id(each)] = each
        return claims

    def holds(self, claim: JobClaim) -> bool:
        """Whether the claim is still ours on the server: for a caller that lets a forked child settle it."""
        return claim not in self._source.renew([claim], self._lease)

    def release(self, claims: Sequence[JobClaim]) -> None:
        """Give back claims that did not run, or that are to run again uncharged."""
        for claim in claims:
            self._held.pop(id(claim), None)
        self._source.release(claims)

    def forget(self, claim: JobClaim) -> None:
        """Stop keeping a claim that was settled elsewhere."""
        self._held.pop(id(claim), None)

    def keep(self) -> float:
        """Renew the leases of the claims, recover jobs of crashed workers; return the seconds until the next round."""
        self._source.renew(self.held, self._lease)
        self.recover()
        return self._lease.total_seconds() / 3

    def recover(self) -> None:
        """Make jobs whose lease expired wait again."""
        lost = self._source.recover()
        for job in lost:
            expired = None if job.expired_for is None else float(job.expired_for)
            log_rescued(job.id, lost_by=job.worker, lease_expired=expired)
            self._executor.tell("lost", job.raw)
        if lost and self._wake is not None:
            self._wake()

    def start(self) -> Self:
        """Begin to `keep`, in a daemon thread, until `close`."""
        self._thread = RecurringThread("anyjob-leases", self.keep, self._source.clock).start()
        return self

    def hand_back(self) -> Sequence[JobClaim]:
        """Give back, uncharged, the jobs that still run when the time to stop is up; return them, for the exit code."""
        left = self.held
        self._let_go(left)
        for claim in left:
            log_released(claim.id)
            self._executor.tell("released", claim.raw)
        return left

    def close(self) -> None:
        """End the thread, and the attempts to settle later."""
        if self._thread is not None:
            self._thread.end()
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _let_go(self, claims: Sequence[JobClaim]) -> None:
        """Release claims; if that fails, their leases expire."""
        try:
            self.release(claims)
        except AnyjobError as error:
            log_event(logger, logging.WARNING, "left without a word", worker=self._worker, reason=error)

    def _exchange(
        self, ended: Sequence[tuple[JobClaim, Outcome]], limit: int
    ) -> tuple[Sequence[bool], Sequence[JobClaim]]:
        return self._source.settle_and_claim(
            ended, queues=self._queues, limit=limit, lease=self._lease, worker=self._worker
        )

    def _settle_later(self, claim: JobClaim, outcome: Outcome, error: Exception) -> bool:
        """Settle once the server is reachable, and keep the lease meanwhile. The failed call may have had its
        effect.
        """
        pause, refused_for = FIRST_PAUSE, 0.0
        try:
            while self._goes_on(error) and refused_for < _PATIENCE:
                refused_for += 0.0 if _is_absence(error) else pause
                log_not_settled(claim.id, error, pause=pause)
                self._pause(pause)
                pause = next_pause(pause)
                try:
                    held = self._source.settle(claim, outcome)
                except Exception as again:  # noqa: BLE001  # raised in the end
                    error = again
                else:
                    if not held:
                        log_fenced(claim.id)
                    return held
            raise error
        finally:
            self.forget(claim)

    def _goes_on(self, error: Exception) -> bool:
        return isinstance(error, self._away) and not self._closed and self._insists()

    def _pause(self, seconds: float) -> None:
        clock = self._source.clock
        until = deadline_in(clock, seconds)
        with self._changed:
            while not self._closed and clock.monotonic() < until:
                clock.wait(self._changed, until)


def _is_absence(error: Exception) -> bool:
    """Tell an unreachable server from one that can't ever keep this outcome."""
    return isinstance(error, AnyjobError) and not isinstance(error, DuplicateJobIdError)


_PATIENCE: Final = 30.0
