"""A hook for what happens to jobs: metrics, tracing, error reports. It looks on; it can't break a job."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from anyjob.context import JobExecutionContext
from anyjob.envelope import JobEnvelope
from anyjob.log import JobLogger
from anyjob.outcome import Abandoned

__all__ = ["JobObserver", "JobObservers"]

logger = JobLogger("anyjob.observer")


class JobObserver:
    """Subclass and override what you want to hear of.

    Called in the thread that enqueues or runs the job, so be quick and thread-safe. What an observer raises is logged
    and goes no further.
    """

    def enqueued(self, envelope: JobEnvelope) -> None:
        """The backend accepted a new job."""

    def started(self, job: JobExecutionContext) -> None:
        """A try begins."""

    def succeeded(self, job: JobExecutionContext) -> None:
        """The try returned."""

    def failed(self, job: JobExecutionContext, error: BaseException, next_try_at: datetime | None) -> None:
        """The try raised `error`; None means that it was the last, and `abandoned` follows."""

    def snoozed(self, job: JobExecutionContext, error: BaseException, until: datetime) -> None:
        """The try raised `Snooze`, or `RetryLater` at a stop: it is not charged, and runs again then."""

    def abandoned(self, outcome: Abandoned) -> None:
        """A job was given up, after its last try or because it can't be read, found or built."""


class JobObservers(tuple[JobObserver, ...]):
    """Several observers, each guarded. A tuple, so that asking whether there are any costs nothing."""

    __slots__ = ()

    def tell(self, event: str, *facts: Any) -> None:
        """Call the method `event` of every observer."""
        for observer in self:
            try:
                getattr(observer, event)(*facts)
            except Exception:
                logger.exception("observer %s.%s raised", type(observer).__qualname__, event)
