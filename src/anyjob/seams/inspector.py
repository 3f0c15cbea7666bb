"""The jobs of a backend that wait or are parked, seen from outside."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from copy import copy
from dataclasses import replace as replaced
from itertools import islice
from typing import Self
from uuid import uuid4

from msgspec.structs import replace

from anyjob.base.clock import Clock
from anyjob.base.envelope import RESERVED_HEADER_PREFIX, JobEnvelope
from anyjob.base.errors import UnknownJobError
from anyjob.define.upgrades import ARGS_VERSION_HEADER
from anyjob.seams.capabilities import ALL_STATES, Capabilities
from anyjob.seams.observer import JobObservers
from anyjob.seams.stored import JobFilter, JobPage, JobState, StoredJob

__all__ = ["HeldJob", "JobInspector"]


class HeldJob(ABC):
    """A held job. Unless it is acknowledged or replaced, it goes back when the context ends."""

    job: StoredJob

    @abstractmethod
    def acknowledge(self) -> bool:
        """Remove the job for good; return False if it was no longer held: somebody else has it now."""

    @abstractmethod
    def replace(self, envelope: JobEnvelope) -> bool:
        """Send `envelope` in its place, due at its `due_at`, then acknowledge the job. Return as `acknowledge`."""


class JobInspector(ABC):
    """The jobs that wait or are parked, seen from outside. Works on raw envelopes: no job code is needed.

    An adapter writes the first three methods; the core makes the rest of `hold` and `scan`. Jobs in states that
    `Capabilities` doesn't list or can't take out are left out, and refused if their state is asked for.
    """

    clock: Clock
    capabilities: Capabilities
    """The backend's: jobs in states that it can't take out are refused."""
    observers: JobObservers = JobObservers()
    """They are told what this inspector does."""

    def heard_by(self, observers: JobObservers) -> Self:
        """Return a copy of this inspector that tells `observers` what it does."""
        inspector = copy(self)
        inspector.observers = observers
        return inspector

    @abstractmethod
    def count(self) -> Mapping[JobState, int]:
        """Return how many jobs are in each state that can be counted; a state that can't be is missing, never 0."""

    @abstractmethod
    def scan(self, chosen: JobFilter, *, cursor: str | None = None, limit: int = 100) -> JobPage:
        """Return a page of the chosen jobs; `cursor` comes from the page before.

        It skips no job, whatever the caller did meanwhile to the jobs of earlier pages.
        """

    @abstractmethod
    def hold(self, chosen: JobFilter, *, holder: str, ahead: int) -> AbstractContextManager[Iterator[HeldJob]]:
        """Iterate over the chosen jobs that no worker runs; each is held from then on until the context ends.

        In the order in which they would run, within a level of a queue. Up to `ahead` jobs are held before they are
        asked for, each for five minutes at least. A job that goes back goes to its old place. If an earlier process of
        the same `holder` was killed, the jobs that it still holds go back first. The iterator may end before it has
        reached all chosen jobs, to release the others that it had to hold on the way.
        """

    def recover(self) -> None:
        """Give back the jobs of crashed workers, by the rules of the system's own workers, where nothing else does."""
        return

    def acknowledge(self, taken: Sequence[HeldJob]) -> Sequence[bool]:
        """Acknowledge jobs that one `hold` holds; override it where the system is quicker with many."""
        return [each.acknowledge() for each in taken]

    @contextmanager
    def hold_some(self, chosen: JobFilter, *, limit: int) -> Iterator[Sequence[HeldJob]]:
        """Hold up to `limit` chosen jobs that no worker runs, for the length of the context."""
        self.capabilities.refuse_removal(*(chosen.states or ALL_STATES))
        states = self.capabilities.removal & (chosen.states or ALL_STATES)
        with self.hold(replaced(chosen, states=states), holder=f"inspector-{uuid4().hex}", ahead=limit) as taken:
            yield list(islice(taken, limit))

    def find(self, job_id: str) -> StoredJob | None:
        """Return the job with this id in any state, or None; here and below it is the id that `enqueue` returned."""
        jobs = self.scan(JobFilter(ids=frozenset({job_id})), limit=1).jobs
        return jobs[0] if jobs else None

    def cancel(self, job_id: str) -> bool:
        """Remove a waiting or scheduled job; return whether there was one (running and parked jobs are not touched)."""
        removed = self._remove(job_id, JobState.WAITING, JobState.SCHEDULED)
        if removed is not None and removed.envelope is not None:
            self.observers.tell("cancelled", removed.envelope)
        return removed is not None

    def discard(self, job_id: str) -> bool:
        """Remove a parked job for good; return whether there was one."""
        return self._remove(job_id, JobState.ABANDONED) is not None

    def retry(self, job_id: str) -> bool:
        """Send a parked job anew, due now, with its whole retry budget; return whether there was one.

        Raises `UnknownJobError` when this version can't read the parked message as a job.
        """
        now = self.clock.now()
        return self._resend(
            job_id,
            JobState.ABANDONED,
            lambda parked: replace(parked, try_count=0, lost_count=0, first_due_at=now, due_at=None),
        )

    def run_now(self, job_id: str) -> bool:
        """Make a scheduled job due now; return whether there was one."""
        now = self.clock.now()
        return self._resend(
            job_id,
            JobState.SCHEDULED,
            lambda later: replace(later, due_at=None, first_due_at=min(later.first_due_at, now)),
        )

    def _remove(self, job_id: str, *states: JobState) -> StoredJob | None:
        self.capabilities.refuse_removal(*states)
        with self.hold_some(JobFilter(ids=frozenset({job_id}), states=frozenset(states)), limit=1) as taken:
            return next((each.job for each in taken if each.acknowledge()), None)

    def _resend(self, job_id: str, state: JobState, change: Callable[[JobEnvelope], JobEnvelope]) -> bool:
        self.capabilities.refuse_removal(state)
        with self.hold_some(JobFilter(ids=frozenset({job_id}), states=frozenset({state})), limit=1) as taken:
            for job in taken:
                envelope = job.job.envelope
                if envelope is None:
                    raise UnknownJobError(f"{job_id} can't be read as a job: {_why(job.job)}")
                headers = {
                    key: value
                    for key, value in envelope.headers.items()
                    if key == ARGS_VERSION_HEADER or not key.startswith(RESERVED_HEADER_PREFIX)
                }
                return job.replace(replace(change(envelope), headers=headers))
            return False


def _why(job: StoredJob) -> str:
    return job.failure.message if job.failure else "it is no envelope."
