"""What became of one delivery of a job: the executor returns it, a backend or a store settles it."""

from __future__ import annotations

import os
from datetime import datetime

from msgspec import Struct

from anyjob.base.envelope import JobEnvelope, UtcDatetime
from anyjob.base.error_text import encodable, format_error, tellable, type_name

__all__ = ["Abandoned", "Completed", "Deferred", "JobFailure", "Outcome", "Retry", "worker_name"]

_MAX_TRACEBACK = 16 * 1024


class JobFailure(Struct, frozen=True):
    """Why a job was given up, kept beside its raw envelope until somebody retries or discards it."""

    error_type: str
    message: str
    traceback: str
    failed_at: UtcDatetime
    worker: str
    """The worker that gave up: host and process."""
    tries: int
    """Tries begun and ended, crashes not counted; 0 when the job never ran."""

    @classmethod
    def of(cls, error: BaseException, *, at: datetime, worker: str, tries: int) -> JobFailure:
        """Describe `error`, whatever it is: one whose attributes raise is still described."""
        error = tellable(error)
        return cls(
            error_type=type_name(error, module=True),
            message=encodable(str(error)),
            traceback=format_error(error, _MAX_TRACEBACK),
            failed_at=at,
            worker=worker,
            tries=tries,
        )


class Completed(Struct, frozen=True):
    """The job returned; its message only has to be acknowledged."""


class Retry(Struct, frozen=True):
    """The try failed (or its process was lost): `envelope` is the next one, due at its `due_at`.

    `error` is what the try raised, for observers in this process, and safe to inspect; it isn't sent.
    """

    envelope: JobEnvelope
    error: BaseException | None = None


class Deferred(Struct, frozen=True):
    """The try is not charged: the job came early, has a name that this process doesn't know (yet), or snoozed.

    `error` is the reason to wait, if there is one, and safe to inspect; it isn't sent.
    """

    envelope: JobEnvelope
    error: BaseException | None = None


class Abandoned(Struct, frozen=True):
    """Given up: `raw` is to be parked with `failure`. `envelope` is None if `raw` can't be read as one.

    `error` is what `failure` describes, for observers in this process, and safe to inspect; it isn't sent.
    """

    raw: bytes
    failure: JobFailure
    envelope: JobEnvelope | None
    error: BaseException | None = None


Outcome = Completed | Retry | Deferred | Abandoned


def worker_name() -> str:
    """Return `host-pid`, the name by which this process is known in logs and failures."""
    import socket  # its import would take a tenth of anyjob's

    return f"{socket.gethostname()}-{os.getpid()}"
