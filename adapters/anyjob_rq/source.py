"""The source of RQ's lists: one message at a time."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Final

from anyjob.extend import Completed, Deferred, JobClaim, JobSource, LostJob, Outcome, SystemClock
from anyjob_redis.connection import translated
from anyjob_redis.presence import Presence
from anyjob_rq.backend import RQBackend
from anyjob_rq.messages import HeldMessage

__all__ = ["RQClaim", "RQSource"]


class RQClaim(JobClaim, frozen=True, kw_only=True, gc=False):
    """A claim of a message that a worker took."""

    message: HeldMessage


class RQSource(JobSource):
    """Claims for the worker of that `name`, which has one lease for all its claims: its sign of life in Redis.

    RQ's monitors are told how a job ended, and how long it ran if it was `begun`.
    """

    def __init__(self, backend: RQBackend, name: str, *, rotates: bool) -> None:
        self.clock = SystemClock()  # for pauses: the server measures leases
        self.rotates = rotates
        """Whether the queues of a level take turns."""
        self.presence = Presence(backend.client, backend.config.namespace, name, backend.config.lease)
        self._backend = backend
        self._messages = backend.messages
        self._name = name
        self._turn = 0
        self._begun: float | None = None
        self._was_alive = False

    def begin(self) -> None:
        """Measure from now on how long a job takes."""
        self._begun = time.monotonic()

    def claim(
        self,
        *,
        queues: Sequence[str] | None,
        limit: int,  # noqa: ARG002  # a holder runs one at a time
        lease: timedelta,  # noqa: ARG002  # the presence's
        worker: str,  # noqa: ARG002  # it claims under its name in RQ
    ) -> Sequence[JobClaim]:
        take = partial(self._messages.take, self._name, queues or (), self._turn)
        with translated():
            message = self.presence.revived(take)
        if message is None:
            return ()
        self._turn += self.rotates
        self._begun = None
        job_id = self.shown(message.native_id)
        return [RQClaim(id=job_id, raw=message.raw, token=0, redelivered=message.redelivered, message=message)]

    def settle(self, claim: JobClaim, outcome: Outcome) -> bool:
        entry = _entry_of(claim)
        counter = _COUNTERS.get(type(outcome), "failed_job_count")
        seconds = 0.0 if self._begun is None else time.monotonic() - self._begun
        with translated():
            if not isinstance(outcome, Completed):
                if not self._messages.holds(self._name, entry):
                    return False
                with self._messages.settling(self._name, entry):
                    self._backend.settle(outcome)
            return self._messages.acknowledge(self._name, entry, counter, seconds)

    def release(self, claims: Sequence[JobClaim]) -> None:
        if claims:
            self.give_back(lost=False)

    def give_back(self, *, lost: bool) -> Sequence[str]:
        """Put back all messages that the worker holds, `lost` or uncharged; return the ids."""
        with translated():
            return [self.shown(each) for each in self._messages.give_back(self._name, lost=lost)]

    def renew(self, claims: Sequence[JobClaim], lease: timedelta) -> Sequence[JobClaim]:  # noqa: ARG002
        with translated():
            self._was_alive = self.presence.beat()
        return [each for each in claims if not self.holds(each)]

    def holds(self, claim: JobClaim) -> bool:
        """Whether the message was neither given back meanwhile nor settled in a child. Renews no sign of life."""
        with translated():
            return self._messages.holds(self._name, _entry_of(claim))

    def recover(self) -> Sequence[LostJob]:
        if not self._was_alive:
            return ()
        with translated():
            return [LostJob(self.shown(each), None, None, b"") for each in self._messages.sweep()]

    def next_due_at(self, queues: Sequence[str] | None) -> datetime | None:  # noqa: ARG002  # promoted by a thread
        return None

    def shown(self, native_id: str) -> str:
        """Return the id of a job, by its id in RQ."""
        return self._messages.names.job_id(native_id) or native_id


def _entry_of(claim: JobClaim) -> bytes:
    assert isinstance(claim, RQClaim)  # noqa: S101  # for mypy: it gives no others
    return claim.message.entry


_COUNTERS: Final[Mapping[type, str]] = {Completed: "successful_job_count", Deferred: ""}
