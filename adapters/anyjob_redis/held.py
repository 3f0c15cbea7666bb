"""A job that is held off the shelf for a while, by a token, in whatever keeps such holds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from anyjob.backend import TakenJob
from anyjob.envelope import JobEnvelope
from anyjob.store import StoredJob

__all__ = ["LONGEST_HOLD", "HeldJob", "Holds"]

LONGEST_HOLD: Final = 300.0
"""Seconds after which what was taken goes back by itself: whoever took it may have died."""


class Holds(Protocol):
    """Knows which token holds which job."""

    def holds(self, job_id: str, token: str) -> bool:
        """Whether the token still holds the job."""

    def end_hold(self, job_id: str, token: str, *, discard: bool) -> bool:
        """Let go of a job, or discard it; return False, changing nothing, if it was not held by this token any more."""


class HeldJob(TakenJob):
    """A job that `token` holds."""

    def __init__(self, holds: Holds, job: StoredJob, token: str, resend: Callable[[JobEnvelope], None]) -> None:
        self._holds = holds
        self._token = token
        self._resend = resend
        self.job = job

    def acknowledge(self) -> bool:
        return self._holds.end_hold(self.job.id, self._token, discard=True)

    def replace(self, envelope: JobEnvelope) -> bool:
        if not self._holds.holds(self.job.id, self._token):
            return False
        self._resend(envelope)
        self.acknowledge()  # nothing is left to be done if it was replaced in its very place
        return True
