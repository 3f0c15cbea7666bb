"""A server killed while jobs are moved, the source's or the destination's, started again, and the move gone on with."""

from __future__ import annotations

import random
import threading
from collections import Counter
from typing import Final

import pytest
from migration.pairs import LONG, Pair, Servers, mixed, pairs

from anyjob import JobState
from anyjob.migration import MigrationError, MigrationOptions, MigrationReport

JOBS, BATCH = (10_000, 100) if LONG else (600, 20)
RUN: Final = "the-run"

pytestmark = pytest.mark.timeout(300 if LONG else 120)


@pairs
@pytest.mark.parametrize("side", ["a", "b"])
def test_a_server_that_is_killed_loses_nothing(pair: Pair, servers: Servers, kinds: tuple[str, str], side: str) -> None:
    server = servers.owner(kinds["ab".index(side)])
    sent = mixed(pair.b, JOBS)
    pair.fill(sent, 10)
    moves_once = pair.manager.backend("b").capabilities.moves_once
    dice = random.Random(f"{kinds} {side}")
    strike, struck = threading.Event(), threading.Event()
    pause = dice.uniform(0.0, 0.05)

    def kill() -> None:
        strike.wait(60)
        threading.Event().wait(pause)
        server.kill()
        struck.set()

    def progress(report: MigrationReport) -> None:
        if report.moved >= JOBS // 10:
            strike.set()
        if report.moved >= JOBS // 2:
            struck.wait(60)  # not to be done before

    killer = threading.Thread(target=kill)
    killer.start()
    options = MigrationOptions(batch=BATCH, resume=RUN)
    try:
        with pytest.raises(MigrationError, match="Interrupted, nothing is lost") as caught:
            pair.manager.migration("a", "b", options, progress).move()
    finally:
        strike.set()
        killer.join()
        server.start()
    assert caught.value.report.moved < JOBS
    in_doubt = set(caught.value.report.in_doubt)

    pair.manager.close()
    report = pair.move(batch=BATCH, resume=RUN)

    in_doubt |= set(report.in_doubt)
    there = [job.envelope for job in pair.look("b")]
    assert {each.id: each for each in there if each is not None} == {each.id: each for each in sent}
    twice = {job_id for job_id, times in Counter(each.id for each in there if each is not None).items() if times > 1}
    assert twice <= in_doubt
    assert in_doubt <= {each.id for each in sent}
    assert len(in_doubt) <= (0 if moves_once else BATCH)
    assert (report.left, report.foreign, report.is_balanced) == (0, 10, True)
    assert pair.natives() == list(range(10))
    assert pair.count("a") == {JobState.WAITING: 10, JobState.SCHEDULED: 0}
