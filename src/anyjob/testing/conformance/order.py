"""Higher priorities first, then first in, first out; queues apart."""

from __future__ import annotations

import random
from enum import Enum
from typing import Any

from anyjob.base.envelope import JobPriority
from anyjob.seams.capabilities import Quality
from anyjob.testing.conformance.fixtures import KitFixtures, needs
from anyjob.testing.conformance.harness import World

__all__ = ["OrderConformance"]


class _Queue(str, Enum):  # noqa: UP042  # what most code has: in an f-string it is '_Queue.B'
    B = "b"


class OrderConformance(KitFixtures):
    """The order in which waiting jobs begin."""

    def test_first_in_first_out(self, world: World) -> None:
        labels = [f"{number:02}" for number in range(30)]
        world.enqueue(*labels)
        world.start_worker()
        world.journal.wait(30)
        assert world.journal.begun() == labels

    @needs("priority")
    def test_high_priorities_overtake_at_a_stopped_worker(self, *, world: World) -> None:
        world.manager.enqueue_many([world.probe("low") for _ in range(100)], priority=JobPriority.LOW)
        world.enqueue(*["high"] * 5, priority=JobPriority.HIGH)
        world.start_worker()
        world.journal.wait(105, timeout=60)
        _assert_overtaken(world, world.journal.begun())

    @needs("priority")
    def test_high_priorities_overtake_at_a_busy_worker(self, *, world: World) -> None:
        world.start_worker()
        gate = world.new_gate()
        world.manager.enqueue(world.probe("busy", gate=str(gate)))
        world.journal.wait(1, "begin", "busy")
        world.enqueue(*["low"] * 20, priority=JobPriority.LOW)
        world.enqueue(*["high"] * 5, priority=JobPriority.HIGH)
        gate.touch()
        world.journal.wait(26, timeout=60)
        _assert_overtaken(world, world.journal.begun()[1:])

    @needs("priority")
    def test_all_five_levels(self, *, world: World) -> None:
        levels = [level for level in JobPriority for _ in range(6)]
        random.Random(5).shuffle(levels)
        for number, level in enumerate(levels):
            world.enqueue(f"{level.value:02}-{number:02}", priority=level)
        world.start_worker()
        world.journal.wait(30, timeout=60)
        ran = [(int(label[:2]), int(label[3:])) for label in world.journal.begun()]
        if world.can.priority is Quality.EXACT:
            held = ran[: world.can.priority_lag]
            rest = ran[world.can.priority_lag :]
            assert rest == sorted(rest, key=lambda each: (-each[0], each[1])), f"after {held}"
        else:
            places = [_mean(index for index, (level, _) in enumerate(ran) if level == each) for each in JobPriority]
            assert places == sorted(places, reverse=True)

    @needs("priority")
    def test_a_bulk_keeps_every_jobs_priority(self, *, world: World) -> None:
        prepared = [
            world.manager.prepare(world.probe("low" if number % 4 else "high"), priority=_level(number % 4 == 0))
            for number in range(40)
        ]
        world.manager.enqueue_many(prepared)
        world.start_worker()
        world.journal.wait(40, timeout=60)
        _assert_overtaken(world, world.journal.begun())

    @needs("priority")
    def test_across_queues_the_level_counts_first(self, *, world: World) -> None:
        """Or the queues take turns, where that is what the backend declares."""
        world.enqueue(*["low"] * 10, priority=JobPriority.LOW, queue="a")
        world.enqueue(*["high"] * 10, priority=JobPriority.HIGH, queue="b")
        world.start_worker(queues=["a", "b"])
        world.journal.wait(20)
        begun = world.journal.begun()
        if world.can.priority_across_queues:
            _assert_overtaken(world, begun)
        else:
            assert "low" in begun[:10], begun

    def test_a_worker_leaves_other_queues_alone(self, world: World) -> None:
        world.enqueue("other", queue="a")
        world.enqueue("member", queue=_Queue.B)
        world.enqueue("own", queue="b")
        worker = world.start_worker(queues=["b"])
        world.journal.wait(2)
        world.enqueue("sentinel", queue="b")
        world.journal.wait(3)
        assert world.journal.begun() == ["member", "own", "sentinel"]
        worker.stop()
        world.start_worker()
        world.journal.wait(1, "end", "other")

    def test_a_worker_of_all_queues_serves_one_that_appears_later(self, running: World) -> None:
        running.enqueue("first")
        running.journal.wait(1)
        running.enqueue("later", queue="b")
        running.journal.wait(2)

    def test_every_queue_gets_its_turn(self, world: World) -> None:
        """One that is never empty doesn't starve another for good: both end."""
        world.enqueue(*["a"] * 20, queue="a")
        world.enqueue(*["b"] * 20, queue="b")
        world.start_worker(queues=["a", "b"])
        world.journal.wait(40)
        assert sorted(world.journal.begun()) == ["a"] * 20 + ["b"] * 20


def _level(high: bool) -> JobPriority:
    return JobPriority.HIGH if high else JobPriority.LOW


def _assert_overtaken(world: World, labels: list[str]) -> None:
    """Assert that the jobs called high began before those called low, as well as the backend declares."""
    high = [index for index, label in enumerate(labels) if label == "high"]
    low = [index for index, label in enumerate(labels) if label == "low"]
    if world.can.priority is Quality.EXACT:
        late = sum(index < max(high) for index in low)
        assert late <= world.can.priority_lag, f"{late} low ones began before the last high one: {labels}"
    else:
        assert _mean(high) < _mean(low), labels


def _mean(values: Any) -> float:
    values = list(values)
    return float(sum(values)) / len(values)
