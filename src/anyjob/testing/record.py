"""The record of a sandbox: every job that was enqueued, every try that ended, every job that was given up."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from anyjob.base.envelope import JobEnvelope, JobPriority
from anyjob.define.configuration import JobConfiguration
from anyjob.define.context import JobExecutionContext
from anyjob.define.registry import JobRegistry
from anyjob.define.serializer import JobSerializer
from anyjob.run.executor import JobExecutor
from anyjob.seams.observer import JobObserver, JobObservers
from anyjob.seams.outcome import Abandoned, JobFailure

__all__ = ["AbandonedJob", "EnqueuedJob", "JobRecord", "JobWatcher", "RanJob", "WatchedObservers"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EnqueuedJob:
    """A job as the backend accepted it."""

    envelope: JobEnvelope = field(repr=False)
    backend: str
    """Alias of the backend that it went to."""
    configuration: JobConfiguration | None = field(repr=False)
    """The job that its name leads to; None if there is none."""
    serializer: JobSerializer = field(repr=False)

    @property
    def id(self) -> str:
        return self.envelope.id

    @property
    def name(self) -> str:
        return self.envelope.name

    @property
    def args(self) -> Any:
        """The arguments, decoded as for the job, anew each time. Raises `InvalidArgsError` if they can't be."""
        if self.configuration is None:
            return self.serializer.deserialize(self.envelope.args, Any)
        return self.configuration.decode(self.envelope, self.serializer)

    @property
    def queue(self) -> str:
        return self.envelope.queue

    @property
    def priority(self) -> JobPriority:
        return self.envelope.priority

    @property
    def delay(self) -> timedelta:
        """How long after it was enqueued it is due; zero is at once."""
        due = self.envelope.due_at
        return timedelta() if due is None else due - self.envelope.created_at

    @property
    def run_at(self) -> datetime | None:
        """When it is due; None is at once."""
        return self.envelope.due_at

    @property
    def headers(self) -> Mapping[str, str]:
        return self.envelope.headers


@dataclass(frozen=True, slots=True, kw_only=True)
class RanJob(EnqueuedJob):
    """One try that ended."""

    try_count: int
    """Which try it was, from 1."""
    error: BaseException | None
    """The exception that it raised; None if it succeeded."""
    next_try_at: datetime | None
    """When it is tried again, if it failed and will be, or was snoozed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AbandonedJob(EnqueuedJob):
    """A job that was given up."""

    error: BaseException | None
    failure: JobFailure


class JobRecord:
    """The events, in order. It only grows; thread-safe."""

    def __init__(self) -> None:
        self.enqueued: list[EnqueuedJob] = []
        self.ran: list[RanJob] = []
        self.abandoned: list[AbandonedJob] = []


class JobWatcher(JobObserver):
    """Records the events of one manager's jobs, and tells when an enqueue is over."""

    executor: JobExecutor
    """The manager's, inside the sandbox."""

    def __init__(self, record: JobRecord, registry: JobRegistry, enqueued: Callable[[JobEnvelope], None]) -> None:
        self.registry = registry
        self._record = record
        self._enqueued = enqueued
        self._known: dict[
            tuple[str, bytes], EnqueuedJob
        ] = {}  # by id and arguments: not every backend's ids are unique

    def enqueued(self, envelope: JobEnvelope) -> None:
        self._enqueued(envelope)

    def seen(self, envelope: JobEnvelope) -> EnqueuedJob:
        """Return what was noted of a job."""
        return self._known[_key(envelope)]

    def accepted(self, envelope: JobEnvelope, backend: str, *, enqueued: bool = True) -> None:
        """Record a new job; one that `receive` put there was not `enqueued`."""
        seen = EnqueuedJob(
            envelope=envelope,
            backend=backend,
            configuration=self.registry.find(envelope.name),
            serializer=self.executor.serializer,
        )
        self._known[_key(envelope)] = seen
        if enqueued:
            self._record.enqueued.append(seen)

    def succeeded(self, job: JobExecutionContext, result: object) -> None:  # noqa: ARG002
        self._ended(job, None, None)

    def failed(self, job: JobExecutionContext, error: BaseException, next_try_at: datetime | None) -> None:
        self._ended(job, error, next_try_at)

    def snoozed(self, job: JobExecutionContext, error: BaseException, until: datetime) -> None:
        self._ended(job, error, until)

    def abandoned(self, outcome: Abandoned) -> None:
        if outcome.envelope is not None:
            facts = _facts(self.seen(outcome.envelope))
            self._record.abandoned.append(AbandonedJob(**facts, error=outcome.error, failure=outcome.failure))

    def _ended(self, job: JobExecutionContext, error: BaseException | None, next_try_at: datetime | None) -> None:
        facts = _facts(self.seen(job._envelope))  # noqa: SLF001  # kept from jobs, not from us
        self._record.ran.append(RanJob(**facts, try_count=job.try_count, error=error, next_try_at=next_try_at))


def _facts(seen: EnqueuedJob) -> dict[str, Any]:
    return {name: getattr(seen, name) for name in ("envelope", "backend", "configuration", "serializer")}


class WatchedObservers(JobObservers):
    """The application's observers, guarded as ever; then the watcher, whose errors are the test's to see."""

    def __init__(self, observers: JobObservers, watcher: JobWatcher) -> None:
        super().__init__([watcher])
        self._observers = observers
        self._watcher = watcher

    def load(self) -> Sequence[JobObserver]:
        self._observers.load()
        return super().load()

    def tell(self, event: str, *facts: Any) -> None:
        self._observers.tell(event, *facts)
        getattr(self._watcher, event)(*facts)


def _key(envelope: JobEnvelope) -> tuple[str, bytes]:
    return envelope.id, bytes(envelope.args)
