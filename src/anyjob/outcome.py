"""What became of one delivery of a job: the executor returns it, a backend or a store settles it."""

from __future__ import annotations

import traceback
from datetime import datetime

from msgspec import Struct

from anyjob.envelope import JobEnvelope, UtcDatetime

__all__ = ["Abandoned", "Completed", "Deferred", "JobFailure", "Outcome", "Retry", "describe_error"]

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
        """Describe `error`, whatever it is: one whose `__str__` raises is still described."""
        return cls(
            error_type=f"{type(error).__module__}.{type(error).__qualname__}".removeprefix("builtins."),
            message=_safe_str(error),
            traceback=_format(error)[-_MAX_TRACEBACK:],
            failed_at=at,
            worker=worker,
            tries=tries,
        )


class Completed(Struct, frozen=True):
    """The job returned; nothing is left to do but to acknowledge."""


class Retry(Struct, frozen=True):
    """The try failed (or its process was lost): `envelope` is the next one, due at its `due_at`."""

    envelope: JobEnvelope


class Deferred(Struct, frozen=True):
    """The job did not run and is not charged: early, or of a name that this process does not know (yet)."""

    envelope: JobEnvelope


class Abandoned(Struct, frozen=True):
    """Given up: `raw` is to be parked with `failure`. `envelope` is None if `raw` can't be read as one.

    `error` is what `failure` describes, for who looks on in this process; it goes no further.
    """

    raw: bytes
    failure: JobFailure
    envelope: JobEnvelope | None
    error: BaseException | None = None


Outcome = Completed | Retry | Deferred | Abandoned


def describe_error(error: BaseException, limit: int) -> str:
    """Return type and message of `error` on one line of at most `limit` characters."""
    text = " ".join(f"{type(error).__qualname__}: {_safe_str(error)}".split())
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _safe_str(error: BaseException) -> str:
    try:
        return _encodable(str(error))
    except Exception:  # noqa: BLE001
        return "<its message can't be shown: __str__ raised>"


def _format(error: BaseException) -> str:
    try:
        return _encodable("".join(traceback.format_exception(error)))
    except Exception:  # noqa: BLE001
        return "<its traceback can't be shown>"


def _encodable(text: str) -> str:
    """Replace lone surrogates (file names have them), which no JSON can hold."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
