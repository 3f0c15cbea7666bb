"""What waits in a backend or is parked, seen from outside."""

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
    """A job held. What is neither acknowledged nor replaced goes back when the context ends."""

    job: StoredJob

    @abstractmethod
    def acknowledge(self) -> bool:
        """Remove the job for good; return False if it was no longer held, and is somebody else's now."""

    @abstractmethod
    def replace(self, envelope: JobEnvelope) -> bool:
        """Put `envelope` in its place, due at its `due_at`: sent first, then acknowledged. Return as `acknowledge`."""


class JobInspector(ABC):
    """The jobs that wait or are parked, seen from outside. Works on raw envelopes: no job code is needed.

    An adapter writes the first three methods; the rest is the core's, made of `drain` and `scan`. What `Capabilities`
    doesn't list or can't take out is left out, and refused where it is asked for by its state.
    """

    clock: Clock
    capabilities: Capabilities
    """The backend's: what can't be taken out is refused."""
    observers: JobObservers = JobObservers()
    """Who hears what is done here."""

    def heard_by(self, observers: JobObservers) -> Self:
        """Return the same inspector for somebody else, whose observers hear what that one does."""
        inspector = copy(self)
        inspector.observers = observers
        return inspector

    @abstractmethod
    def count(self) -> Mapping[JobState, int]:
        """Return how many jobs are in each state that can be told; a state that can't is missing, never 0."""

    @abstractmethod
    def scan(self, chosen: JobFilter, *, cursor: str | None = None, limit: int = 100) -> JobPage:
        """Return a page of the chosen jobs; `cursor` comes from the page before.

        Whatever the caller did meanwhile to the jobs that it was shown, none of the others is passed over.
        """

    @abstractmethod
    def hold(self, chosen: JobFilter, *, holder: str, ahead: int) -> AbstractContextManager[Iterator[HeldJob]]:
        """Come past the chosen jobs that no worker runs, each held from then on until the context ends.

        In the order in which they would run, within a level of a queue. Up to `ahead` are held before they are asked
        for, each for five minutes at least. What goes back goes to its very place. What a context of the same `holder`
        still holds, for its process was killed, goes back first. It may end before the jobs do, to let go of others.
        """

    def recover(self) -> None:
        """Give back what dead workers held, by the rules of the system's own workers, where it takes somebody to."""
        return

    def acknowledge(self, taken: Sequence[HeldJob]) -> Sequence[bool]:
        """Acknowledge jobs that one `drain` holds; to be overridden where that is quicker for many."""
        return [each.acknowledge() for each in taken]

    @contextmanager
    def hold_some(self, chosen: JobFilter, *, limit: int) -> Iterator[Sequence[HeldJob]]:
        """Hold up to `limit` chosen jobs that no worker runs, for the length of the context."""
        self.capabilities.refuse_removal(*(chosen.states or ALL_STATES))
        states = self.capabilities.removal & (chosen.states or ALL_STATES)
        with self.hold(replaced(chosen, states=states), holder=f"inspector-{uuid4().hex}", ahead=limit) as taken:
            yield list(islice(taken, limit))

    def find(self, job_id: str) -> StoredJob | None:
        """Return the job of that id in any state, or None; here and below it is the one that `enqueue` returned."""
        jobs = self.scan(JobFilter(ids=frozenset({job_id})), limit=1).jobs
        return jobs[0] if jobs else None

    def cancel(self, job_id: str) -> bool:
        """Remove a job that waits; return whether there was one (running and parked jobs are not touched)."""
        removed = self._remove(job_id, JobState.WAITING, JobState.SCHEDULED)
        if removed is not None and removed.envelope is not None:
            self.observers.tell("cancelled", removed.envelope)
        return removed is not None

    def discard(self, job_id: str) -> bool:
        """Remove a parked job for good; return whether there was one."""
        return self._remove(job_id, JobState.ABANDONED) is not None

    def retry(self, job_id: str) -> bool:
        """Send a parked job anew, due now, with its whole retry budget; return whether there was one.

        Raises `UnknownJobError` when what is parked can't be read as a job by this version.
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
