"""Seam 1: what carries jobs. An adapter translates to a job system's API and decides nothing that others would too."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

from msgspec.structs import replace

from anyjob.capabilities import Capabilities
from anyjob.clock import Clock, SystemClock
from anyjob.envelope import RESERVED_HEADER_PREFIX, JobEnvelope
from anyjob.errors import EnqueueError, UnknownJobError
from anyjob.executor import JobExecutor
from anyjob.outcome import Abandoned, Completed, JobFailure, Outcome
from anyjob.store import JobFilter, JobPage, JobState, StoredJob
from anyjob.upgrades import ARGS_VERSION_HEADER
from anyjob.worker import JobWorker, WorkerOptions

__all__ = [
    "BackendConfig",
    "JobBackend",
    "JobShelf",
    "NativeCommand",
    "TakenJob",
    "send_one_by_one",
]


@dataclass(frozen=True, slots=True)
class NativeCommand:
    """The command line of a job system's own worker, set up safely.

    `environment` is added to the process's: broker URLs travel there, for `ps` shows a command line to everybody.
    """

    argv: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendConfig:
    """What the settings say about one backend; an adapter's entry point is called with it and returns the backend."""

    alias: str
    url: str = field(repr=False)
    namespace: str = "anyjob"
    """Prefix of every native queue and key."""
    queues: tuple[str, ...] | None = None
    """The logical queues there are, if the settings close the list."""
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """Handed to the native library as they are, but for the few that the adapter takes for itself."""
    enqueue_timeout: float = 5.0
    """Seconds within which `send` has to succeed or fail."""
    lease: float = 30.0
    """Seconds after which a job whose worker gave no sign of life runs again, where the backend's own broker does not
    notice the loss by itself."""
    clock: Clock = field(default_factory=SystemClock)
    known_queues: Callable[[], Iterable[str]] = field(default=lambda: ("default",), repr=False)
    """The logical queues that the application's jobs go to, as far as it knows by now; for systems that can't tell."""


class JobBackend(ABC):
    """Carries envelopes from `send` to an executor. Thread-safe and fork-safe: connects on first use per process."""

    capabilities: Capabilities
    """Of this instance: they may differ by transport and by whose application it is."""

    shelf: JobShelf | None = None
    """What waits, seen from outside; None where the system can't be looked into."""

    risks: Sequence[str] = ()
    """What the configuration puts at risk, a line each that begins with the setting; `anyjob doctor` shows them."""

    @abstractmethod
    def send(self, envelopes: Sequence[JobEnvelope]) -> None:
        """Hand the jobs over, and return when they were accepted; what is due later (`due_at`) waits in there.

        Raises `EnqueueError` within the configured bound when the system is away, refuses or never answers, with the
        ids accepted, rejected and in doubt. The core has checked the capabilities.
        """

    @abstractmethod
    def worker(self, executor: JobExecutor, options: WorkerOptions) -> NativeCommand | JobWorker:
        """Return the worker: a command of the system's own, or one of ours, not started."""

    def settle(self, outcome: Outcome) -> None:
        """Do what an outcome asks for; the adapter then acknowledges the message. Written once, for all adapters.

        Raises `EnqueueError` if that failed: leave the message unacknowledged, so that it comes again.
        """
        if isinstance(outcome, Completed):
            return
        if not isinstance(outcome, Abandoned):
            self.resend(outcome.envelope)
        elif self.shelf is not None:
            self.shelf.park(outcome.raw, outcome.failure)
        else:
            raise EnqueueError("This backend has no place to park an abandoned job.")

    def resend(self, envelope: JobEnvelope) -> None:
        """Send a job that came from here again, before its old message is acknowledged. Raises as `send`.

        To be overridden where `send` would take the old message for a duplicate.
        """
        self.send([envelope])

    def close(self) -> None:
        """Close connections. A later call opens them anew."""
        return


class TakenJob(ABC):
    """A job held off the shelf. What is neither acknowledged nor replaced goes back when the `take` ends."""

    job: StoredJob

    @abstractmethod
    def acknowledge(self) -> bool:
        """Remove the job for good; return False if it was no longer held, and is somebody else's now."""

    @abstractmethod
    def replace(self, envelope: JobEnvelope) -> bool:
        """Put `envelope` in its place, due at its `due_at`: sent first, then acknowledged. Return as `acknowledge`."""


class JobShelf(ABC):
    """The jobs that wait or are parked, seen from outside. Works on raw envelopes: no job code is needed.

    The last five methods are the core's, made of `take`; an adapter writes the first four. What `Capabilities` doesn't
    list or can't take out is left out of a scan or a take, and refused where it is asked for by its state.
    """

    clock: Clock
    capabilities: Capabilities
    """The backend's: what can't be taken out is refused."""

    @abstractmethod
    def count(self) -> Mapping[JobState, int]:
        """Return how many jobs are in each state that can be told; a state that can't is missing, never 0."""

    @abstractmethod
    def scan(self, chosen: JobFilter, *, cursor: str | None = None, limit: int = 100) -> JobPage:
        """Return a page of the chosen jobs; `cursor` comes from the page before."""

    @abstractmethod
    def take(self, chosen: JobFilter, *, limit: int) -> AbstractContextManager[Sequence[TakenJob]]:
        """Hold up to `limit` chosen jobs that no worker runs, for the length of the context."""

    @abstractmethod
    def park(self, raw: bytes, failure: JobFailure) -> str:
        """Keep what can't run, with why, without expiry; return the id it got."""

    def find(self, job_id: str) -> StoredJob | None:
        """Return the job of that id in any state, or None."""
        jobs = self.scan(JobFilter(ids=frozenset({job_id})), limit=1).jobs
        return jobs[0] if jobs else None

    def cancel(self, job_id: str) -> bool:
        """Remove a job that waits; return whether there was one (running and parked jobs are not touched)."""
        return self._remove(job_id, JobState.WAITING, JobState.SCHEDULED)

    def discard(self, job_id: str) -> bool:
        """Remove a parked job for good; return whether there was one."""
        return self._remove(job_id, JobState.ABANDONED)

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

    def _remove(self, job_id: str, *states: JobState) -> bool:
        self.capabilities.refuse_removal(*states)
        with self.take(JobFilter(ids=frozenset({job_id}), states=frozenset(states)), limit=1) as taken:
            return any(job.acknowledge() for job in taken)  # one at most

    def _resend(self, job_id: str, state: JobState, change: Callable[[JobEnvelope], JobEnvelope]) -> bool:
        self.capabilities.refuse_removal(state)
        with self.take(JobFilter(ids=frozenset({job_id}), states=frozenset({state})), limit=1) as taken:
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


def send_one_by_one(
    envelopes: Sequence[JobEnvelope],
    send: Callable[[JobEnvelope], object],
    errors: tuple[type[Exception], ...],
    system: str,
) -> None:
    """Send jobs by a system's own call, where that has nothing for many. `errors` are what it raises: the job that it
    raised for is in doubt, and those after it were not sent.
    """
    ids = [envelope.id for envelope in envelopes]
    for number, envelope in enumerate(envelopes):
        try:
            send(envelope)
        except errors as error:
            raise EnqueueError(
                f"{system} could not send: {str(error) or repr(error)}",
                accepted=ids[:number],
                in_doubt=[ids[number]],
                rejected=ids[number + 1 :],
            ) from error


def _why(job: StoredJob) -> str:
    return job.failure.message if job.failure else "it is no envelope."
