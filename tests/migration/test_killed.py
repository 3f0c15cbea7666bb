"""The mover killed with -9 at random points, and gone on with.

`ANYJOB_TEST_LONG=1` takes all ordered pairs, 10,000 jobs and 50 kills each.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
from collections import Counter
from typing import Any, Final

import pytest
from migration.pairs import LONG, Pair, mixed, pairs

from anyjob import JobState

JOBS, KILLS, BATCH = (10_000, 50, 100) if LONG else (400, 3, 20)
RUN: Final = "the-run"

pytestmark = pytest.mark.timeout(900 if LONG else 90)


@pairs
def test_a_mover_that_is_killed_loses_nothing(pair: Pair) -> None:
    sent = mixed(pair.b, JOBS)
    pair.fill(sent, 10)
    dice = random.Random(str(pair.kinds))
    moves_once = pair.manager.backend("b").capabilities.moves_once

    killed = [_killed(pair, dice) for _ in range(KILLS)]
    assert sum(killed) >= KILLS // 2, "it was done too soon for the kills to mean anything"
    report = _migrate(pair, "--verify") if moves_once else _migrate(pair)

    in_doubt = set(report["in_doubt"])
    there = [job.envelope for job in pair.look("b")]
    assert None not in there
    assert {each.id: each for each in there if each is not None} == {each.id: each for each in sent}
    twice = {job_id for job_id, times in Counter(each.id for each in there if each is not None).items() if times > 1}
    assert twice <= in_doubt
    assert in_doubt <= {each.id for each in sent}
    assert len(in_doubt) <= sum(killed) * BATCH
    if moves_once:
        assert not in_doubt
    assert (report["left"], report["foreign"], report["is_balanced"]) == (0, 10, True)
    assert pair.natives() == list(range(10))
    assert pair.count("a") == {JobState.WAITING: 10, JobState.SCHEDULED: 0}
    assert pair.is_forgotten(RUN)


def _killed(pair: Pair, dice: random.Random) -> bool:
    """Start the mover and kill it, a moment after it began; return whether it was still at it."""
    mover = subprocess.Popen(_command(), **_options(pair))
    assert mover.stderr is not None
    assert mover.stderr.readline().startswith(b"run the-run")
    threading.Event().wait(dice.uniform(0.0, 0.15))
    mover.kill()
    mover.communicate()
    return mover.returncode < 0


def _migrate(pair: Pair, *options: str) -> Any:
    """Move what is left, and return the report."""
    file = pair.folder / "report.json"
    done = subprocess.run([*_command(), "--report", str(file), *options], **_options(pair), check=False)
    assert done.returncode == 1, done  # for the natives are left
    return json.loads(file.read_text())


def _command() -> list[str]:
    return [sys.executable, "-m", "anyjob", "migrate", "a", "b", "--batch", str(BATCH), "--resume", RUN]


def _options(pair: Pair) -> dict[str, Any]:
    plain = {name: value for name, value in os.environ.items() if not name.startswith("ANYJOB_")}
    return {
        "cwd": pair.folder,
        "env": {**plain, "ANYJOB_CONFIG": str(pair.settings)},
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
    }
