"""However a try ends, it is charged once or not at all, and its neighbours run."""

from __future__ import annotations

import pytest

from anyjob.run.timelimit import TIME_LIMIT_GRACE
from anyjob.testing.conformance.fixtures import KitFixtures, needs
from anyjob.testing.conformance.harness import World
from anyjob.testing.probes.endings import (
    EXITS,
    Blocking,
    Exiting,
    ExitingTwice,
    Hostile,
    LogBreaking,
    Polite,
    Snoozing,
    mend_logging,
)

__all__ = ["EndingsConformance"]

SLACK = 4.0
"""Seconds for a process to be ended, and for a machine that has other things to do."""


class EndingsConformance(KitFixtures):
    """A try ends as its job makes it end, whatever happens around it."""

    @pytest.mark.parametrize("how", EXITS)
    @needs("parked jobs")
    def test_a_job_that_exits_fails_once(self, how: str, *, world: World) -> None:
        world.manager.enqueue(Exiting(str(world.journal.path), "a", how))
        world.enqueue("neighbour")
        world.start_worker()
        (parked,) = world.wait_parked()
        _assert_neighbours_run(world, "a", begun=1)
        assert parked.failure is not None
        assert parked.failure.error_type == how.partition("(")[0]

    @needs("delay", "parked jobs")
    def test_a_job_that_exits_has_its_tries(self, *, world: World) -> None:
        world.manager.enqueue(ExitingTwice(str(world.journal.path), "a", "SystemExit(3)"))
        world.enqueue("neighbour")
        world.start_worker()
        (parked,) = world.wait_parked()
        _assert_neighbours_run(world, "a", begun=2)
        assert parked.failure is not None
        assert (parked.failure.error_type, parked.failure.tries) == ("SystemExit", 2)

    @pytest.mark.parametrize("how", ["Snooze", "RetryLater"])
    def test_a_job_that_heeds_the_stop_is_not_charged(self, how: str, world: World) -> None:
        gate = world.new_gate()
        world.manager.enqueue(Polite(str(world.journal.path), "a", str(gate), how))
        for number in range(2):
            worker = world.start_worker()
            world.journal.wait(number + 1, "begin", timeout=30)
            assert worker.stop() == 0
        gate.touch()
        world.start_worker()
        (end,) = world.journal.wait(1, "end", "a", timeout=30)
        assert end.try_count == 1
        assert end.lost_count == 0 if world.can.exact_loss_count else end.lost_count <= 2
        assert len(world.journal.entries("begin", "a")) == 3

    @needs("delay")
    def test_a_snoozed_job_runs_again_and_not_early(self, *, world: World) -> None:
        world.start_worker()
        world.manager.enqueue(Snoozing(str(world.journal.path), "a", times=1, delay=0.6))
        (end,) = world.journal.wait(1, "end", "a")
        first, second = world.journal.entries("begin", "a")
        assert 0.6 <= second.at - first.at <= 0.6 + world.can.delay_bound.total_seconds()
        assert end.try_count == 1

    def test_a_snooze_needs_no_time(self, world: World) -> None:
        world.start_worker()
        world.manager.enqueue(Snoozing(str(world.journal.path), "a", times=3))
        (end,) = world.journal.wait(1, "end", "a")
        assert end.try_count == 1
        assert len(world.journal.entries("begin", "a")) == 4

    @needs("parked jobs")
    def test_a_job_in_a_call_of_c_code_is_no_success_beyond_its_limit(self, *, world: World) -> None:
        """Where its process can be ended, it is, a while after the limit; else the call returns first."""
        hard = world.can.hard_time_limit
        blocked = 60.0 if hard else 2.5
        world.manager.enqueue(Blocking(str(world.journal.path), "a", blocked))
        world.enqueue("neighbour")
        world.start_worker()
        (begin,) = world.journal.wait(1, "begin", "a")
        (parked,) = world.wait_parked(timeout=30)
        assert parked.failure is not None
        assert parked.failure.error_type == "anyjob.JobTimeLimitError"
        assert parked.failure.tries == 1
        took = parked.failure.failed_at.timestamp() - begin.at
        assert 1.0 <= took <= (1.0 + TIME_LIMIT_GRACE if hard else blocked) + SLACK
        _assert_neighbours_run(world, "a", begun=1)

    @needs("delay", "parked jobs")
    def test_an_exception_that_can_not_be_looked_at_is_charged_like_any_other(self, *, world: World) -> None:
        world.manager.enqueue(Hostile(str(world.journal.path), "a"))
        world.enqueue("neighbour")
        world.start_worker()
        (parked,) = world.wait_parked()
        _assert_neighbours_run(world, "a", begun=2)
        assert parked.failure is not None
        assert parked.failure.error_type.endswith("HostileError")
        assert parked.failure.tries == 2

    @pytest.mark.parametrize("fails", [False, True])
    @needs("parked jobs")
    def test_a_log_filter_that_raises_ends_no_try(self, fails: bool, *, world: World) -> None:
        try:
            world.manager.enqueue(LogBreaking(str(world.journal.path), "a", fails))
            world.enqueue("neighbour")
            world.start_worker()
            if fails:
                (parked,) = world.wait_parked()
                assert parked.failure is not None
                assert parked.failure.message == "on purpose"
            _assert_neighbours_run(world, "a", begun=1)
        finally:
            mend_logging()


def _assert_neighbours_run(world: World, label: str, *, begun: int) -> None:
    """See a neighbour and a later job run to their ends, and that the job began so often and no more."""
    world.journal.wait(1, "end", "neighbour", timeout=30)
    world.enqueue("sentinel")
    world.journal.wait(1, "end", "sentinel", timeout=30)
    assert len(world.journal.entries("begin", label)) == begun
