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
    """Who gave up: host and process."""
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
    """The job returned; nothing is left to do but to acknowledge."""


class Retry(Struct, frozen=True):
    """The try failed (or its process was lost): `envelope` is the next one, due at its `due_at`.

    `error` is what the try raised, for who looks on in this process, and safe to look at; it goes no further.
    """

    envelope: JobEnvelope
    error: BaseException | None = None


class Deferred(Struct, frozen=True):
    """The try is not charged: early, of a name that this process does not know (yet), or snoozed by the job.

    `error` is what it waits because of, if there is such, and safe to look at; it goes no further.
    """

    envelope: JobEnvelope
    error: BaseException | None = None


class Abandoned(Struct, frozen=True):
    """Given up: `raw` is to be parked with `failure`. `envelope` is None if `raw` can't be read as one.

    `error` is what `failure` describes, for who looks on in this process, and safe to look at; it goes no further.
    """

    raw: bytes
    failure: JobFailure
    envelope: JobEnvelope | None
    error: BaseException | None = None


Outcome = Completed | Retry | Deferred | Abandoned


def worker_name() -> str:
    """Return `host-pid`, the name by which this process is known in logs and failures."""
    import socket  # a tenth of the whole import, for a name

    return f"{socket.gethostname()}-{os.getpid()}"
