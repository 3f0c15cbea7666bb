"""What every actor of ours calls: executes the envelope, settles the outcome, and tells Dramatiq how it went."""

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
    """A try failed, of an error that Dramatiq would take for an order."""


def raise_error(outcome: Outcome) -> None:
    """Raise what the try raised, as an actor does, once all that follows from it was done."""
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

        Re-raises what was meant for the process; the message was given back then.
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
        """Park a message that is none of ours, or that did not come to its job."""
        self._settle(self._executor.refuse(delivery.raw, why))

    def _execute(self, delivery: Delivery) -> Outcome:
        if delivery.fault is not None:
            return self._executor.refuse(delivery.raw, delivery.fault)
        if delivery.redelivered:  # counted, and sent anew: that one runs
            return self._executor.execute(delivery.raw, redelivered=True)
        delivery.begun = True
        self._intake.running.add(delivery)
        try:
            return self._executor.execute(delivery.raw, stop=self._intake.stop)
        except BaseException:  # meant for the process, which stops: of a job's own the executor makes a failure
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
