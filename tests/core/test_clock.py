from __future__ import annotations

import threading
import time
from datetime import timedelta

import pytest

from anyjob.base.clock import SystemClock, deadline_in
from anyjob.testing import FakeClock


def test_a_journey_moves_both_clocks_and_a_step_the_wall_s_alone(clock: FakeClock) -> None:
    noon = clock.now()
    clock.travel(90)
    clock.step(-3600)
    assert (clock.now(), clock.monotonic()) == (noon + timedelta(seconds=90 - 3600), 90)
    clock.step(7200)
    clock.travel(minutes=1)
    assert (clock.now(), clock.monotonic()) == (noon + timedelta(seconds=150 + 3600), 150)


@pytest.mark.parametrize("steps", [(0.1, 0.2, 0.7), (0.3, 0.3, 0.4), (1e-6, 0.999999)])
def test_a_moment_is_reached_in_steps_of_any_size(clock: FakeClock, steps: tuple[float, ...]) -> None:
    for _ in range(100):
        until = deadline_in(clock, 1.0)
        for each in steps:
            assert clock.monotonic() < until
            clock.travel(each)
        assert clock.monotonic() == until


def test_the_system_s_clock_waits_by_the_clock_that_nobody_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, condition = SystemClock(), threading.Condition()
    monkeypatch.setattr(SystemClock, "now", lambda _: pytest.fail("the wall clock was asked"))
    begun = time.monotonic()
    with condition:
        clock.wait(condition, deadline_in(clock, 0.05))
        clock.wait(condition, clock.monotonic() - 5)
    assert 0.04 < time.monotonic() - begun < 5


def test_a_wait_of_ages_is_no_overflow() -> None:
    clock, condition = SystemClock(), threading.Condition()

    def notify() -> None:
        with condition:
            condition.notify()

    with condition:
        threading.Thread(target=notify).start()
        clock.wait(condition, clock.monotonic() + 1e12)
