"""When to try again: a policy as plain data with pure functions, and what a job may raise to override it."""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from anyjob.base.errors import JobDefinitionError, shown
from anyjob.base.moments import LONGEST_WAIT, plain_duration, plain_moment
from anyjob.base.plain import plain_number

__all__ = ["DEFAULT_RETRY", "MAX_SNOOZES", "GiveUp", "RetryLater", "RetryPolicy", "Snooze"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How often, and after how long, a failed job is tried again. All durations in seconds.

    The defaults are ABP's (`AbpBackgroundJobWorkerOptions`): 60 s doubling, within two days, which makes 12 tries.

    - `max_tries`: executions at most, crashes apart; None is no limit other than `timeout`. At least 1.
    - `first_wait`, `wait_factor`: the wait after the n-th failed try is `first_wait * wait_factor ** (n - 1)`, counted
      from the start of that try.
    - `max_wait`: upper bound of one wait; None is none.
    - `jitter`: each wait is shortened by a random share of itself, at most this one, between 0 and 1.
    - `timeout`: no try begins later than this after the first one was due; None is no limit.
    - `give_up_on`: exceptions (with their subclasses) that are never retried.
    """

    max_tries: int | None = None
    first_wait: float = 60.0
    wait_factor: float = 2.0
    max_wait: float | None = None
    jitter: float = 0.0
    timeout: float | None = 172_800.0
    give_up_on: tuple[type[BaseException], ...] = ()

    def __post_init__(self) -> None:
        for name in ("max_tries", "first_wait", "wait_factor", "max_wait", "jitter", "timeout"):
            value: Any = plain_number(getattr(self, name))
            object.__setattr__(self, name, value)
            if isinstance(value, bool) or not isinstance(value, int | float | None):
                raise JobDefinitionError(
                    f"RetryPolicy({name}={shown(value)}): must be a number; durations are in seconds."
                )
        errors: Any = self.give_up_on
        if not isinstance(errors, tuple) or not all(
            isinstance(e, type) and issubclass(e, BaseException) for e in errors
        ):
            raise JobDefinitionError(
                f"RetryPolicy(give_up_on={self.give_up_on!r}): must be a tuple of exceptions, as (ValueError,)."
            )
        for name, value, valid, rule in (
            ("max_tries", self.max_tries, self.max_tries is None or _is_count(self.max_tries), "at least 1, or None"),
            ("first_wait", self.first_wait, _is_duration(self.first_wait), "seconds, 0 or more"),
            ("wait_factor", self.wait_factor, 1 <= self.wait_factor <= _LARGEST, "1 or more"),
            ("max_wait", self.max_wait, self.max_wait is None or _is_duration(self.max_wait), "seconds, or None"),
            ("jitter", self.jitter, 0 <= self.jitter <= 1, "between 0 and 1"),
            ("timeout", self.timeout, self.timeout is None or _is_duration(self.timeout), "seconds, or None"),
        ):
            if not valid:
                raise JobDefinitionError(f"RetryPolicy({name}={shown(value)}): {name} must be {rule}.")
        if self.max_tries is None and self.timeout is None:
            raise JobDefinitionError("RetryPolicy: without max_tries and timeout a job is tried for ever. Set one.")

    def wait(self, try_count: int, draw: float = 0.0) -> float:
        """Return the seconds between the start of the `try_count`-th try (from 1) and the next; `draw` in [0, 1)."""
        exponent = try_count - 1
        try:
            wait = self.first_wait * float(self.wait_factor) ** exponent
        except OverflowError:
            wait = LONGEST_WAIT
        wait = min(wait, LONGEST_WAIT if self.max_wait is None else self.max_wait)
        return wait * (1.0 - self.jitter * draw)

    def next_try_at(
        self,
        *,
        try_count: int,
        started_at: datetime,
        first_due_at: datetime,
        wanted: datetime | None = None,
        draw: float | None = None,
    ) -> datetime | None:
        """Return when to try again after `try_count` failed tries, or None to give up.

        `wanted` replaces the back-off (`RetryLater`), never the budget. ABP counts `timeout` from creation, so that a
        delay eats it; here it runs from `first_due_at`.
        """
        if self.max_tries is not None and try_count >= self.max_tries:
            return None
        if wanted is None:
            wait = self.wait(try_count, random.random() if draw is None else draw)  # noqa: S311  # jitter is no secret
            wanted = started_at + timedelta(seconds=wait)
        if self.timeout is not None and wanted - first_due_at > timedelta(seconds=self.timeout):
            return None
        return wanted


def _is_count(tries: float) -> bool:
    return isinstance(tries, int) and tries >= 1


def _is_duration(seconds: float) -> bool:
    return 0 <= seconds <= LONGEST_WAIT  # nor is it NaN


_LARGEST: Final = 1e300
DEFAULT_RETRY: Final = RetryPolicy()


class _Wish(Exception):  # noqa: N818  # an order to the executor, no error
    """Raised by a job: run me again at a time that I choose."""

    def __init__(
        self, delay: timedelta | float | None = None, *, run_at: datetime | None = None, reason: str = ""
    ) -> None:
        if delay is not None and run_at is not None:
            raise TypeError(f"{type(self).__name__} takes either delay or run_at.")
        super().__init__(reason or "the job asked to be run later")
        self.delay = None if delay is None else plain_duration(delay)
        self.run_at = None if run_at is None else plain_moment(run_at)

    def wanted_at(self, now: datetime) -> datetime:
        """Return the time that was asked for."""
        return self.run_at if self.run_at is not None else now + (self.delay or timedelta())


class RetryLater(_Wish):
    """Raised by a job: this try failed, try again after `delay` or at `run_at` instead of the policy's back-off.

    It is a try like any other: the policy's budget (`max_tries`, `timeout`) still holds. `delay` is a timedelta or
    seconds and counts from now; `run_at` is an aware datetime. Exactly one of them is given. While the worker stops it
    is a `Snooze`: a stop costs no try.
    """

    def __init__(
        self, delay: timedelta | float | None = None, *, run_at: datetime | None = None, reason: str = ""
    ) -> None:
        if delay is None and run_at is None:
            raise TypeError("RetryLater takes either delay or run_at.")
        super().__init__(delay, run_at=run_at, reason=reason or "the job asked to be retried later")


class Snooze(_Wish):
    """Raised by a job: run me again after `delay` or at `run_at`; without either, as soon as possible.

    It costs no try, whatever the policy, and the policy's `timeout` moves along: for a job that found the time wrong,
    or that saved its progress when it saw `current_job().should_stop`. It is bounded: a job that was snoozed
    `MAX_SNOOZES` times is charged for each further one as for a `RetryLater`. `delay` is a timedelta or seconds and
    counts from now; `run_at` is an aware datetime; at most one of them is given.
    """


MAX_SNOOZES: Final = 1000
"""How often a job may be snoozed before that costs a try. A retry by hand counts anew."""


class GiveUp(Exception):  # noqa: N818  # likewise
    """Raised by a job: it can't succeed, don't try again. The job is abandoned with this as its failure."""
