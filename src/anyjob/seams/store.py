"""Seam 2: what keeps jobs. A store and a `JobWorker` make a backend (`StoreBackend`); it knows no job and runs none."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import Any, Self

import msgspec
from msgspec import Struct

from anyjob.base.clock import Clock
from anyjob.base.envelope import UNREADABLE, JobEnvelope, read_envelope
from anyjob.base.errors import EnvelopeError, InvalidOptionError, did_you_mean, shown
from anyjob.base.plain import plain_text, plain_texts
from anyjob.seams.outcome import JobFailure, Outcome

__all__ = ["JobClaim", "JobFilter", "JobPage", "JobState", "JobStore", "LostJob", "PageCursor", "StoredJob"]


class JobState(StrEnum):
    """Where a job is in its life. A completed job is in no state: it is gone."""

    WAITING = "waiting"
    """Due, and free to be claimed."""
    SCHEDULED = "scheduled"
    """Due later."""
    RUNNING = "running"
    """Claimed by a worker."""
    ABANDONED = "abandoned"
    """Given up; parked with its failure until somebody retries or discards it."""


class StoredJob(Struct, frozen=True):
    """A job seen from outside, as it is kept. Looking at it imports no job code and decodes no arguments."""

    id: str
    """The job's own, which `enqueue` returned; see `JobStore.park` for those that can't have it."""
    state: JobState
    raw: bytes
    failure: JobFailure | None = None
    worker: str | None = None
    """Who runs it, or holds it (see `JobStore.hold`)."""

    @property
    def envelope(self) -> JobEnvelope | None:
        """What `raw` holds, or None if that can't be read."""
        try:
            return read_envelope(self.raw)
        except EnvelopeError:
            return None


class JobPage(Struct, frozen=True):
    """One page of a scan. `cursor` leads to the next; None: there is none."""

    jobs: Sequence[StoredJob]
    cursor: str | None


class PageCursor(Struct, frozen=True, array_like=True):
    """Base of the cursors of an inspector that goes on from more than a number: its fields, with defaults, as text."""

    @classmethod
    def parse(cls, text: str | None) -> Self | None:
        """Return the cursor that a page gave out, the first one for None; None for a text that no page gave out."""
        try:
            return cls() if text is None else msgspec.json.decode(text, type=cls)
        except UNREADABLE:
            return None

    def text(self) -> str:
        """Return the cursor for a page."""
        return msgspec.json.encode(self).decode()


class JobClaim(Struct, frozen=True, gc=False):
    """The right to settle one job. `token` fences: after the lease was lost, the claim settles nothing."""

    id: str
    raw: bytes
    token: int


class LostJob(Struct, frozen=True):
    """A job whose worker vanished; it is waiting again, with one more in its `lost_count`."""

    id: str
    worker: str
    expired_for: float
    """Seconds since its lease ended."""
    raw: bytes
    """As it is kept now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFilter:
    """Chooses jobs; what is None chooses all. `name` is a pattern (`mail.*`, case matters).

    Raises `InvalidOptionError` for what can't choose any: a state that there is not, a text where a set is wanted.
    """

    ids: frozenset[str] | None = None
    """A parked copy is chosen by its job's own id, and shown under that, once no other job has it."""
    states: frozenset[JobState] | None = None
    queues: frozenset[str] | None = None
    name: str | None = None
    where: Callable[[StoredJob], bool] | None = None
    """Asked last, about each job that fits otherwise."""

    def __post_init__(self) -> None:
        for attribute in ("ids", "states", "queues"):
            values: Any = plain_texts(getattr(self, attribute))
            if values is not None:
                if not isinstance(values, tuple) or not all(isinstance(each, str) for each in values):
                    raise InvalidOptionError(f"JobFilter({attribute}={shown(values)}): it is a set of strings.")
                object.__setattr__(self, attribute, frozenset(values))
        if self.states is not None:
            object.__setattr__(self, "states", frozenset(map(_state, self.states)))
        name: Any = plain_text(self.name)
        if not isinstance(name, str | None):
            raise InvalidOptionError(f"JobFilter(name={shown(name)}): it is a pattern, as 'mail.*'.")
        object.__setattr__(self, "name", name)

    def matches(self, job: StoredJob) -> bool:
        """Whether the job is chosen. One that can't be read has neither queue nor name to be chosen by."""
        if self.ids is not None and job.id not in self.ids:
            return False
        if self.states is not None and job.state not in self.states:
            return False
        return self._fits(job) and (self.where is None or self.where(job))

    def _fits(self, job: StoredJob) -> bool:
        if self.queues is None and self.name is None:
            return True
        envelope = job.envelope
        return (
            envelope is not None
            and (self.queues is None or envelope.queue in self.queues)
            and (self.name is None or fnmatchcase(envelope.name, self.name))
        )


