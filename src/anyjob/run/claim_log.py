"""The log lines about claims (docs/logging.md): the same for every worker."""

from __future__ import annotations

import logging
from typing import Any

from anyjob.base.errors import AnyjobError
from anyjob.base.log import FENCED, JobLogger, log_event

__all__ = ["log_fenced", "log_not_settled", "log_released", "log_rescued"]

logger = JobLogger("anyjob.worker")


def log_fenced(job_id: str) -> None:
    """Log that the outcome of a job was not settled, because another worker has the job by now."""
    log_event(logger, logging.WARNING, "fenced", id=job_id, reason=FENCED)


def log_released(job_id: str) -> None:
    """Log that a job went back when the time to stop was up."""
    log_event(logger, logging.WARNING, "released", id=job_id, reason="it still ran")


def log_rescued(job_id: str, *, lost_by: str | None = None, lease_expired: float | None = None) -> None:
    """Log that a lost job waits again, so many seconds after its lease expired."""
    facts: dict[str, Any] = {"lost_by": lost_by, "lease_expired": lease_expired}
    log_event(logger, logging.WARNING, "rescued", id=job_id, **facts, reason="its worker vanished")


def log_not_settled(job_id: str, error: Exception, *, pause: float | None = None) -> None:
    """Log that an outcome can't be settled: not before a `pause`, or not by this worker."""
    facts: dict[str, Any] = {"reason": error} if isinstance(error, AnyjobError) else {"exc_info": error}
    log_event(logger, logging.WARNING, "not settled", id=job_id, pause=pause, **facts)
