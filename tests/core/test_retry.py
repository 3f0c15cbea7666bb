from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from anyjob import JobDefinitionError, RetryLater, RetryPolicy, Snooze

NOW = datetime(2026, 1, 1, tzinfo=UTC)

# abp.md 2.3 / design 5.6: when a job that fails at once is tried under ABP's defaults, in seconds.
ABP_TRIES = [0, 60, 180, 420, 900, 1860, 3780, 7620, 15300, 30660, 61380, 122820]


def tries(policy: RetryPolicy) -> list[float]:
    at, times = NOW, [0.0]
    while True:
        following = policy.next_try_at(try_count=len(times), started_at=at, first_due_at=NOW)
        if following is None:
            return times
        at = following
        times.append((at - NOW).total_seconds())


def test_defaults_are_the_twelve_tries_of_abp() -> None:
    assert tries(RetryPolicy()) == ABP_TRIES


def test_max_tries_is_the_number_of_executions() -> None:
    assert len(tries(RetryPolicy(max_tries=3))) == 3
    assert tries(RetryPolicy(max_tries=1)) == [0]


def test_max_wait_caps_each_wait() -> None:
    assert tries(RetryPolicy(max_tries=5, first_wait=10, max_wait=25)) == [0, 10, 30, 55, 80]


def test_timeout_lets_the_last_try_begin_exactly_then_and_not_later() -> None:
    assert tries(RetryPolicy(timeout=60)) == [0, 60]
    assert tries(RetryPolicy(timeout=59.999)) == [0]
    assert tries(RetryPolicy(timeout=0)) == [0]


def test_budget_starts_when_the_first_try_was_due() -> None:
    late = NOW + timedelta(days=30)
    assert RetryPolicy().next_try_at(try_count=1, started_at=late, first_due_at=late) == late + timedelta(seconds=60)
    assert RetryPolicy().next_try_at(try_count=1, started_at=late, first_due_at=NOW) is None


@pytest.mark.parametrize(("draw", "wait"), [(0.0, 100.0), (0.5, 75.0), (1.0, 50.0)])
def test_jitter_shortens_by_at_most_its_share(draw: float, wait: float) -> None:
    assert RetryPolicy(first_wait=100, jitter=0.5).wait(1, draw) == wait


def test_jitter_is_drawn_anew_for_each_wait() -> None:
    policy = RetryPolicy(first_wait=100, jitter=1.0)
    drawn = {policy.next_try_at(try_count=1, started_at=NOW, first_due_at=NOW) for _ in range(50)}
    assert len(drawn) > 1
    assert all(at is not None and NOW <= at <= NOW + timedelta(seconds=100) for at in drawn)


def test_a_factor_that_overflows_still_gives_a_time() -> None:
    policy = RetryPolicy(max_tries=10_000, timeout=None, wait_factor=10)
    following = policy.next_try_at(try_count=5_000, started_at=NOW, first_due_at=NOW)
    assert following is not None
    assert following > NOW


def test_a_wish_replaces_the_back_off_but_not_the_budget() -> None:
    policy = RetryPolicy(max_tries=3, timeout=1000)
    wanted = NOW + timedelta(seconds=5)

    def next_try(try_count: int, wanted: datetime) -> datetime | None:
        return policy.next_try_at(try_count=try_count, started_at=NOW, first_due_at=NOW, wanted=wanted)

    assert next_try(1, wanted) == wanted
    assert next_try(3, wanted) is None
    assert next_try(1, NOW + timedelta(seconds=1001)) is None


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"max_tries": 0}, "max_tries"),
        ({"first_wait": -1}, "first_wait"),
        ({"first_wait": float("nan")}, "first_wait"),
        ({"wait_factor": 0.5}, "wait_factor"),
        ({"max_wait": -1}, "max_wait"),
        ({"jitter": 1.5}, "jitter"),
        ({"timeout": -1}, "timeout"),
        ({"timeout": None}, "for ever"),
        ({"max_tries": "3"}, "max_tries='3'.*must be a number"),
        ({"give_up_on": ValueError}, "must be a tuple of exceptions"),
        ({"give_up_on": ("ValueError",)}, "must be a tuple of exceptions"),
    ],
)
def test_policies_that_make_no_sense_are_refused(wrong: dict[str, Any], named: str) -> None:
    with pytest.raises(JobDefinitionError, match=named):
        RetryPolicy(**wrong)


def test_retry_later_takes_one_time() -> None:
    assert RetryLater(5).wanted_at(NOW) == NOW + timedelta(seconds=5)
    assert RetryLater(timedelta(minutes=1)).wanted_at(NOW) == NOW + timedelta(minutes=1)
    assert RetryLater(run_at=NOW).wanted_at(NOW + timedelta(days=1)) == NOW
    with pytest.raises(TypeError, match="either"):
        RetryLater()
    with pytest.raises(TypeError, match="either"):
        RetryLater(5, run_at=NOW)
    with pytest.raises(ValueError, match="aware"):
        RetryLater(run_at=datetime(2026, 1, 1))  # noqa: DTZ001  # that is the point


def test_snooze_takes_one_time_or_none() -> None:
    assert Snooze().wanted_at(NOW) == NOW
    assert Snooze(5).wanted_at(NOW) == NOW + timedelta(seconds=5)
    assert Snooze(run_at=NOW).wanted_at(NOW + timedelta(days=1)) == NOW
    with pytest.raises(TypeError, match="Snooze takes either"):
        Snooze(5, run_at=NOW)
    with pytest.raises(ValueError, match="aware"):
        Snooze(run_at=datetime(2026, 1, 1))  # noqa: DTZ001  # that is the point


class Duration(timedelta):
    """As pendulum's: its parts mean something else."""

    days = seconds = microseconds = property(lambda _self: 7)


@pytest.mark.parametrize("wish", [RetryLater, Snooze])
def test_a_delay_of_another_librarys_type_becomes_plain(wish: type[RetryLater | Snooze]) -> None:
    delay = wish(Duration(days=1, seconds=2, microseconds=3)).delay
    assert type(delay) is timedelta
    assert delay == timedelta(days=1, seconds=2, microseconds=3)
