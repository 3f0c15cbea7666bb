"""A message that a worker's main process holds: it settles the job's outcome and acknowledges the message.

The pool's child, or thread, that ran the job only returns the outcome (tracing.py). The main process has the
connection that delivered the message, and so knows whether the worker still holds it: a message that a worker lost
meanwhile is another worker's, which settles it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from billiard.exceptions import TimeLimitExceeded, WorkerLostError
from celery.exceptions import Terminated
from celery.worker.state import task_ready

from anyjob.extend import EnqueueError, GiveUp, JobLogger, JobTimeLimitError, Outcome, log_event, log_fenced
from anyjob_celery.private import RequestParts
from anyjob_celery.tracing import added_in, error_in, outcome_in

__all__ = ["ENVELOPE", "JobRequest"]

logger = JobLogger("anyjob.worker")

ENVELOPE: Final = "anyjob_envelope"
"""The key of a request under which its task finds the raw envelope."""

# The process has ended, or ends: the message goes back, and counts as lost. Of one that was terminated before it
# began, Celery then says so by `_announce_revoked`.
_LOST: Final = (WorkerLostError, Terminated, SystemExit, KeyboardInterrupt)


class JobRequest(RequestParts):
    """One message of ours. All its methods are called in the event loop's thread, or switch to it."""

    def on_accepted(self, pid: int, time_accepted: float) -> None:
        self.message.begun = True
        self._tell(super().on_accepted, pid, time_accepted)

    def on_failure(self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False) -> None:
        """Settle a failure. Celery's name: a pool calls it for any exception of a task."""
        if self._is_elsewhere():
            self.message.consumer.call_soon(self.on_failure, exc_info, send_failed_event, return_ok)
            return
        if self.acknowledged:  # terminated, and its process reported that
            task_ready(self)
            return
        outcome, error = outcome_in(exc_info), error_in(exc_info)
        if outcome is None and isinstance(error, _LOST):
            self._tell(super().on_failure, exc_info, send_failed_event, return_ok)
            if not self.acknowledged:
                self._tell(self.reject, requeue=True)
        elif self._settle(outcome or self._charge(error), added_in(exc_info)):
            self._tell(super().on_failure, exc_info, send_failed_event, return_ok)
        else:
            task_ready(self)

    def on_timeout(self, soft: bool, timeout: float) -> None:
        """Log it. After a hard limit the pool has called `on_failure` before."""
        if soft:
            self._tell(super().on_timeout, soft, timeout)

    def announce_revoked(self, reason: str, *rest: Any) -> None:
        """Park a job that remote control revokes, or terminated: Celery would only acknowledge it, and so lose it."""
        if self._settle(self._fail(GiveUp(f"{reason} by Celery's remote control"))):
            self._tell(super().announce_revoked, reason, *rest)
        else:
            task_ready(self)

    def cancel(self, *args: Any, **options: Any) -> None:
        """Give the job back: its process is ended, by a cold stop."""
        self.task.stop.handed_back |= bool(self.time_start)
        super().cancel(*args, **options)

    def tell_released(self) -> None:
        """Let observers hear that the job goes back, though it still runs."""
        self.task.executor.tell("released", self._raw)

    def _settle(self, outcome: Outcome, added: Mapping[str, Any] | None = None) -> bool:
        """Settle `outcome`, and acknowledge; return whether that was done."""
        try:
            held = self.task.jobs.holds(self.message)
            if held:
                self.task.jobs.settle_announced(outcome, added)
        except EnqueueError as error:
            log_event(logger, logging.ERROR, "not settled", id=self.id, reason=error)
            self._tell(self.reject, requeue=True)
            self.task.stop.handed_back |= self.task.is_stopping()
            return False
        if not held:
            log_fenced(self.id)
            self.acknowledged = True  # no message is left to acknowledge
        self.acknowledge()
        return bool(held)

    def _charge(self, error: BaseException) -> Outcome:
        """Return the outcome of a try that the pool ended, or whose result was lost on its way here."""
        if isinstance(error, TimeLimitExceeded):
            (seconds,) = error.args
            limit = self.task.executor.time_limit_of(self._raw)
            told = f"ran longer than {limit or seconds:g} s, and was ended with its process"
            return self._fail(JobTimeLimitError(told))
        return self._fail(error if isinstance(error, Exception) else RuntimeError(repr(error)))

    def _fail(self, error: Exception) -> Outcome:
        started = datetime.fromtimestamp(self.time_start, UTC) if self.time_start else None
        outcome: Outcome = self.task.executor.fail(self._raw, error, started_at=started)
        return outcome

    def _tell(self, tell: Callable[..., object], *args: Any, **options: Any) -> None:
        """Inform Celery, and its listeners: an exception of theirs must not keep the message."""
        try:
            tell(*args, **options)
        except Exception as error:  # noqa: BLE001  # whatever listens there raises
            log_event(logger, logging.ERROR, "Celery not told", id=self.id, exc_info=error)

    def _is_elsewhere(self) -> bool:
        loop = self.message.consumer.hub
        return loop is None or threading.current_thread() is not threading.main_thread()

    @property
    def _raw(self) -> bytes:
        raw: bytes = self.request_dict[ENVELOPE]
        return raw
