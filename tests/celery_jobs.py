"""The jobs that the tests of Celery run in worker processes, beside those of the kit."""

from __future__ import annotations

import ctypes
import time
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from anyjob import BackgroundJob, RetryPolicy, current_job, job_name
from anyjob.testing.probes.journal import Journal, hold, record

__all__ = ["Blocks", "FailsAtItsGates", "FailsFirst", "KeepsTheLock", "Raises"]


@job_name("celery-tests.fails-at-its-gates")
@dataclass
class FailsAtItsGates:
    """A job whose n-th try, of five, fails when the file `<gates>-<n>` is there."""

    journal: str
    label: str
    gates: str


class FailsAtItsGatesJob(BackgroundJob[FailsAtItsGates]):
    """Runs a `FailsAtItsGates`."""

    retry = RetryPolicy(max_tries=5, first_wait=0.0)

    def execute(self, args: FailsAtItsGates) -> None:
        record(args.journal, "begin", args.label)
        hold(f"{args.gates}-{current_job().try_count}")
        raise RuntimeError(args.label)


@job_name("celery-tests.fails-first")
@dataclass
class FailsFirst:
    """A job whose first so many tries fail; two of them in a row end it."""

    journal: str
    label: str
    fails: int


class FailsFirstJob(BackgroundJob[FailsFirst]):
    """Runs a `FailsFirst`."""

    retry = RetryPolicy(max_tries=2, first_wait=0.0)

    def execute(self, args: FailsFirst) -> None:
        record(args.journal, "begin", args.label)
        if len(Journal(Path(args.journal)).entries("begin", args.label)) <= args.fails:
            raise LookupError(f"no {args.label}")
        record(args.journal, "end", args.label)


@job_name("celery-tests.blocks")
@dataclass
class Blocks:
    """A job that a time limit of a second finds in a call of C code."""

    journal: str
    label: str


class BlocksJob(BackgroundJob[Blocks]):
    """Runs a `Blocks`."""

    time_limit = 1.0
    retry = None

    def execute(self, args: Blocks) -> None:
        record(args.journal, "begin", args.label)
        time.sleep(60)  # noqa: TID251  # the call that blocks
        record(args.journal, "end", args.label)


@job_name("celery-tests.raises")
@dataclass
class Raises:
    """A job that raises the error `module:name`."""

    journal: str
    label: str
    error: str


class RaisesJob(BackgroundJob[Raises]):
    """Runs a `Raises`."""

    retry = None

    def execute(self, args: Raises) -> None:
        record(args.journal, "begin", args.label)
        module, _, name = args.error.partition(":")
        raise getattr(import_module(module), name)("as told")


@job_name("celery-tests.keeps-the-lock")
@dataclass
class KeepsTheLock:
    """A job that lets no other thread of its process run for so many seconds."""

    journal: str
    label: str
    seconds: int


class KeepsTheLockJob(BackgroundJob[KeepsTheLock]):
    """Runs a `KeepsTheLock`."""

    retry = None

    def execute(self, args: KeepsTheLock) -> None:
        record(args.journal, "begin", args.label)
        ctypes.PyDLL(None).sleep(args.seconds)  # unlike a CDLL, it keeps the interpreter's lock
        record(args.journal, "end", args.label)
