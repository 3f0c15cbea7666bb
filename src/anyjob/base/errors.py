"""Every error that anyjob raises, under one root; each message says what was wrong, where, and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

__all__ = [
    "AnyjobError",
    "BackendNotInstalledError",
    "ConfigurationError",
    "DuplicateJobError",
    "DuplicateJobIdError",
    "EnqueueError",
    "EnvelopeError",
    "InvalidArgsError",
    "InvalidOptionError",
    "JobDefinitionError",
    "JobLostError",
    "JobResolutionError",
    "JobTimeLimitError",
    "NotConfiguredError",
    "UnknownJobError",
    "UnsupportedCapabilityError",
    "UntellableError",
]


class AnyjobError(Exception):
    """Root of all errors of anyjob and its adapters."""


class ConfigurationError(AnyjobError):
    """Settings are wrong. `faults` holds every fault that was found, each with its source and path."""

    def __init__(self, *faults: str) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


class NotConfiguredError(ConfigurationError):
    """A job was enqueued, or a worker asked for, in an application that names no backend."""


class BackendNotInstalledError(ConfigurationError):
    """The settings name a backend whose library is missing; the message holds the pip command."""


class JobDefinitionError(AnyjobError):
    """A job, its signature or its args type can't be used as it is written."""


class DuplicateJobError(JobDefinitionError):
    """A second job claims a name or an args type; the message names both places."""


class UnknownJobError(AnyjobError, LookupError):
    """No job is registered under the name, or for the type, that was asked for."""


class InvalidArgsError(AnyjobError, ValueError):
    """Arguments don't fit the job's args type; the message holds the path of what is wrong."""


class InvalidOptionError(AnyjobError, ValueError):
    """An option of an enqueue call (priority, delay, run_at, queue, job_id, headers) is unusable."""


class UnsupportedCapabilityError(AnyjobError):
    """The backend can't do what the call asks for. Nothing was sent."""


class EnqueueError(AnyjobError):
    """The backend did not accept every job.

    `accepted`, `rejected` and `in_doubt` hold the ids of the call's jobs: those that the backend confirmed, those that
    it certainly does not have, and those whose fate is unknown (sent, but the answer never came).
    """

    def __init__(
        self,
        message: str,
        *,
        accepted: Sequence[str] = (),
        rejected: Sequence[str] = (),
        in_doubt: Sequence[str] = (),
    ) -> None:
        super().__init__(message)
        self.accepted = tuple(accepted)
        self.rejected = tuple(rejected)
        self.in_doubt = tuple(in_doubt)


class DuplicateJobIdError(EnqueueError):
    """A job with the given id is in the backend already (backends with `unique_ids`)."""


class EnvelopeError(AnyjobError):
    """A message can't be read as a job envelope: not ours, damaged, or of a newer version. It is parked untouched."""


class JobResolutionError(AnyjobError):
    """The job object can't be built. Raised by a resolver, it is permanent: the job is abandoned without a retry."""


class JobLostError(AnyjobError):
    """The job's process crashed while it ran, more often than `max_losses` allows."""


class JobTimeLimitError(AnyjobError):
    """The job ran longer than its time limit; the try counts as failed."""


class UntellableError(AnyjobError):
    """Replaces an exception of a job that raises when it is inspected; it has the same traceback."""

    def __init__(self, error_type: str, message: str) -> None:
        super().__init__(message)
        self.error_type = error_type
        """Module and name of the type of the job's exception."""


def shown(value: object) -> str:
    """Return the `repr` of a value for a message: cut to a line; a text in its place if `repr` raises."""
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001  # a number of 5,000 digits has none either
        text = f"<{type(value).__qualname__}>"
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}..."


_LONGEST_SHOWN = 200


def did_you_mean(wrong: str, known: Iterable[str]) -> str:
    """Return `" Did you mean 'x'?"`, or nothing when no known word is near."""
    near = difflib.get_close_matches(wrong, list(known), n=1)
    return f" Did you mean {near[0]!r}?" if near else ""
