"""Seam 1: a backend carries jobs. An adapter translates to one job system's API; the core decides the rest."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from anyjob.base.clock import Clock, SystemClock
from anyjob.base.envelope import JobEnvelope
from anyjob.base.error_text import describe_error, tellable
from anyjob.base.errors import ConfigurationError, EnqueueError, UnsupportedCapabilityError, shown
from anyjob.base.log import JobLogger, log_event
from anyjob.base.plain import plain_text, plain_texts
from anyjob.base.urls import refuse_unreadable
from anyjob.seams.capabilities import Capabilities, Quality
from anyjob.seams.inspector import JobInspector
from anyjob.seams.marks import SendMarks
from anyjob.seams.natives import ReadNative
from anyjob.seams.outcome import Abandoned, Completed, JobFailure, Outcome
from anyjob.seams.source import DEFAULT_LEASE, JobSource
from anyjob.seams.undelayed import give_up, refuse_wait
from anyjob.seams.worker_options import WorkerOptions

__all__ = [
    "ENQUEUE_TIMEOUT",
    "BackendConfig",
    "JobBackend",
    "NativeCommand",
    "log_parked",
    "send_one_by_one",
]

logger = JobLogger("anyjob.worker")


ENQUEUE_TIMEOUT: Final = 5.0
"""Seconds within which an enqueue succeeds or fails, unless the settings say another bound."""


@dataclass(frozen=True, slots=True)
class NativeCommand:
    """The command line of a job system's own worker, set up safely.

    `environment` is added to the process's: broker URLs travel there, because `ps` shows every user the command line.
    """

    argv: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendConfig:
    """The settings of one backend. The core calls an adapter's entry point with it, which returns the backend."""

    alias: str
    url: str = field(repr=False)
    namespace: str = "anyjob"
    """Prefix of every native queue and key."""
    queues: tuple[str, ...] | None = None
    """All logical queues, if the settings close the list; None if they don't."""
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """Passed to the native library unchanged, except the few that the adapter uses itself."""
    enqueue_timeout: float = ENQUEUE_TIMEOUT
    """Seconds within which `send` has to succeed or fail."""
    lease: float = DEFAULT_LEASE
    """Seconds after which a job runs again if its worker didn't renew its lease, where the broker doesn't notice a
    crashed worker by itself."""
    clock: Clock = field(default_factory=SystemClock)
    known_queues: Callable[[], Iterable[str]] = field(default=lambda: ("default",), repr=False)
    """The logical queues that the application's jobs are known to use so far; for systems that can't list them."""

    def __post_init__(self) -> None:
        for attribute, plain in _PLAIN.items():
            object.__setattr__(self, attribute, plain(getattr(self, attribute)))
        try:
            refuse_unreadable(self.url)
        except ValueError as error:
            raise ConfigurationError(f"backends.{self.alias}.url: {error}") from None
        if not isinstance(self.queues, tuple | None):
            raise ConfigurationError(f"backends.{self.alias}.queues: {shown(self.queues)} must be a list, as ['mail'].")


_PLAIN: Final = {"alias": plain_text, "url": plain_text, "namespace": plain_text, "queues": plain_texts}


