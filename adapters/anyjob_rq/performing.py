"""A message's job inside RQ's own `perform_job`, where tracers, error reports and exception handlers expect jobs.

RQ takes all its usual steps there, except its writes: the function that it calls settles the message.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import Any, Final

from redis import Redis
from redis.exceptions import RedisError
from rq import Queue
from rq import Retry as RQRetry
from rq.job import Job
from rq.timeouts import BaseDeathPenalty

from anyjob.extend import Abandoned, Completed, EnvelopeError, JobLogger, Outcome, Retry, log_event, read_envelope
from anyjob_rq.announcing import meta_of, name_call
from anyjob_rq.frame import ENTRY, EnvelopeSerializer
from anyjob_rq.messages import HeldMessage
from anyjob_rq.private import WorkerParts

__all__ = ["JobRun", "PerformingMixin"]

logger = JobLogger("anyjob.worker")
_RQ_LOG: Final = JobLogger("rq.worker", native=True)
_MUTED: Final = JobLogger("rq.worker.muted", native=True)
_MUTED.logger.disabled = True


class JobRun(Job):
    """A message as RQ's job: by its name, without its arguments. `run` executes and settles it."""

    def __init__(self, message: HeldMessage, connection: Redis, run: Callable[[JobRun], Outcome | None]) -> None:
        super().__init__(message.native_id, connection=connection, serializer=EnvelopeSerializer)
        self.message = message
        self.settled = False
        """Whether it ended: if not, it is given back, and the exception was not the job's."""
        self._run = run
        self.origin = message.queue
        self.timeout = -1
        name_call(self, ENTRY)
        try:
            envelope = read_envelope(message.raw)
        except EnvelopeError:
            return
        name_call(self, envelope.name)
        self.created_at = envelope.created_at
        self.enqueued_at = envelope.due_at or envelope.created_at
        self.number_of_retries = envelope.try_count
        self.meta = meta_of(envelope)

    @property
    def func(self) -> Callable[[], RQRetry | None]:
        return self._call

    def perform(self) -> Any:
        try:
            return super().perform()
        except RedisError:  # RQ 2 writes before that
            if self.settled or self._begun:
                raise
            return self._call()

    _begun = False

    def _call(self) -> RQRetry | None:
        self._begun = True
        outcome = self._run(self)
        self.settled = True
        if isinstance(outcome, Completed):
            return None
        if isinstance(outcome, Abandoned | Retry) and outcome.error is not None:
            self.retries_left = int(isinstance(outcome, Retry))
            raise outcome.error
        return RQRetry(max=1)  # it is tried again, and did not fail


class _NoDeathPenalty(BaseDeathPenalty):
    """The time limits are ours."""

    def setup_death_penalty(self) -> None:
        return

    def cancel_death_penalty(self) -> None:
        return


class PerformingMixin(WorkerParts):
    """Leaves `perform_job` to RQ, and to its wrappers, and keeps it from the steps that are done elsewhere."""

    death_penalty_class = _NoDeathPenalty
    log_result_lifespan = False
    _tells_handlers = False

    def prepare_job_execution(self, job: Job, remove_from_intermediate_queue: bool = False) -> None:
        """Do nothing: the message was taken."""

    def handle_execution_ended(self, job: Job, queue: Queue, heartbeat_ttl: int) -> None:  # noqa: ARG002
        """Pass on an exception that was meant for the process, not for the job: RQ calls this first for all."""
        error = sys.exception()
        if error is not None and isinstance(job, JobRun) and not job.settled:
            raise error

    def handle_job_success(self, *_: Any, **__: Any) -> None:
        """Do nothing: it is settled."""

    def handle_job_retry(self, *_: Any, **__: Any) -> None:
        """Do nothing: it is settled."""

    def handle_job_failure(self, *_: Any, **__: Any) -> None:
        """Do nothing: it is settled."""

    def handle_exception(self, job: Job, *exc_info: Any) -> None:
        """Call RQ's exception handlers, and log what they raise. The error itself was logged."""
        self._tells_handlers = True
        try:
            super().handle_exception(job, *exc_info)
        except Exception as error:  # noqa: BLE001  # the handler's
            log_event(logger, logging.ERROR, "an exception handler raised", id=job.id, exc_info=error)
        finally:
            self._tells_handlers = False

    @property  # type: ignore[override]
    def log(self) -> JobLogger:
        """RQ's own logger: like ours, it never raises, whatever filters the application has."""
        return _MUTED if self._tells_handlers else _RQ_LOG

    @log.setter
    def log(self, _logger: object) -> None:
        return
