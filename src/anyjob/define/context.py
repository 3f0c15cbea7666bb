"""The facts that a running job may ask for about its own run."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from datetime import datetime
from threading import Event
from types import MappingProxyType

from msgspec import Struct

from anyjob.base.envelope import JobEnvelope, JobPriority
from anyjob.define.retry import RetryPolicy

__all__ = ["JobExecutionContext", "current_job", "running_job"]


class JobExecutionContext(Struct, frozen=True, eq=False, gc=False):
    """One try of one job, seen from inside. Read-only; `should_stop` alone changes while the job runs."""

    _envelope: JobEnvelope
    policy: RetryPolicy | None
    """The retry policy in force; None is a single try."""
    started_at: datetime
    _stop: Event | None

    @property
    def id(self) -> str:
        return self._envelope.id

    @property
    def name(self) -> str:
        """The name it was enqueued under: possibly an alias of the job's name today."""
        return self._envelope.name

    @property
    def queue(self) -> str:
        return self._envelope.queue

    @property
    def priority(self) -> JobPriority:
        return self._envelope.priority

    @property
    def try_count(self) -> int:
        """Which try this is, from 1. Tries whose process crashed are in `lost_count` instead."""
        return self._envelope.try_count + 1

    @property
    def max_tries(self) -> int | None:
        """Tries at most, or None if only time limits them."""
        return 1 if self.policy is None else self.policy.max_tries

    @property
    def lost_count(self) -> int:
        return self._envelope.lost_count

    @property
    def headers(self) -> Mapping[str, str]:
        return MappingProxyType(dict(self._envelope.headers))

    @property
    def created_at(self) -> datetime:
        return self._envelope.created_at

    @property
    def first_due_at(self) -> datetime:
        return self._envelope.first_due_at

    @property
    def due_at(self) -> datetime:
        """When this try was due."""
        return self._envelope.due_at or self._envelope.first_due_at

    @property
    def last_error(self) -> str | None:
        """The error of the try before."""
        return self._envelope.last_error

    @property
    def should_stop(self) -> bool:
        """Whether the worker is stopping. A long job that sees it may save its progress and `raise Snooze()`: that
        costs it no try.
        """
        return self._stop is not None and self._stop.is_set()

    def __repr__(self) -> str:
        return f"<JobExecutionContext job={self.name} id={self.id} try={self.try_count}>"


running_job: ContextVar[JobExecutionContext] = ContextVar("anyjob_running_job")


def current_job() -> JobExecutionContext:
    """Return the context of the job that runs here; raise `LookupError` outside of one.

    Follows the job into the coroutines, tasks and `asyncio.to_thread` calls it makes, not into threads of its own.
    """
    try:
        return running_job.get()
    except LookupError:
        raise LookupError("current_job() was called outside of a running job.") from None
