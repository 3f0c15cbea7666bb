"""The form of every log line: `event key=value ...`, the ids also in `extra`, arguments never."""

from __future__ import annotations

import logging

from anyjob.envelope import JobEnvelope

__all__ = ["log_event"]


def log_event(
    logger: logging.Logger,
    level: int,
    event: str,
    envelope: JobEnvelope | None = None,
    *,
    exc_info: BaseException | None = None,
    **facts: object,
) -> None:
    """Log what happened to a job. A fact's name may end in `_` where Python reserves the word."""
    if not logger.isEnabledFor(level):
        return
    if envelope is not None:
        facts = {"job": envelope.name, "id": envelope.id, **facts}
    extra = {"job_name": envelope.name, "job_id": envelope.id} if envelope is not None else {}
    text = " ".join(f"{key.rstrip('_')}={value}" for key, value in facts.items())
    logger.log(level, "%s %s", event, text, exc_info=exc_info, extra=extra)
