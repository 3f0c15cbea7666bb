"""The sandbox's clock beside time-machine."""

from __future__ import annotations

import sys
import time
from datetime import UTC, datetime, timedelta

import pytest
import time_machine

from anyjob import ConfigurationError, background_job
from anyjob.testing import JobSandbox, in_memory


@background_job("time.fail", retry=None)
def fail() -> None:
    raise ConnectionError


HOUR = timedelta(hours=1)
DAY = datetime(2030, 5, 1, 12, tzinfo=UTC)


@background_job("time.tick")
def tick() -> None: ...


def test_without_freeze_the_machine_s_clock_goes_on(anyjob_sandbox: JobSandbox) -> None:
    anyjob_sandbox.travel(days=30)
    assert datetime.now(UTC) < anyjob_sandbox.now() - timedelta(days=29)


def test_freeze_makes_both_clocks_one(anyjob_sandbox: JobSandbox) -> None:
    anyjob_sandbox.travel(days=30)
    reached = anyjob_sandbox.now()
    with anyjob_sandbox.freeze():
        assert datetime.now(UTC) == anyjob_sandbox.now() == reached
        tick.using(run_at=datetime.now(UTC) + HOUR).enqueue()
        anyjob_sandbox.assert_enqueued(tick, delay=HOUR)
        anyjob_sandbox.travel(hours=1)
        assert datetime.now(UTC) == reached + HOUR
        assert time.time() == (reached + HOUR).timestamp()
        assert anyjob_sandbox.run() == 1
    assert anyjob_sandbox.now() == reached + HOUR
    assert datetime.now(UTC) < reached


def test_run_all_moves_both(anyjob_sandbox: JobSandbox) -> None:
    with anyjob_sandbox.freeze():
        start = datetime.now(UTC)
        tick.using(delay=HOUR).enqueue()
        anyjob_sandbox.run_all()
        assert datetime.now(UTC) == start + HOUR


def test_freezes_nest_and_end_when_the_test_fails(anyjob_sandbox: JobSandbox) -> None:
    start = anyjob_sandbox.now()
    fail.using(delay=120).enqueue()
    with anyjob_sandbox.freeze():
        with anyjob_sandbox.freeze():
            anyjob_sandbox.travel(60)
        assert datetime.now(UTC) == anyjob_sandbox.now() == start + timedelta(seconds=60)
        with pytest.raises(ConnectionError), anyjob_sandbox.freeze():
            anyjob_sandbox.run_all()
        assert anyjob_sandbox.now() == start + timedelta(seconds=120)
    assert not time_machine.escape_hatch.is_travelling()
    assert anyjob_sandbox.now() == start + timedelta(seconds=120)


@time_machine.travel(DAY, tick=False)
def test_a_journey_around_the_body_is_followed(anyjob_sandbox: JobSandbox) -> None:
    assert anyjob_sandbox.now() == DAY
    tick.using(run_at=datetime.now(UTC) + HOUR).enqueue()
    assert anyjob_sandbox.run() == 0
    anyjob_sandbox.travel(hours=1)
    assert datetime.now(UTC) == DAY
    assert anyjob_sandbox.run() == 1


def test_a_traveller_of_the_test_s_own_moves_the_sandbox(anyjob_sandbox: JobSandbox) -> None:
    with time_machine.travel(DAY, tick=False) as traveller:
        tick.using(delay=60).enqueue()
        traveller.shift(60)
        assert anyjob_sandbox.run() == 1
        with anyjob_sandbox.freeze():
            traveller.shift(0)
            anyjob_sandbox.travel(60)
            assert datetime.now(UTC) == DAY + timedelta(seconds=120)
        assert anyjob_sandbox.now() == DAY + timedelta(seconds=120)


def test_a_sandbox_that_begins_on_a_journey_begins_there() -> None:
    with time_machine.travel(DAY, tick=False), in_memory() as sandbox:
        assert sandbox.now() == DAY
    with time_machine.travel(DAY, tick=False) as traveller, in_memory(start=DAY + HOUR) as sandbox:
        traveller.shift(HOUR)
        assert sandbox.now() == DAY + 2 * HOUR


def test_freeze_says_what_it_needs(anyjob_sandbox: JobSandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "time_machine", None)
    with pytest.raises(ConfigurationError, match="pip install time-machine"), anyjob_sandbox.freeze():
        raise AssertionError("entered")


def test_time_passes_with_every_journey_forward_and_never_runs_back(anyjob_sandbox: JobSandbox) -> None:
    clock = anyjob_sandbox.clock
    begun = clock.monotonic()
    with time_machine.travel(anyjob_sandbox.now(), tick=False) as traveller:
        traveller.shift(60)
        assert clock.monotonic() - begun == 60
        anyjob_sandbox.travel(30)
        with anyjob_sandbox.freeze():
            anyjob_sandbox.travel(10)
            assert clock.monotonic() - begun == 100
            clock.step(-3600)
            assert clock.monotonic() - begun == 100
    assert clock.monotonic() - begun == 100
    anyjob_sandbox.travel(1)
    assert clock.monotonic() - begun == 101
