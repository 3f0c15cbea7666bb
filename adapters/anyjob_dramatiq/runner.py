"""The function of all our actors: executes the envelope, settles the outcome, and tells Dramatiq whether it failed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from dramatiq.errors import Retry as DramatiqRetry
from dramatiq.middleware import SkipMessage

from anyjob.extend import (
    MAX_ERROR_LENGTH,
    Abandoned,
    AnyjobError,
    Completed,
    EnqueueError,
    JobExecutor,
    JobLogger,
    Outcome,
    Retry,
    describe_error,
    log_not_settled,
)
from anyjob_dramatiq.frame import Delivery
from anyjob_dramatiq.intake import JobIntake

__all__ = ["JobRunner", "TryFailedError", "raise_error"]

logger = JobLogger("anyjob.worker")


class TryFailedError(AnyjobError):
    """A try failed with an error that Dramatiq would take for an order."""


def raise_error(outcome: Outcome) -> None:
    """Raise the try's error, as an actor does, after its outcome was settled."""
    error = outcome.error if isinstance(outcome, Retry | Abandoned) else None
    if error is None:
        return
    if issubclass(type(error), _ORDERS):
        raise TryFailedError(describe_error(error, MAX_ERROR_LENGTH)) from error
    raise error


class JobRunner:
    """Runs deliveries for the actors of one process. Thread-safe."""

    def __init__(self, executor: JobExecutor, intake: JobIntake, settle: Callable[[Outcome], None]) -> None:
        self._executor = executor
        self._intake = intake
        self._settle = settle

    def run(self, delivery: Delivery) -> None:
        """Run a message's job and settle it; Dramatiq acknowledges it afterwards. Raises the job's error if it failed.

        Re-raises an exception that was meant for the process; the message was given back then.
        """
        if self._intake.stop.is_set():
            self._give_back(delivery)
            return
        outcome = self._execute(delivery)
        try:
            self._intake.insist(lambda: self._settle_if_held(delivery, outcome))
        except EnqueueError as error:
            delivery.released = self._intake.handed_back = True
            log_not_settled(delivery.id, error)
            return
        delivery.again = isinstance(outcome, Retry)
        raise_error(outcome)

    def refuse(self, delivery: Delivery, why: str) -> None:
        """Park a message that is not ours, or that did not reach its job."""
        self._settle(self._executor.refuse(delivery.raw, why))

    def _execute(self, delivery: Delivery) -> Outcome:
        if delivery.fault is not None:
            return self._executor.refuse(delivery.raw, delivery.fault)
        if delivery.redelivered:  # counted, and sent anew: the new one runs
            return self._executor.execute(delivery.raw, redelivered=True)
        delivery.begun = True
        self._intake.running.add(delivery)
        try:
            return self._executor.execute(delivery.raw, stop=self._intake.stop)
        except BaseException:  # meant for the process, which stops: the executor turns a job's own into a failure
            self._give_back(delivery)
            raise
        finally:
            self._intake.running.discard(delivery)

    def _settle_if_held(self, delivery: Delivery, outcome: Outcome) -> None:
        with delivery.lock:
            if delivery.released:
                return
            if not isinstance(outcome, Completed) and self._intake.source.holds(delivery):
                self._settle(outcome)
            delivery.settled = True

    def _give_back(self, delivery: Delivery) -> None:
        delivery.released = True
        self._intake.insist(lambda: self._intake.source.give_back(delivery))


_ORDERS: Final = (DramatiqRetry, SkipMessage)
