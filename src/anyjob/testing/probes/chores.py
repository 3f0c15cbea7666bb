"""The jobs of the chaos: short ones that write down each try, where it ran, and how it ended."""

from __future__ import annotations

import asyncio
import os
import threading
from dataclasses import dataclass

from anyjob.define.context import current_job
from anyjob.define.names import job_name
from anyjob.define.retry import RetryPolicy
from anyjob.job import AsyncBackgroundJob, BackgroundJob
from anyjob.testing.probes.jobs import NAME, ConformanceError
from anyjob.testing.probes.journal import record

__all__ = ["FIRST_WAIT", "MAX_TRIES", "AsyncChore", "Chore"]

MAX_TRIES = 3
FIRST_WAIT = 0.3
_RETRY = RetryPolicy(max_tries=MAX_TRIES, first_wait=FIRST_WAIT, wait_factor=1.0)


@job_name(f"{NAME}.chore")
@dataclass
class Chore:
    """A job that takes `seconds` and fails its first `fails` tries, of three."""

    journal: str
    label: str
    seconds: float = 0.0
    fails: int = 0


class ChoreJob(BackgroundJob[Chore]):
    """Runs a `Chore`."""

    retry = _RETRY
    time_limit = 60.0  # longer than any takes: a clock that jumps ahead must not end it

    def execute(self, args: Chore) -> None:
        _begin(args)
        if args.seconds:
            threading.Event().wait(args.seconds)
        _end(args)


@job_name(f"{NAME}.async-chore")
@dataclass
class AsyncChore(Chore):
    """The same on the loop."""


class AsyncChoreJob(AsyncBackgroundJob[AsyncChore]):
    """Runs an `AsyncChore`."""

    retry = _RETRY
    time_limit = 60.0

    async def execute(self, args: AsyncChore) -> None:
        _begin(args)
        await asyncio.sleep(args.seconds)
        _end(args)


def _begin(args: Chore) -> None:
    # Its parent too: a process that is forked for one job is gone when its worker is hit a moment later.
    record(args.journal, "begin", args.label, data=os.getppid())


def _end(args: Chore) -> None:
    fails = current_job().try_count <= args.fails
    record(args.journal, "failed" if fails else "end", args.label)
    if fails:
        raise ConformanceError(f"try {current_job().try_count} of {args.label}")
