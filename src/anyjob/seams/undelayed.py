"""A backend without delays gives up jobs that would have to wait: sent back, they would be redelivered at once."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Final

from anyjob.base.envelope import JobEnvelope, write_envelope
from anyjob.base.error_text import describe_error, tellable
from anyjob.base.errors import EnqueueError, UnsupportedCapabilityError
from anyjob.base.log import JobLogger, log_event
from anyjob.base.moments import plain_moment
from anyjob.seams.outcome import Abandoned, Deferred, JobFailure, Outcome, Retry, worker_name
from anyjob.seams.source import JobClaim, JobSource, LostJob

__all__ = ["UndelayedSource", "give_up", "refuse_wait"]

logger: Final = JobLogger("anyjob.worker")


def refuse_wait(outcome: Retry | Deferred, now: datetime) -> None:
    """Raise `UnsupportedCapabilityError`, with the outcome's error as cause, if the job is due only after `now`."""
    due_at, error = outcome.envelope.due_at, outcome.error
    if due_at is None or due_at <= now:
        return
    told = f"The job is to wait for {due_at - now}; this backend has no delays."
    if error is not None:
        told += f" It waits because of {describe_error(error)}"
    raise UnsupportedCapabilityError(told) from error


def give_up(envelope: JobEnvelope, error: Exception, now: datetime) -> Abandoned:
    """Give up a job that can't go back because of `error`: log it, return its outcome. Raises `EnqueueError` if the
    envelope can't be written.
    """
    failure = JobFailure.of(error, at=plain_moment(now), worker=worker_name(), tries=envelope.try_count)
    log_event(logger, logging.ERROR, "can't go back", envelope, error=failure.error_type, reason=failure.message)
    try:
        return Abandoned(write_envelope(envelope), failure, envelope, tellable(error))
    except Exception as broken:
        raise EnqueueError(f"{envelope.id} can't be written: {describe_error(tellable(broken))}") from broken


class UndelayedSource(JobSource):
    """Wraps the source of a backend without delays: it gives up jobs that would have to wait."""

    def __init__(self, source: JobSource) -> None:
        self._source = source
        self.clock = source.clock
        self.poll = source.poll
        self.waits = source.waits
        self.one_thread = source.one_thread

    def claim(self, *, queues: Sequence[str] | None, limit: int, lease: timedelta, worker: str) -> Sequence[JobClaim]:
        return self._source.claim(queues=queues, limit=limit, lease=lease, worker=worker)

    def settle(self, claim: JobClaim, outcome: Outcome) -> bool:
        return self._source.settle(claim, self._without_wait(outcome))

    def settle_and_claim(
        self,
        ended: Sequence[tuple[JobClaim, Outcome]],
        *,
        queues: Sequence[str] | None,
        limit: int,
        lease: timedelta,
        worker: str,
    ) -> tuple[Sequence[bool], Sequence[JobClaim]]:
        kept = [(claim, self._without_wait(outcome)) for claim, outcome in ended]
        return self._source.settle_and_claim(kept, queues=queues, limit=limit, lease=lease, worker=worker)

    def release(self, claims: Sequence[JobClaim]) -> None:
        self._source.release(claims)

    def renew(self, claims: Sequence[JobClaim], lease: timedelta) -> Sequence[JobClaim]:
        return self._source.renew(claims, lease)

    def recover(self) -> Sequence[LostJob]:
        return self._source.recover()

    def next_due_at(self, queues: Sequence[str] | None) -> datetime | None:
        return self._source.next_due_at(queues)

    def interrupt(self) -> None:
        self._source.interrupt()

    def listen(self, wake: Callable[[], None]) -> None:
        self._source.listen(wake)

    def close(self) -> None:
        self._source.close()

    def _without_wait(self, outcome: Outcome) -> Outcome:
        if isinstance(outcome, Retry | Deferred):
            now = self.clock.now()
            try:
                refuse_wait(outcome, now)
            except UnsupportedCapabilityError as error:
                return give_up(outcome.envelope, error, now)
        return outcome
