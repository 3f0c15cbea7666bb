"""The layer owns the retries: a policy of n tries is n executions, on every backend."""

from __future__ import annotations

from itertools import pairwise

from anyjob.seams.stored import JobState
from anyjob.testing.conformance.fixtures import KitFixtures, needs
from anyjob.testing.conformance.harness import World
from anyjob.testing.probes.jobs import NAME, Failing, FailingByDefault, FailingOnce, Hopeless, Later

__all__ = ["RetriesConformance"]


class RetriesConformance(KitFixtures):
    """How often, and when, a failing job runs, and what is left of it in the end."""

    @needs("delay", "parked jobs")
    def test_a_policy_of_three_is_three_runs(self, *, world: World) -> None:
        job_id = world.manager.enqueue(Failing(str(world.journal.path), "a"))
        world.start_worker()
        (parked,) = world.wait_parked()
        _assert_nothing_more_runs(world)
        tries = world.journal.entries("begin", "a")
        assert [each.try_count for each in tries] == [1, 2, 3]
        assert {each.id for each in tries} == {job_id}
        assert parked.envelope is not None
        assert parked.failure is not None
        assert (parked.envelope.id, parked.envelope.try_count, parked.failure.tries) == (job_id, 3, 3)
        assert parked.failure.message == "try 3 of a"
        assert "ConformanceError" in parked.failure.error_type
        assert "_fail" in parked.failure.traceback

    @needs("delay")
    def test_the_waits_between_tries(self, *, world: World) -> None:
        world.start_worker()
        world.manager.enqueue(Failing(str(world.journal.path), "a", times=2))
        world.journal.wait(1)
        begun = [each.at for each in world.journal.entries("begin", "a")]
        waits = [later - earlier for earlier, later in pairwise(begun)]
        bound = world.can.delay_bound.total_seconds()
        for wait, least in zip(waits, (0.4, 0.8), strict=True):
            assert least - 0.05 <= wait <= least + bound, waits  # counted from the start that the executor noted

    @needs("delay")
    def test_success_ends_the_tries(self, *, world: World) -> None:
        world.start_worker()
        world.manager.enqueue(Failing(str(world.journal.path), "a", times=1))
        (end,) = world.journal.wait(1)
        assert end.try_count == 2
        assert end.last_error is not None
        assert "try 1 of a" in end.last_error
        _assert_nothing_more_runs(world)
        assert len(world.journal.entries("begin", "a")) == 2

    @needs("parked jobs")
    def test_no_policy_is_one_run(self, *, world: World) -> None:
        world.start_worker()
        world.manager.enqueue(FailingOnce(str(world.journal.path), "a"))
        world.wait_parked()
        _assert_nothing_more_runs(world)
        assert len(world.journal.entries("begin", "a")) == 1

    @needs("delay", "parked jobs")
    def test_unset_is_the_settings_policy(self, *, world: World) -> None:
        world.start_worker()
        world.manager.enqueue(FailingByDefault(str(world.journal.path), "a"))
        world.wait_parked()
        assert len(world.journal.entries("begin", "a")) == 2  # SHORT says so

    @needs("delay")
    def test_retry_later_replaces_the_policys_wait(self, *, world: World) -> None:
        world.start_worker()
        world.manager.enqueue(Later(str(world.journal.path), "a", 0.5))
        world.journal.wait(1)
        first, second = world.journal.entries("begin", "a")
        assert 0.5 <= second.at - first.at <= 0.5 + world.can.delay_bound.total_seconds()

    @needs("delay", "parked jobs")
    def test_give_up_parks_at_once(self, *, world: World) -> None:
        world.start_worker()
        world.manager.enqueue(Hopeless(str(world.journal.path), "a"))
        (parked,) = world.wait_parked()
        _assert_nothing_more_runs(world)
        assert len(world.journal.entries("begin", "a")) == 1
        assert parked.failure is not None
        assert parked.failure.message == "no hope"

    @needs("parked jobs")
    def test_arguments_that_cant_be_decoded_are_parked_untried(self, *, world: World) -> None:
        args = b'{"journal":1,"label":"a"}'
        envelope = world.envelope(f"{NAME}.probe", args)
        world.manager.enqueue_many([envelope])
        world.start_worker()
        (parked,) = world.wait_parked()
        assert parked.envelope is not None
        assert parked.failure is not None
        assert (parked.envelope.id, bytes(parked.envelope.args), parked.failure.tries) == (envelope.id, args, 0)
        assert "$.journal" in parked.failure.message
        _assert_nothing_more_runs(world)

    @needs("delay", "parked jobs")
    def test_a_failed_job_is_nowhere_but_parked(self, *, world: World) -> None:
        world.start_worker()
        world.manager.enqueue(FailingOnce(str(world.journal.path), "a"))
        world.wait_parked()
        _assert_nothing_more_runs(world)
        others = [each for each in world.jobs() if each.state is not JobState.ABANDONED]
        assert [each for each in others if each.state is not JobState.RUNNING] == []


def _assert_nothing_more_runs(world: World) -> None:
    """Let another job run: what were due before it has begun by then."""
    before = [each for each in world.journal.begun() if each != "sentinel"]
    world.enqueue("sentinel")
    world.journal.wait(1, "end", "sentinel")
    assert [each for each in world.journal.begun() if each != "sentinel"] == before
