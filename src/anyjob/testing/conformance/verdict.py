"""Judges a chaos by its orders, its runs, its parked jobs and its faults."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final

from anyjob.seams.stored import StoredJob
from anyjob.testing.probes.chores import FIRST_WAIT, MAX_TRIES
from anyjob.testing.probes.journal import Entry
from anyjob.testing.probes.producer import Order

__all__ = ["Fault", "Try", "judge", "tries_of"]

SETTLING: Final = 2.0
"""Seconds after the end of a job in which its worker may still be about to say so, on a busy machine."""
STALE: Final = 4.0
"""Seconds after a fault in which a worker may begin what it had in its hands before."""
ROUNDING: Final = 0.05
"""Seconds by which a journal may be behind the end of a job."""


@dataclass
class Fault:
    """Something done to a worker that may make it lose the jobs in its hands."""

    kind: str
    start: float
    pids: set[int] = field(default_factory=set)
    """All processes of that worker."""
    end: float = float("inf")


@dataclass
class Try:
    """One begun execution, as the journal has it."""

    number: int
    at: float
    started: float
    """By the executor; `at` is by the job itself, and may be later on a busy machine."""
    pids: set[int]
    """The process that ran it, and its parent."""
    done: float | None = None
    """When it ended or failed; None: nobody knows."""
    ended: bool = False
    """Whether it ended well."""


def tries_of(entries: Sequence[Entry]) -> Mapping[str, Sequence[Try]]:
    """Return the tries of each job in the order in which they began."""
    tries: dict[str, list[Try]] = defaultdict(list)
    for each in entries:
        if each.event == "begin":
            tries[each.id].append(Try(each.try_count, each.at, each.started, {each.pid, each.data}))
            continue
        own = [one for one in tries[each.id] if one.done is None and each.pid in one.pids]
        same = [one for one in own if one.number == each.try_count]
        same[0].done, same[0].ended = each.at, each.event == "end"
    return tries


def judge(
    orders: Sequence[Order], entries: Sequence[Entry], faults: Sequence[Fault], parked: Sequence[StoredJob]
) -> Iterator[str]:
    """Yield a line for each promise that was broken.

    Sound, not sharp: what a fault may explain is let pass. A second begin of a try is explained by a fault that hit
    whoever began it the first time while it had the job in hand, or whoever begins it now, out of old hands.

    A fault between the sending of the next try and the acknowledgement of this one may leave two of a job, on a broker
    that knows no transaction; from then on each try may begin twice. So may a second fault before a lost try begins
    again: a loss is counted by such a sending, and no journal says who was about to count it.
    """
    tries = tries_of(entries)
    kept = Counter(job.envelope.id if job.envelope is not None else job.id for job in parked)
    known = {order.id for order in orders}
    yield from (f"{job_id} ran, and nobody ordered it" for job_id in {*tries, *kept} - known)
    yield from _of_failures(parked)
    for order in orders:
        ran = tries.get(order.id, ())
        yield from _of_fate(order, ran, kept[order.id])
        yield from _of_times(order, ran)
        yield from _of_repeats(order, ran, kept[order.id], faults)


def _of_failures(parked: Sequence[StoredJob]) -> Iterator[str]:
    for job in parked:
        if job.failure is None or "ConformanceError" not in job.failure.error_type:
            yield f"{job.id} is parked with a failure that is not its own: {job.failure}"


def _of_fate(order: Order, ran: Sequence[Try], parked: int) -> Iterator[str]:
    hopeless = order.fails >= MAX_TRIES
    done = parked > 0 if hopeless else any(each.ended for each in ran)
    if order.fate == "rejected" and (ran or parked):
        yield f"{_name(order)} was rejected, and is there"
    elif order.fate == "accepted" and not done:
        yield f"{_name(order)} is lost: {_told(ran)}"
    elif ran and not done:
        yield f"{_name(order)} ran and came to no end: {_told(ran)}"
    if parked and not hopeless:
        yield f"{_name(order)} is parked, though it fails {order.fails} times only: {_told(ran)}"


def _of_times(order: Order, ran: Sequence[Try]) -> Iterator[str]:
    first: dict[int, float] = {}
    for each in ran:
        first.setdefault(each.number, each.started)
        due = order.due if each.number == 1 else first.get(each.number - 1, float("-inf")) + FIRST_WAIT
        if due is not None and each.at < due - 0.001:
            yield f"{_name(order)}: try {each.number} began {due - each.at:.3f} s early"


def _of_repeats(order: Order, ran: Sequence[Try], parked: int, faults: Sequence[Fault]) -> Iterator[str]:
    copies = 1
    for number in range(1, MAX_TRIES + 1):
        same = [each for each in ran if each.number == number]
        unexplained = [(one, again) for one, again in pairwise(same) if not _explains(faults, one, again)]
        copies += sum(_hit_counting(faults, one, again) for one, again in pairwise(same))
        if len(unexplained) >= copies:
            one, again = unexplained[0]
            yield (
                f"{_name(order)}: try {number} began again {again.at - one.at:.3f} s later, and no fault had hit it; "
                f"{_told(ran)}; faults: {_near(faults, ran)}"
            )
        copies += sum(_hit_settling(fault, each) for fault in faults for each in same)
    if parked > copies:
        yield f"{_name(order)} is parked {parked} times; {_told(ran)}; faults: {_near(faults, ran)}"


def _explains(faults: Sequence[Fault], one: Try, again: Try) -> bool:
    until = one.at if one.done is None else one.done + SETTLING
    for fault in faults:
        held = one.pids & fault.pids and one.at <= fault.end + STALE and (one.done is None or fault.start <= until)
        stale = again.pids & fault.pids and again.at <= fault.end + STALE
        if (held or stale) and fault.start <= again.at:
            return True
    return False


def _hit_settling(fault: Fault, each: Try) -> bool:
    if each.done is None or not each.pids & fault.pids:
        return False
    return fault.start <= each.done + SETTLING and fault.end >= each.done - ROUNDING


def _hit_counting(faults: Sequence[Fault], one: Try, again: Try) -> bool:
    """Whether a fault that may have lost a try was followed by another before the try began again."""
    losses = [fault.start for fault in faults if one.done is None and one.pids & fault.pids and fault.end >= one.at]
    lost_at = min(losses, default=float("inf"))
    return any(lost_at < fault.start <= again.at for fault in faults)


def _name(order: Order) -> str:
    return f"{order.id} ({order.kind}, {order.fate})"


def _told(ran: Sequence[Try]) -> str:
    def one(each: Try) -> str:
        end = "?" if each.done is None else f"{each.done - each.at:.3f} s{'' if each.ended else ' failed'}"
        return f"#{each.number} at {each.at:.3f} by {sorted(each.pids)} ({end})"

    return "; ".join(map(one, ran)) or "it never began"


def _near(faults: Sequence[Fault], ran: Sequence[Try]) -> Sequence[Any]:
    since, until = (ran[0].at - STALE, ran[-1].at + STALE) if ran else (float("-inf"), float("inf"))
    return [
        (each.kind, round(each.start, 3), round(each.end, 3), sorted(each.pids))
        for each in faults
        if each.end >= since and each.start <= until
    ]
