"""The verdict on the chaos: each broken promise is told, and what a fault explains is not."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from anyjob import JobFailure, JobState
from anyjob.seams.stored import StoredJob
from anyjob.testing.conformance.verdict import Fault, judge
from anyjob.testing.probes.journal import Entry
from anyjob.testing.probes.producer import Order

A, B = 10, 20
"""The processes of two workers."""


def entry(event: str, at: float, pid: int = A, number: int = 1) -> Entry:
    told: dict[str, Any] = {"lost_count": 0, "last_error": None, "headers": {}, "data": 1}
    place: dict[str, Any] = {"name": "chore", "queue": "default", "priority": 15, "label": "x"}
    return Entry(event=event, at=at, started=at, pid=pid, id="j", try_count=number, **place, **told)


def order(**changes: Any) -> Order:
    return msgspec.structs.replace(Order(id="j", kind="quick", fails=0, due=None, fate="accepted"), **changes)


def parked(error: str = "x.ConformanceError") -> StoredJob:
    failure = JobFailure(error, "try 3", "", datetime.now(UTC), "w", 3)
    return StoredJob(id="j", state=JobState.ABANDONED, raw=b"", failure=failure)


def verdict(entries: Sequence[Entry], *faults: Fault, kept: Sequence[StoredJob] = (), **changes: Any) -> Sequence[str]:
    return list(judge([order(**changes)], entries, faults, kept))


RAN = [entry("begin", 1.0), entry("end", 1.5)]
FAILED = [
    each for number in (1, 2, 3) for each in (entry("begin", number, A, number), entry("failed", number, A, number))
]
AGAIN = [*RAN, entry("begin", 2.0, B), entry("end", 2.5, B)]


def test_nothing_is_said_of_what_went_well() -> None:
    assert verdict(RAN) == []
    assert verdict(FAILED, kept=[parked()], fails=3) == []
    assert verdict([], fate="asked") == verdict([], fate="in doubt") == verdict([], fate="rejected") == []


@pytest.mark.parametrize(
    ("entries", "kept", "changes", "said"),
    [
        ([], [], {}, "is lost"),
        (RAN[:1], [], {}, "is lost"),
        (FAILED, [], {"fails": 3}, "is lost"),
        (RAN[:1], [], {"fate": "in doubt"}, "came to no end"),
        (RAN, [], {"fate": "rejected"}, "was rejected, and is there"),
        (RAN, [], {"due": 1.2}, "0.200 s early"),
        (RAN, [parked()], {}, "is parked, though"),
        (FAILED, [parked("JobLostError")], {"fails": 3}, "not its own"),
        (FAILED, [parked(), parked()], {"fails": 3}, "parked 2 times"),
        ([], [parked(), parked()], {"fails": 3}, "parked 2 times"),
        (AGAIN, [], {}, "no fault had hit it"),
        (RAN, [], {"id": "another", "fate": "asked"}, "nobody ordered it"),
    ],
)
def test_a_broken_promise_is_told(
    entries: Sequence[Entry], kept: Sequence[StoredJob], changes: dict[str, Any], said: str
) -> None:
    (told,) = verdict(entries, kept=kept, **changes)
    assert said in told


def test_a_try_that_begins_too_soon_is_told() -> None:
    soon = [entry("begin", 1.0), entry("failed", 1.0), entry("begin", 1.1, A, 2), entry("end", 1.2, A, 2)]
    (told,) = verdict(soon, fails=1)
    assert "try 2 began 0.200 s early" in told


@pytest.mark.parametrize(
    ("fault", "explains"),
    [
        (Fault("kill", 1.2, {A}, 1.2), True),  # while it ran
        (Fault("kill", 1.6, {A}, 1.6), True),  # before that it ended was known
        (Fault("cut", 0.5, {A}, 0.5), True),  # when it was in hand, and not begun
        (Fault("cut", -4.0, {A}, -4.0), False),  # long before it began
        (Fault("kill", 1.2, {30}, 1.2), False),  # another worker
        (Fault("kill", 2.2, {A}, 2.2), False),  # after it began again
        (Fault("stop", 0.5, {A}, 1.9), True),
        (Fault("stop", 0.5, {B}, 1.9), True),  # who begins it had it in old hands
    ],
)
def test_what_a_fault_explains(fault: Fault, explains: bool) -> None:
    assert (verdict(AGAIN, fault) == []) is explains


def test_two_of_a_job_need_a_fault_at_its_settling() -> None:
    twice = [*FAILED[:2], entry("begin", 1.1, B), entry("failed", 1.1, B)]
    twice += [each for at in (2.0, 2.1) for each in (entry("begin", at, B, 2), entry("end", at, B, 2))]
    assert ["try 1 began again" in told or "try 2 began again" in told for told in verdict(twice, fails=1)] == [
        True
    ] * 2
    assert verdict(twice, Fault("kill", 1.05, {A}, 1.05), fails=1) == []


def test_two_of_a_job_need_a_second_fault_before_its_loss_is_counted() -> None:
    lost = [entry("begin", 1.0), entry("begin", 3.0, B), entry("end", 3.2, B), entry("begin", 3.5, B)]
    twice = [*lost, entry("end", 3.6, B)]
    kill = Fault("kill", 1.5, {A}, 1.5)
    assert "try 1 began again" in verdict(twice, kill)[0]
    assert "try 1 began again" in verdict(twice, kill, Fault("kill", 3.3, {30}, 3.3))[0]
    assert verdict(twice, kill, Fault("kill", 2.0, {30}, 2.0)) == []