def _state(name: str) -> JobState:
    try:
        return JobState(name)
    except ValueError:
        known = [state.value for state in JobState]
        raise InvalidOptionError(
            f"JobFilter: there is no state {name!r}.{did_you_mean(name, known)} States: {', '.join(known)}."
        ) from None


class JobStore(ABC):
    """Keeps jobs and hands each to one worker at a time. Thread-safe, all methods atomic; time is `clock`'s alone:
    jobs are due by its `now`, leases end by its `monotonic`, so that a step of the wall clock costs nobody a lease.

    A job is WAITING or SCHEDULED until `claim`ed, then RUNNING under a lease that the worker `renew`s. `settle` ends
    the claim by its outcome. A lease that is not renewed in time counts as lost: `recover` makes the job WAITING again
    with one more in its envelope's `lost_count`.

    Errors of the storage are raised as `EnqueueError` (`insert`) or another `AnyjobError`, with their cause.
    """

    clock: Clock

    @abstractmethod
    def insert(self, envelopes: Sequence[JobEnvelope]) -> None:
        """Keep new jobs, all or none. Raise `DuplicateJobIdError` when the store has one of the ids, in any state."""

    @abstractmethod
    def claim(self, *, queues: Sequence[str] | None, limit: int, lease: timedelta, worker: str) -> Sequence[JobClaim]:
        """Take up to `limit` due jobs of `queues` (None: of all) for `worker`, in order.

        Order: priority, highest first; then the time they became due (`due_at`, or `first_due_at` if that is null);
        then insertion. The time a claim takes must
        depend neither on how many jobs wait nor on how many are scheduled.
        """

    @abstractmethod
    def settle(self, claim: JobClaim, outcome: Outcome) -> bool:
        """End a claim: Completed deletes the job; Retry and Deferred put back their envelope, due at its `due_at`;
        Abandoned parks its raw bytes with the failure. Return False, changing nothing, if the claim is no longer held.
        """

    @abstractmethod
    def release(self, claims: Sequence[JobClaim]) -> None:
        """Give jobs back as they were before the claim, at their old place in the order. It costs them nothing."""

    @abstractmethod
    def renew(self, claims: Sequence[JobClaim], lease: timedelta) -> Sequence[JobClaim]:
        """Let the leases end `lease` from now; return the claims that are lost already."""

    @abstractmethod
    def recover(self) -> Sequence[LostJob]:
        """Make the jobs wait again whose lease ended, each with one more in `lost_count`; give back what was taken."""

    @abstractmethod
    def next_due_at(self, queues: Sequence[str] | None) -> datetime | None:
        """Return when the earliest job of `queues` is due (it may be past), or None if there is none."""

    @abstractmethod
    def hold(self, chosen: JobFilter, *, limit: int, lease: timedelta, worker: str) -> Sequence[JobClaim]:
        """Hold up to `limit` jobs that no worker runs, due or not, parked ones too: to be cancelled, retried, moved.

        In the order of `claim`, with no regard to what is due.
        `settle` ends the claim as ever and `release` puts a job back where it was; a lease that ends does so as well,
        and counts no loss, for nothing ran.
        """

    @abstractmethod
    def park(self, raw: bytes, failure: JobFailure) -> str:
        """Keep what can't run (raw bytes from anywhere) as abandoned; return the id it got here.

        That is the job's own (`id_in`), by which whoever enqueued it finds it; a `copy_id` if another job has that, so
        that they can be told apart; and a new one for what has none.
        """

    @abstractmethod
    def scan(self, chosen: JobFilter, *, cursor: str | None = None, limit: int = 100) -> JobPage:
        """Return a page of the chosen jobs in the order they were inserted; `cursor` comes from the page before, whose
        jobs may be gone.
        """

    @abstractmethod
    def count(self) -> Mapping[JobState, int]:
        """Return how many jobs are in each state, exactly."""
