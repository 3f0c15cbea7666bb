"""Seam 2, whole: a store keeps jobs and can be searched. `StoreBackend` makes a backend of it; it runs no job."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from datetime import timedelta

from anyjob.base.envelope import JobEnvelope
from anyjob.seams.marks import SendMarks
from anyjob.seams.outcome import JobFailure
from anyjob.seams.source import JobClaim, JobSource
from anyjob.seams.stored import JobFilter, JobPage, JobState

__all__ = ["JobStore"]


class JobStore(JobSource):
    """Keeps jobs and hands each to one worker at a time. Thread-safe, all methods atomic; time is `clock`'s alone: jobs
    are due by its `now`, leases end by its `monotonic`, so that a step of the wall clock ends no lease.

    A job is WAITING or SCHEDULED until `claim`ed, then RUNNING under a lease. `recover` makes a job whose lease expired
    WAITING again, with one more in its envelope's `lost_count`.

    Errors of the storage are raised as `EnqueueError` (`insert`) or another `AnyjobError`, with their cause.
    """

    marks: SendMarks = SendMarks()
    """The memory of `insert(once=)`."""

    @abstractmethod
    def insert(self, envelopes: Sequence[JobEnvelope], *, once: str | None = None) -> None:
        """Keep new jobs, all or none. Raise `DuplicateJobIdError` when the store has one of the ids, in any state.

        `once` is a mark: a job that was inserted under it before (`SendMarks.key`) is skipped, even if it has ended
        since. A store that can't note that in the same step ignores it, and its backend declares no `moves_once`.
        """

    @abstractmethod
    def hold(self, chosen: JobFilter, *, limit: int, lease: timedelta, worker: str) -> Sequence[JobClaim]:
        """Hold up to `limit` jobs that no worker runs, due or not, parked ones too: to be cancelled, retried, moved.

        In the order of `claim`, due or not; fewer than `limit` only if no more are free. `settle` ends the claim as
        usual, and `release` puts a job back at its old place. So does an expired lease, which counts no loss, because
        nothing ran.
        """

    def release_held(self, worker: str) -> None:  # noqa: ARG002
        """Release all jobs that `hold` gave to this worker: its process was killed, and a new one has the same name.

        Override it in a store that outlives a process; otherwise the jobs go back when their leases expire.
        """
        return

    @abstractmethod
    def park(self, raw: bytes, failure: JobFailure) -> str:
        """Keep a message that can't run (raw bytes from anywhere) as abandoned; return its id in this store.

        That is the job's own id (`id_in`), by which whoever enqueued it finds it; a `copy_id` if another job has that
        id, so that they can be told apart; a new id if the message has none.
        """

    @abstractmethod
    def scan(self, chosen: JobFilter, *, cursor: str | None = None, limit: int = 100) -> JobPage:
        """Return a page of the chosen jobs in the order they were inserted; `cursor` comes from the page before, whose
        jobs may be gone.
        """

    @abstractmethod
    def count(self) -> Mapping[JobState, int]:
        """Return how many jobs are in each state, exactly."""
