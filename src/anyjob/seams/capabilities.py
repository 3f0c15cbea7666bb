"""The capabilities of one backend, as data: the core refuses missing features by it, docs and tests follow it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from typing import Final

from anyjob.base.envelope import JobEnvelope, JobPriority
from anyjob.base.errors import UnsupportedCapabilityError
from anyjob.seams.stored import JobState

__all__ = ["ALL_STATES", "BulkAtomicity", "Capabilities", "Quality"]


class Quality(StrEnum):
    """How well a feature is kept."""

    EXACT = "exact"
    APPROXIMATE = "approximate"
    NONE = "none"


class BulkAtomicity(StrEnum):
    """How many jobs a failing `send` of many leaves behind."""

    ALL_OR_NONE = "all or none"
    BATCH = "batch"
    """Whole batches got through; `EnqueueError` tells which jobs."""


ALL_STATES: Final = frozenset(JobState)


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What one backend instance can do: they differ by transport and by whose application it is.

    Features: a call that needs one that is missing is refused before anything is sent. Guarantees: declared with a
    bound that the conformance kit measures.
    """

    # Features
    priority: Quality = Quality.NONE
    """Higher runs sooner among the waiting jobs of a queue; approximate: mostly."""
    delay: Quality = Quality.NONE
    """Never early, and on an idle worker at most `delay_bound` late. Back-off between tries needs it too."""
    max_delay: timedelta | None = None
    """Longest delay; None is no limit."""
    bulk: BulkAtomicity = BulkAtomicity.BATCH
    unique_ids: bool = False
    """A job whose id another job still has is refused with `DuplicateJobIdError`."""
    listing: frozenset[JobState] = frozenset()
    """The states whose jobs the inspector can show."""
    removal: frozenset[JobState] = frozenset()
    """The states whose jobs the inspector can take out one by one: cancelled, retried, discarded, run now."""
    moving: frozenset[JobState] = frozenset()
    """The states whose jobs can be moved to another backend. To move a job in a state that is not in `removal`, all
    jobs before it have to be taken out, too."""
    moves_once: bool = False
    """A job that is moved here is here once, even if the mover is killed. Otherwise a killed mover leaves a batch in
    doubt."""
    counts: Mapping[JobState, Quality] = field(default_factory=dict)
    """How well the jobs of a state can be counted; a state that is missing can't be."""
    bounded_worker: bool = False
    """Its worker can end by itself: when nothing is due (`burst`), or after so many jobs (`max_jobs`)."""

    # Guarantees
    in_process: bool = False
    """Jobs live and end with this process; no other process can see them."""
    durable: bool = False
    """Accepted jobs survive a restart of the server (as far as the server itself keeps its data)."""
    priority_lag: int = 0
    """How many jobs of lower priority may still be begun by one worker after a higher one was enqueued."""
    priority_across_queues: bool = True
    """Among the queues of one worker the level counts first; otherwise the queues take turns, whatever their levels."""
    delay_bound: timedelta = timedelta(seconds=2)
    """How late a delayed job may begin on an idle worker."""
    redelivery_bound: timedelta | None = None
    """A job whose worker crashed runs again within this time; None is no bound."""
    exact_loss_count: bool = False
    """`lost_count` counts exactly; otherwise it is an upper bound."""
    hard_time_limit: bool = False
    """A job that is still in a call of C code some seconds after its `time_limit` is ended with its process. Otherwise
    the call returns first; the worker says that it is stuck."""
    silence_bound: timedelta | None = None
    """A job that keeps the interpreter's lock for longer may be counted as lost, and run a second time beside the
    first; the first run's outcome is then ignored. None: no bound."""

    def refuse_unsupported(self, envelope: JobEnvelope, *, delay: timedelta, backend: str) -> None:
        """Raise `UnsupportedCapabilityError`, with the way out, if the job needs a missing feature."""
        lacking = None
        if envelope.priority is not JobPriority.NORMAL and self.priority is Quality.NONE:
            lacking = f"priority {envelope.priority.name}: it has no priorities. Use a queue of its own"
        elif delay > timedelta() and self.delay is Quality.NONE:
            lacking = "a delay: it has none. Route the job to a backend that has"
        elif self.max_delay is not None and delay > self.max_delay:
            lacking = f"a delay of {delay}: its longest is {self.max_delay}. Route the job to another backend"
        if lacking is not None:
            raise UnsupportedCapabilityError(f"Backend {backend!r}: job {envelope.name!r} asks for {lacking}.")

    def refuse_shared_ids(self, backend: str) -> None:
        """Raise `UnsupportedCapabilityError`, with the way out, if two jobs can have one id."""
        if not self.unique_ids:
            raise UnsupportedCapabilityError(
                f"Backend {backend!r} can't keep unique_id: it would take a second job with the same id. Name another "
                "backend for this job, or let the job itself find out whether its work is done."
            )

    def refuse_removal(self, *states: JobState) -> None:
        """Raise `UnsupportedCapabilityError` if jobs can be taken out of none of these states."""
        if not self.removal.intersection(states):
            wanted = " or ".join(state.value for state in states)
            raise UnsupportedCapabilityError(f"This backend can't take out {wanted} jobs.")

    def refuse_moving(self, states: frozenset[JobState], backend: str) -> None:
        """Raise `UnsupportedCapabilityError`, with the way out, if jobs of one of these states can't be moved away."""
        lacking = [state.value for state in JobState if state in states - self.moving]
        if lacking:
            raise UnsupportedCapabilityError(
                f"Backend {backend!r} can't give away its {' and '.join(lacking)} jobs. Let its workers finish them; "
                "`anyjob worker --backend A --backend B` serves it and the one where new jobs go."
            )

    def refuse_bounded_worker(self, backend: str) -> None:
        """Raise `UnsupportedCapabilityError`, with the way out, if the worker can't end by itself."""
        if not self.bounded_worker:
            raise UnsupportedCapabilityError(
                f"Backend {backend!r}: its job system's own worker ends only when it is told to, so that there is no "
                "burst and no max_jobs. Stop it by TERM, as when `anyjob count` shows that nothing waits."
            )

    def refuse_listing(self, states: frozenset[JobState] | None) -> None:
        """Raise `UnsupportedCapabilityError` if jobs are asked for by states of which none can be shown."""
        if states is not None and not self.listing.intersection(states):
            wanted = " or ".join(state.value for state in JobState if state in states)
            raise UnsupportedCapabilityError(f"This backend can't list {wanted} jobs.")

    def describe(self) -> Sequence[tuple[str, str]]:
        """Return pairs of a promise and how well it is kept: a column of the capability matrix."""
        return [(title, tell(self)) for title, tell in _ROWS.items()]


