"""Celery's signals around a publish, for those who listen: tracers put their headers into the message there."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import msgspec

from anyjob.envelope import JobEnvelope, write_envelope
from anyjob_celery.frame import TASK, headers_of

__all__ = ["announced_headers", "tell_published"]


def announced_headers(envelope: JobEnvelope, eta: str | None = None) -> dict[str, Any]:
    """Return the headers of the job's message, after the receivers of `before_task_publish` had them.

    They may add headers; what else they change is theirs alone. Who never imported Celery has no receivers.
    """
    headers = headers_of(envelope)
    if eta is not None:
        headers["eta"] = eta
    signals = _signals()
    if signals is not None and signals.before_task_publish.receivers:
        signals.before_task_publish.send(
            sender=TASK, headers=headers, declare=[], retry_policy={}, properties={}, **_told(envelope)
        )
    return headers


def tell_published(envelope: JobEnvelope, headers: Mapping[str, Any]) -> None:
    """Send `after_task_publish` for a job that the broker accepted."""
    signals = _signals()
    if signals is not None and signals.after_task_publish.receivers:
        signals.after_task_publish.send(sender=TASK, headers=headers, **_told(envelope))


def _signals() -> Any:
    return sys.modules.get("celery.signals")


def _told(envelope: JobEnvelope) -> Mapping[str, Any]:
    readable = msgspec.json.decode(write_envelope(envelope))
    return {"body": ((readable,), {}, {}), "exchange": "", "routing_key": envelope.queue}