class JobBackend(ABC):
    """Carries envelopes from `send` to an executor. Thread-safe and fork-safe: connects on first use per process."""

    capabilities: Capabilities
    """Of this instance: they may differ by transport and by whose application it is."""

    clock: Clock = SystemClock()
    """Decides when jobs are due."""

    lease: float = DEFAULT_LEASE
    """Seconds for which a `JobWorker` claims from `source()`; it renews them three times in that time."""

    inspector: JobInspector | None = None
    """Shows the jobs from outside; None if the system can't be inspected."""

    marks: SendMarks = SendMarks()
    """The memory of `send(once=)`."""

    risks: Sequence[str] = ()
    """The risks of the configuration: one line each, which begins with the setting; `anyjob doctor` shows them."""

    def look_for_risks(self) -> Sequence[str]:
        """Return the risks of the server and of this machine as they are now: lines like those of `risks`.

        Connects, and changes nothing. Raises `EnqueueError`.
        """
        return ()

    @abstractmethod
    def send(self, envelopes: Sequence[JobEnvelope], *, once: str | None = None) -> None:
        """Hand the jobs to the system; return when it has accepted them. It keeps jobs that are due later (`due_at`).

        `once` is a mark. A server that can note the mark in the same step as the job accepts each job of a mark once,
        even if that job has ended since; `Capabilities.moves_once` says so. Another server notes the ids first, so that
        `marks.in_doubt` can tell which jobs were sent again. A server that can do neither accepts every job.

        Raises `EnqueueError` within the configured bound when the system is unreachable, refuses or never answers, with
        the ids accepted, rejected and in doubt. The core has checked the capabilities.
        """

    @abstractmethod
    def park(self, raw: bytes, failure: JobFailure) -> str:
        """Keep a message that can't run, with its failure, without expiry; return its id, by the rule of
        `JobStore.park`.

        A backend that can't park can't settle: a job that is given up would be redelivered for ever. Raises
        `EnqueueError`.
        """

    def native_worker(self, options: WorkerOptions) -> NativeCommand | None:  # noqa: ARG002
        """Return the command of the system's own worker, set up safely; None: our `JobWorker` runs `source()`.

        Raises `ConfigurationError`, or `UnsupportedCapabilityError` for an option that the system's worker lacks.
        """
        return None

    def source(self) -> JobSource | None:
        """Return the source that a `JobWorker` of this process claims from; None: only the system's own worker runs its
        jobs.
        """
        return None

    def settle(self, outcome: Outcome) -> None:
        """Carry out an outcome; the adapter then acknowledges the message. Written once for all adapters.

        Raises `EnqueueError`, and nothing else, if that failed: then leave the message unacknowledged, so that it is
        redelivered. A job that this backend can't take back (it has no delays, it can't encode the job) is parked with
        the reason.
        """
        if isinstance(outcome, Completed):
            return
        if isinstance(outcome, Abandoned):
            parked = self._park(outcome.raw, outcome.failure)
            if outcome.envelope is None:
                log_parked(parked, outcome.failure)
            return
        try:
            if self.capabilities.delay is Quality.NONE:
                refuse_wait(outcome, self.clock.now())
            self.resend(outcome.envelope)
        except EnqueueError:
            raise
        except Exception as error:  # noqa: BLE001  # not the system's error: it would be raised the next time, too
            given_up = give_up(outcome.envelope, error, self.clock.now())
            self._park(given_up.raw, given_up.failure)

    def _park(self, raw: bytes, failure: JobFailure) -> str:
        try:
            return self.park(raw, failure)
        except EnqueueError:
            raise
        except Exception as error:
            raise EnqueueError(f"An abandoned job could not be parked: {describe_error(tellable(error))}") from error

    def resend(self, envelope: JobEnvelope) -> None:
        """Send a job of this backend again, before its old message is acknowledged. Raises as `send`.

        Override it where `send` would refuse the job as a duplicate of the old message.
        """
        self.send([envelope])

    def native_inspector(self, read: ReadNative, queues: Collection[str] | None = None) -> JobInspector:  # noqa: ARG002
        """Return an inspector of the waiting messages that other code than anyjob sent to these queues, by the
        library's own names (None: to all known queues). It shows each message as `read` makes it, and none of our jobs.

        Override it where an application's own messages can be read and taken off. Raises `UnsupportedCapabilityError`
        where not.
        """
        raise UnsupportedCapabilityError("This backend has no queues that an application sends to by itself.")

    def close(self) -> None:
        """Close connections. A later call opens them anew."""
        return


def log_parked(parked_id: str, failure: JobFailure) -> None:
    """Log the id of a parked message that can't be read: its executor knew no id."""
    log_event(logger, logging.ERROR, "parked", id=parked_id, error=failure.error_type, reason=failure.message)


def send_one_by_one(
    envelopes: Sequence[JobEnvelope],
    send: Callable[[JobEnvelope], object],
    errors: tuple[type[Exception], ...],
    system: str,
    *,
    unsent: tuple[type[Exception], ...] = (),
) -> None:
    """Send jobs one by one, to a system that has no call for many. `send` raises one of `errors`: that job is in doubt,
    and those after it are rejected. It raises one of `unsent`, which says that the job was not sent, either (no server
    listens, it refuses the job): that job is rejected, too.
    """
    ids = [envelope.id for envelope in envelopes]
    for number, envelope in enumerate(envelopes):
        try:
            send(envelope)
        except (*errors, *unsent) as error:
            first_unsent = number if isinstance(error, unsent) else number + 1
            raise EnqueueError(
                f"{system} could not send: {describe_error(tellable(error))}",
                accepted=ids[:number],
                in_doubt=ids[number:first_unsent],
                rejected=ids[first_unsent:],
            ) from error