def _tell_delay(can: Capabilities) -> str:
    longest = "" if can.max_delay is None else f", {can.max_delay.days} days at most"
    bound = "" if can.delay is Quality.NONE else f", at most {can.delay_bound.total_seconds():g} s late"
    return f"{can.delay}{bound}{longest}"


def _tell_priority(can: Capabilities) -> str:
    return f"{can.priority}, lag {can.priority_lag}" if can.priority_lag else can.priority.value


def _tell_states(states: frozenset[JobState]) -> str:
    if states == ALL_STATES:
        return "every state"
    return ", ".join(state.value for state in JobState if state in states) or "none"


def _tell_counts(can: Capabilities) -> str:
    exact = frozenset(state for state, quality in can.counts.items() if quality is Quality.EXACT)
    rough = frozenset(state for state, quality in can.counts.items() if quality is Quality.APPROXIMATE)
    about = f"; about: {_tell_states(rough)}" if rough else ""
    return f"{_tell_states(exact)}{about}"


def _tell_redelivery(can: Capabilities) -> str:
    if can.in_process and can.redelivery_bound is not None:
        return f"{can.redelivery_bound.total_seconds():g} s (a lost thread; the process takes its jobs along)"
    return "no bound" if can.redelivery_bound is None else f"{can.redelivery_bound.total_seconds():g} s"


def _tell_silence(can: Capabilities) -> str:
    return "any time" if can.silence_bound is None else f"{can.silence_bound.total_seconds():g} s"


_ONCE: Final = {True: "once", False: "once, or twice if the mover dies"}
_YES: Final = {True: "yes", False: "no"}

_ROWS: Final[Mapping[str, Callable[[Capabilities], str]]] = {
    "priority": _tell_priority,
    "priority across a worker's queues": lambda can: _YES[can.priority_across_queues],
    "delay": _tell_delay,
    "bulk enqueue": lambda can: can.bulk.value,
    "a taken id is refused": lambda can: _YES[can.unique_ids],
    "lists jobs": lambda can: _tell_states(can.listing),
    "takes out single jobs": lambda can: _tell_states(can.removal),
    "moves jobs away": lambda can: _tell_states(can.moving),
    "what is moved here is here": lambda can: _ONCE[can.moves_once],
    "counts exactly": _tell_counts,
    "a worker ends by itself (`burst`, `max_jobs`)": lambda can: _YES[can.bounded_worker],
    "survives the process": lambda can: _YES[not can.in_process],
    "survives a server restart": lambda can: _YES[can.durable],
    "runs again after a crash, within": _tell_redelivery,
    "counts crashes": lambda can: "exactly" if can.exact_loss_count else "as an upper bound",
    "a time limit ends": lambda can: "any job" if can.hard_time_limit else "any job but in a call of C code",
    "a job may keep the interpreter's lock for": _tell_silence,
}
