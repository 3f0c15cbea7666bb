"""Everything at once, by a seed: kills, stops, cut connections, clock steps. No job is lost, early, or runs too often.

ANYJOB_TEST_CHAOS=60 ANYJOB_TEST_SEED=7 pytest -k chaos
"""

from __future__ import annotations

import heapq
import itertools
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from anyjob.seams.stored import JobState
from anyjob.testing.conformance.fixtures import KitFixtures, needs
from anyjob.testing.conformance.harness import CHORES, JOBS, BackendHarness, World
from anyjob.testing.conformance.stage import Stage, stage_on
from anyjob.testing.conformance.verdict import judge
from anyjob.testing.probes.chores import MAX_TRIES
from anyjob.testing.probes.journal import wait_until
from anyjob.testing.probes.producer import Order

__all__ = ["ChaosConformance"]

PAUSE: Final = (0.4, 1.2)
"""Seconds between two faults."""
_HELD: Final = (JobState.WAITING, JobState.SCHEDULED, JobState.RUNNING)


class ChaosConformance(KitFixtures):
    """Many faults at once break no promise that each of them alone does not break."""

    @needs("delay", "parked jobs")
    def test_chaos_loses_nothing(
        self, *, harness: BackendHarness, world: World, tmp_path: Path, request: pytest.FixtureRequest
    ) -> None:
        seconds, seed = float(os.environ.get("ANYJOB_TEST_CHAOS", "8")), os.environ.get("ANYJOB_TEST_SEED", "1")
        chaos_folder = tmp_path / "chaos"
        chaos_folder.mkdir()
        # Losses have a budget of their own, which this is not about.
        again = f"ANYJOB_TEST_CHAOS={seconds:g} ANYJOB_TEST_SEED={seed} pytest '{request.node.nodeid}'"
        with harness.open(chaos_folder, max_losses=1_000) as chaos, _told_with(f"Again: {again}"):
            _unleash(stage_on(harness, chaos, seed), seconds)


@contextmanager
def _told_with(note: str) -> Iterator[None]:
    try:
        yield
    except AssertionError as failed:
        failed.add_note(note)
        raise


def _unleash(stage: Stage, seconds: float) -> None:
    world = stage.world
    stage.open()
    world.journal.wait(5, timeout=60)  # all is up: the faults are to meet work
    _act(stage, seconds)
    stage.close()
    worker = world.start_worker(concurrency=4, imports=[JOBS, CHORES])
    _drain(stage)
    worker.stop()
    orders, entries = stage.ledger.read(), world.journal.entries()
    broken = [*stage.complaints, *judge(orders, entries, stage.faults, world.jobs(JobState.ABANDONED))]
    if broken:
        told = f"{len(orders)} jobs, {len(stage.faults)} faults, {len(broken)} promises broken:"
        raise AssertionError("\n".join([told, *broken]))


def _act(stage: Stage, seconds: float) -> None:
    """Do at random what the stage can, and undo it, for that long."""
    dice, pause, count = random.Random(stage.seed), threading.Event(), itertools.count()
    agenda: list[tuple[float, int, Callable[[], None]]] = []
    strike = time.monotonic()
    end = strike + seconds
    while agenda or strike < end:
        if agenda and (agenda[0][0] <= strike or strike >= end):
            at, _, undo = heapq.heappop(agenda)
            pause.wait(max(0.0, at - time.monotonic()))
            undo()
            continue
        pause.wait(max(0.0, strike - time.monotonic()))
        after, undo = stage.act(dice.choice(stage.acts), dice)
        done = time.monotonic()  # from here, however late: what was killed is back before the next fault
        heapq.heappush(agenda, (done + after, next(count), undo))
        strike = done + dice.uniform(*PAUSE)


def _drain(stage: Stage) -> None:
    """Wait until every job that was accepted came to its end, and nothing is left but what is parked."""
    world = stage.world

    def open_orders() -> list[Order]:
        came_to: dict[str, int] = {}  # not the last that was written: a run that was stopped, and fenced, goes on later
        for each in world.journal.entries():
            if each.event != "begin":
                tries = MAX_TRIES if each.event == "end" else each.try_count
                came_to[each.id] = max(tries, came_to.get(each.id, 0))
        return [
            order for order in stage.ledger.read() if order.fate == "accepted" and came_to.get(order.id, 0) < MAX_TRIES
        ]

    def is_empty() -> bool:
        count = world.manager.inspect().count()
        return not any(count.get(state, 0) for state in _HELD)

    def drained() -> bool:
        return not open_orders() and is_empty()

    def left() -> str:
        return f"{world.manager.inspect().count()} to be drained, and {[*map(str, open_orders())][:20]} to end"

    # A quarter of a second for each: where every job is a process, and the machine is busy, no more can be asked.
    wait_until(drained, timeout=60 + len(stage.ledger.read()) / 4, what=left)
