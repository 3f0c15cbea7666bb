"""Jobs of the kit that end in unusual ways: they exit, snooze, outlast their limit, or break what looks on."""

from __future__ import annotations

import logging
import select
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn

from anyjob.define.context import current_job
from anyjob.define.names import job_name
from anyjob.define.retry import RetryLater, RetryPolicy, Snooze
from anyjob.job import BackgroundJob
from anyjob.testing.probes.journal import Journal, hold, record

__all__ = [
    "EXITS",
    "Blocking",
    "Exiting",
    "ExitingTwice",
    "Hostile",
    "LogBreaking",
    "Polite",
    "Snoozing",
    "mend_logging",
]

NAME: Final = "anyjob-conformance"

EXITS: Final[Mapping[str, BaseException]] = {
    "SystemExit(3)": SystemExit(3),
    "SystemExit(0)": SystemExit(0),
    "KeyboardInterrupt": KeyboardInterrupt(),
}


@job_name(f"{NAME}.exiting")
@dataclass
class Exiting:
    """A job of a single try that raises one of `EXITS`."""

    journal: str
    label: str
    how: str


class ExitingJob(BackgroundJob[Exiting]):
    """Runs an `Exiting`."""

    retry = None

    def execute(self, args: Exiting) -> None:
        record(args.journal, "begin", args.label)
        raise EXITS[args.how]


@job_name(f"{NAME}.exiting-twice")
@dataclass
class ExitingTwice(Exiting):
    """The same with two tries."""


class ExitingTwiceJob(BackgroundJob[ExitingTwice]):
    """Runs an `ExitingTwice`."""

    retry = RetryPolicy(max_tries=2, first_wait=0.2)

    def execute(self, args: ExitingTwice) -> None:
        record(args.journal, "begin", args.label)
        raise EXITS[args.how]


_WISHES: Final[Mapping[str, type[Snooze | RetryLater]]] = {"Snooze": Snooze, "RetryLater": RetryLater}


@job_name(f"{NAME}.polite")
@dataclass
class Polite:
    """A job of a single try that asks, by one of two exceptions, to be run later when its worker stops."""

    journal: str
    label: str
    gate: str
    how: str = "Snooze"


class PoliteJob(BackgroundJob[Polite]):
    """Runs a `Polite`."""

    retry = None

    def execute(self, args: Polite) -> None:
        job = current_job()
        record(args.journal, "begin", args.label)
        hold(args.gate, unless=lambda: job.should_stop)
        if job.should_stop:
            raise _WISHES[args.how](0)
        record(args.journal, "end", args.label)


@job_name(f"{NAME}.snoozing")
@dataclass
class Snoozing:
    """A job of a single try that snoozes `times` times, each for `delay` seconds, or as short as possible."""

    journal: str
    label: str
    times: int
    delay: float | None = None


class SnoozingJob(BackgroundJob[Snoozing]):
    """Runs a `Snoozing`."""

    retry = None

    def execute(self, args: Snoozing) -> None:
        record(args.journal, "begin", args.label)
        if len(Journal(Path(args.journal)).entries("begin", args.label)) <= args.times:
            raise Snooze(args.delay)
        record(args.journal, "end", args.label)


@job_name(f"{NAME}.blocking")
@dataclass
class Blocking:
    """A job of a single try and a limit of one second that is in a call of C code for `seconds`."""

    journal: str
    label: str
    seconds: float


class BlockingJob(BackgroundJob[Blocking]):
    """Runs a `Blocking`."""

    retry = None
    time_limit = 1.0

    def execute(self, args: Blocking) -> None:
        record(args.journal, "begin", args.label)
        select.select([], [], [], args.seconds)


class HostileError(Exception):
    """An attribute that raises when it is read."""

    def __getattribute__(self, name: str) -> NoReturn:
        raise SystemExit(f"hostile {name}")

    def __str__(self) -> NoReturn:
        raise SystemExit("hostile __str__")

    def __repr__(self) -> NoReturn:
        raise KeyboardInterrupt("hostile __repr__")


@job_name(f"{NAME}.hostile")
@dataclass
class Hostile:
    """A job of two tries that raises a `HostileError`."""

    journal: str
    label: str


class HostileJob(BackgroundJob[Hostile]):
    """Runs a `Hostile`."""

    retry = RetryPolicy(max_tries=2, first_wait=0.2)

    def execute(self, args: Hostile) -> None:
        record(args.journal, "begin", args.label)
        raise HostileError


@job_name(f"{NAME}.log-breaking")
@dataclass
class LogBreaking:
    """A job of a single try after which nobody in its process can log; `fails` or not."""

    journal: str
    label: str
    fails: bool


class LogBreakingJob(BackgroundJob[LogBreaking]):
    """Runs a `LogBreaking`."""

    retry = None

    def execute(self, args: LogBreaking) -> None:
        record(args.journal, "begin", args.label)
        log = logging.getLogger("anyjob.worker")
        log.setLevel(logging.INFO)
        log.addFilter(_refuse)
        if args.fails:
            raise ValueError("on purpose")
        record(args.journal, "end", args.label)


def _refuse(_record: Any) -> NoReturn:
    raise RuntimeError("a log filter raises")


def mend_logging() -> None:
    """Undo what `LogBreaking` did, where it ran in the test's own process."""
    log = logging.getLogger("anyjob.worker")
    log.setLevel(logging.NOTSET)
    log.removeFilter(_refuse)
