"""Envelopes by hand, as `prepare` would make them."""

from __future__ import annotations

from datetime import datetime, timedelta

import msgspec
from msgspec import Raw

from anyjob import JobEnvelope, JobPriority

__all__ = ["make_envelope"]


def make_envelope(
    now: datetime,
    job_id: str,
    name: str = "note",
    args: object = None,
    *,
    queue: str = "default",
    priority: JobPriority = JobPriority.NORMAL,
    delay: timedelta | None = None,
) -> JobEnvelope:
    due = None if delay is None else now + delay
    return JobEnvelope(
        v=1,
        id=job_id,
        name=name,
        args=Raw(msgspec.json.encode(job_id if args is None else args)),
        queue=queue,
        priority=priority,
        created_at=now,
        first_due_at=due or now,
        due_at=due,
    )
