"""A delay is never early, not late, and survives what happens meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta

import pytest

from anyjob.base.envelope import JobPriority
from anyjob.base.errors import UnsupportedCapabilityError
from anyjob.testing.conformance.fixtures import KitFixtures, needs
from anyjob.testing.conformance.harness import World
from anyjob.testing.probes.journal import wait_until

__all__ = ["DelayConformance"]

FAR = timedelta(days=1)


class DelayConformance(KitFixtures):
    """Jobs that are due later."""

    @needs("delay")
    def test_never_early_and_in_time(self, *, world: World) -> None:
        world.start_worker()
        world.enqueue("warm")
        world.journal.wait(1)

        def send(mark: str) -> dict[str, float]:
            due = {}
            for delay in (0.05, 0.3, 0.5, 1.0, 1.5, 2.0):
                due[f"{mark}{delay}"] = time.time() + delay
                world.enqueue(f"{mark}{delay}", delay=delay)
            return due

        _assert_in_time(world, send)

    @needs("delay")
    def test_run_at(self, *, world: World) -> None:
        world.start_worker()
        world.enqueue("warm")
        world.journal.wait(1)

        def send(mark: str) -> dict[str, float]:
            at = datetime.now(UTC) + timedelta(seconds=1.25)
            world.enqueue(f"{mark}late", run_at=at)
            world.enqueue(f"{mark}past", run_at=datetime.now(UTC) - timedelta(hours=1))
            return {f"{mark}late": at.timestamp()}

        _assert_in_time(world, send)
        assert world.journal.begun()[:3] == ["warm", "0-past", "0-late"]

    @needs("delay")
    def test_delayed_jobs_in_bulk(self, *, world: World) -> None:
        world.start_worker()
        world.enqueue("warm")
        world.journal.wait(1)
        due = {f"{number}": time.time() + 1 for number in range(30)}
        world.manager.enqueue_many([world.probe(label) for label in due], delay=1)
        world.journal.wait(31)
        bound = world.can.delay_bound.total_seconds()
        first = min(each.at for each in world.journal.entries("begin", *due))
        assert 0 <= first - due["0"] <= bound

    @needs("delay")
    def test_who_is_due_first_runs_first(self, *, world: World) -> None:
        world.enqueue("third", delay=2.4)
        world.enqueue("first", delay=0.1)
        world.enqueue("second", delay=1.2)
        world.start_worker()
        world.journal.wait(3)
        assert world.journal.begun() == ["first", "second", "third"]

    @needs("delay", "priority")
    def test_priority_still_counts_at_due_time(self, *, world: World) -> None:
        world.start_worker()
        gate = world.new_gate()
        world.manager.enqueue(world.probe("busy", gate=str(gate)))
        world.journal.wait(1, "begin", "busy")
        due = datetime.now(UTC) + timedelta(seconds=0.5)
        world.enqueue(*["low"] * 10, priority=JobPriority.LOW, run_at=due)
        world.enqueue(*["high"] * 5, priority=JobPriority.HIGH, run_at=due)
        late = due + world.can.delay_bound
        wait_until(lambda: datetime.now(UTC) > late, what="all to be due")
        gate.touch()
        world.journal.wait(16)
        begun = world.journal.begun()[1:]
        assert begun[world.can.priority_lag :][:4] == ["high"] * 4, begun

    @needs("delay")
    def test_far_jobs_hold_up_nobody(self, *, world: World) -> None:
        world.manager.enqueue_many([world.probe("far") for _ in range(3_000)], delay=FAR)
        world.start_worker()
        world.enqueue("warm")
        world.journal.wait(1, timeout=30)

        def send(mark: str) -> dict[str, float]:
            due = {}
            for number in range(5):
                due[f"{mark}soon-{number}"] = time.time() + 1
                world.enqueue(f"{mark}soon-{number}", delay=1)
                due[f"{mark}now-{number}"] = time.time()
                world.enqueue(f"{mark}now-{number}")
            return due

        _assert_in_time(world, send)

    @needs("delay")
    def test_a_delay_survives_the_death_of_every_worker(self, *, world: World) -> None:
        workers = [world.start_worker() for _ in range(2)]
        world.enqueue("warm")
        world.journal.wait(1)
        due = time.time() + 1.5
        labels = [f"{number}" for number in range(10)]
        world.enqueue(*labels, delay=1.5)
        for worker in workers:
            worker.kill()
        wait_until(lambda: time.time() > due + 0.5, what="all to be due")
        assert world.journal.begun() == ["warm"]
        world.start_worker()
        world.journal.wait(11, timeout=30)
        assert sorted(world.journal.begun()) == sorted(["warm", *labels])

    @needs("delay")
    def test_a_longer_delay_than_can_be_kept_is_refused(self, *, world: World) -> None:
        longest = world.can.max_delay or timedelta(days=365 * 900)
        world.enqueue("kept", delay=longest - timedelta(minutes=1))
        if world.can.max_delay is not None:
            with pytest.raises(UnsupportedCapabilityError, match="its longest is"):
                world.enqueue("refused", delay=longest + timedelta(minutes=1))
        world.start_worker()
        world.enqueue("sentinel")
        world.journal.wait(1)
        assert world.journal.begun() == ["sentinel"]


def _assert_in_time(world: World, send: Callable[[str], Mapping[str, float]]) -> None:
    """Assert that jobs begin when they are due. `send` enqueues them, marked, and returns their times.

    Never early, whatever happens. In time at least once of twice: a machine that is busy with something else for a
    second is not the backend's fault, a backend that is late is so again.
    """
    bound = world.can.delay_bound.total_seconds()
    first = _measure(world, send("0-"))
    late = first if max(first.values()) <= bound else _measure(world, send("1-"))
    assert max(late.values()) <= bound, f"later than {bound:g} s, twice: {first}, {late}"


def _measure(world: World, due: Mapping[str, float]) -> Mapping[str, float]:
    """Return how late each job began, once all have, in seconds; none is early."""
    wait_until(lambda: due.keys() <= set(world.journal.begun()), timeout=30, what="all to run")
    late = {each.label: each.at - due[each.label] for each in world.journal.entries("begin", *due)}
    assert min(late.values()) >= 0, late
    return late
