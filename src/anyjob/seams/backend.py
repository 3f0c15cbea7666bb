"""Seam 1: what carries jobs. An adapter translates to a job system's API and decides nothing that others would too."""

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

    `environment` is added to the process's: broker URLs travel there, for `ps` shows a command line to everybody.
    """

    argv: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendConfig:
    """What the settings say about one backend; an adapter's entry point is called with it and returns the backend."""

    alias: str
    url: str = field(repr=False)
    namespace: str = "anyjob"
    """Prefix of every native queue and key."""
    queues: tuple[str, ...] | None = None
    """The logical queues there are, if the settings close the list."""
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """Handed to the native library as they are, but for the few that the adapter takes for itself."""
    enqueue_timeout: float = ENQUEUE_TIMEOUT
    """Seconds within which `send` has to succeed or fail."""
    lease: float = DEFAULT_LEASE
    """Seconds after which a job whose worker gave no sign of life runs again, where the backend's own broker does not
    notice the loss by itself."""
    clock: Clock = field(default_factory=SystemClock)
    known_queues: Callable[[], Iterable[str]] = field(default=lambda: ("default",), repr=False)
    """The logical queues that the application's jobs go to, as far as it knows by now; for systems that can't tell."""

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
    """By which jobs are due."""

    lease: float = DEFAULT_LEASE
    """Seconds for which a `JobWorker` claims from `source()`; it renews them three times in that time."""

    inspector: JobInspector | None = None
    """What waits, seen from outside; None where the system can't be looked into."""

    marks: SendMarks = SendMarks()
    """What is remembered of `send(once=)`."""

    risks: Sequence[str] = ()
    """What the configuration puts at risk, a line each that begins with the setting; `anyjob doctor` shows them."""

    def look_for_risks(self) -> Sequence[str]:
        """Return what the server and this machine put at risk as they are now: lines like those of `risks`.

        Connects, and changes nothing. Raises `EnqueueError`.
        """
        return ()

    @abstractmethod
    def send(self, envelopes: Sequence[JobEnvelope], *, once: str | None = None) -> None:
        """Hand the jobs over, and return when they were accepted; what is due later (`due_at`) waits in there.

        `once` is a mark. A server that can note it in the step in which it takes a job takes each job of a mark one
        time, whatever became of it since; `Capabilities.moves_once` says so. Another notes first which jobs will come,
        and `marks.in_doubt` tells which of them came again. One that can do neither takes them as ever.

        Raises `EnqueueError` within the configured bound when the system is away, refuses or never answers, with the
        ids accepted, rejected and in doubt. The core has checked the capabilities.
        """

    @abstractmethod
    def park(self, raw: bytes, failure: JobFailure) -> str:
        """Keep what can't run, with why, without expiry; return the id it got, by the rule of `JobStore.park`.

        A backend that can't park can't settle: what is given up would come again for ever. Raises `EnqueueError`.
        """

    def native_worker(self, options: WorkerOptions) -> NativeCommand | None:  # noqa: ARG002
        """Return the command of the system's own worker, set up safely; None: our `JobWorker` runs `source()`.

        Raises `ConfigurationError`, or `UnsupportedCapabilityError` for an option that the system's worker has not.
        """
        return None

    def source(self) -> JobSource | None:
        """Return what a `JobWorker` of this process claims from; None: only the system's own worker runs its jobs."""
        return None

    def settle(self, outcome: Outcome) -> None:
        """Do what an outcome asks for; the adapter then acknowledges the message. Written once, for all adapters.

        Raises `EnqueueError`, and nothing else, if that failed: leave the message unacknowledged, so that it comes
        again. What this backend can't take back (it has no delays, it can't encode it) is parked with the reason.
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
        except Exception as error:  # noqa: BLE001  # not the system's: it would be the same the next time
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
        """Send a job that came from here again, before its old message is acknowledged. Raises as `send`.

        To be overridden where `send` would take the old message for a duplicate.
        """
        self.send([envelope])

    def native_inspector(self, read: ReadNative, queues: Collection[str] | None = None) -> JobInspector:  # noqa: ARG002
        """Return what other code than anyjob sent to these queues, by the library's own names (None: to all that are
        known), and waits; each message is shown as `read` makes it. What our jobs and workers hold is not in it.

        To be overridden where an application's own messages can be read and taken. Raises
        `UnsupportedCapabilityError` where not.
        """
        raise UnsupportedCapabilityError("This backend has no queues that an application sends to by itself.")

    def close(self) -> None:
        """Close connections. A later call opens them anew."""
        return


def log_parked(parked_id: str, failure: JobFailure) -> None:
    """Log under which id something is parked that nobody can read: its executor knew none."""
    log_event(logger, logging.ERROR, "parked", id=parked_id, error=failure.error_type, reason=failure.message)


def send_one_by_one(
    envelopes: Sequence[JobEnvelope],
    send: Callable[[JobEnvelope], object],
    errors: tuple[type[Exception], ...],
    system: str,
    *,
    unsent: tuple[type[Exception], ...] = (),
) -> None:
    """Send jobs by a system's own call, where that has nothing for many. `errors` are what it raises: the job that it
    raised for is in doubt, and those after it were not sent. `unsent` are those that say that the job was not, either
    (nobody listens there, it is refused): it is rejected.
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
