"""The jobs that the kit enqueues: each does one thing and writes it down. A worker knows them by importing this."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Any, NamedTuple, TypedDict
from uuid import UUID

from msgspec import Struct

from anyjob.current import get_manager
from anyjob.define.context import current_job
from anyjob.define.names import job_name
from anyjob.define.retry import GiveUp, RetryLater, RetryPolicy
from anyjob.job import AsyncBackgroundJob, BackgroundJob, background_job
from anyjob.testing.probes.journal import hold, record

__all__ = [
    "AsyncProbe",
    "Chain",
    "Failing",
    "FailingByDefault",
    "FailingLate",
    "FailingOnce",
    "Fatal",
    "Hopeless",
    "Later",
    "Probe",
    "echo",
    "samples",
]

NAME = "anyjob-conformance"


@job_name(f"{NAME}.probe", aliases=[f"{NAME}.probe-of-old"])
@dataclass
class Probe:
    """A job that begins, waits for its gate if it has one, and ends."""

    journal: str
    label: str
    gate: str | None = None
    heeds_stop: bool = False
    """Whether it ends when its worker stops, gate or no gate."""


class ProbeJob(BackgroundJob[Probe]):
    """Runs a `Probe`."""

    def execute(self, args: Probe) -> None:
        record(args.journal, "begin", args.label)
        job = current_job()
        hold(args.gate, unless=lambda: args.heeds_stop and job.should_stop)
        record(args.journal, "end", args.label, data=job.should_stop)


@job_name(f"{NAME}.async")
@dataclass
class AsyncProbe:
    """An async job, which may stop the loop that it shares with others."""

    journal: str
    label: str
    stops_loop: bool = False


class AsyncProbeJob(AsyncBackgroundJob[AsyncProbe]):
    """Runs an `AsyncProbe`."""

    async def execute(self, args: AsyncProbe) -> None:
        import asyncio

        record(args.journal, "begin", args.label)
        if args.stops_loop:
            asyncio.get_running_loop().stop()
        await asyncio.sleep(0.01)  # leaves the coroutine once: whoever doesn't await it is found out
        record(args.journal, "end", args.label)


@job_name(f"{NAME}.chain")
@dataclass
class Chain:
    """A job that enqueues the next one."""

    journal: str
    label: str
    rest: list[str] = field(default_factory=list)


class ChainJob(BackgroundJob[Chain]):
    """Runs a `Chain`."""

    def execute(self, args: Chain) -> None:
        record(args.journal, "begin", args.label)
        if args.rest:
            get_manager().enqueue(Chain(args.journal, args.rest[0], args.rest[1:]))
        record(args.journal, "end", args.label)


@job_name(f"{NAME}.failing")
@dataclass
class Failing:
    """A job that fails its first `times` tries, of three."""

    journal: str
    label: str
    times: int = 1_000


class ConformanceError(Exception):
    """What the kit's jobs fail with."""


def _fail(args: Failing | FailingOnce | FailingByDefault) -> None:
    record(args.journal, "begin", args.label)
    if current_job().try_count <= args.times:
        raise ConformanceError(f"try {current_job().try_count} of {args.label}")
    record(args.journal, "end", args.label)


class FailingJob(BackgroundJob[Failing]):
    """Runs a `Failing`: three tries, 0.4 s and 0.8 s apart."""

    retry = RetryPolicy(max_tries=3, first_wait=0.4)

    def execute(self, args: Failing) -> None:
        _fail(args)


@job_name(f"{NAME}.failing-late")
@dataclass
class FailingLate:
    """A job that fails each of its three tries, once its gate is open."""

    journal: str
    label: str
    gate: str


class FailingLateJob(BackgroundJob[FailingLate]):
    """Runs a `FailingLate`."""

    retry = RetryPolicy(max_tries=3, first_wait=0.4)

    def execute(self, args: FailingLate) -> None:
        record(args.journal, "begin", args.label)
        hold(args.gate)
        raise ConformanceError(f"try {current_job().try_count} of {args.label}")


@job_name(f"{NAME}.failing-once")
@dataclass
class FailingOnce(Failing):
    """The same with a single try."""


class FailingOnceJob(BackgroundJob[FailingOnce]):
    """Runs a `FailingOnce`."""

    retry = None

    def execute(self, args: FailingOnce) -> None:
        _fail(args)


@job_name(f"{NAME}.failing-by-default")
@dataclass
class FailingByDefault(Failing):
    """The same with as many tries as the settings say."""


class FailingByDefaultJob(BackgroundJob[FailingByDefault]):
    """Runs a `FailingByDefault`."""

    def execute(self, args: FailingByDefault) -> None:
        _fail(args)


@job_name(f"{NAME}.later")
@dataclass
class Later:
    """A job that asks once to be retried after `delay` seconds, against a policy of an hour."""

    journal: str
    label: str
    delay: float


class LaterJob(BackgroundJob[Later]):
    """Runs a `Later`."""

    retry = RetryPolicy(max_tries=2, first_wait=3600)

    def execute(self, args: Later) -> None:
        record(args.journal, "begin", args.label)
        if current_job().try_count == 1:
            raise RetryLater(args.delay)
        record(args.journal, "end", args.label)


@job_name(f"{NAME}.hopeless")
@dataclass
class Hopeless:
    """A job that gives up, though it might try again."""

    journal: str
    label: str


class HopelessJob(BackgroundJob[Hopeless]):
    """Runs a `Hopeless`."""

    retry = RetryPolicy(max_tries=5, first_wait=0.0)

    def execute(self, args: Hopeless) -> None:
        record(args.journal, "begin", args.label)
        raise GiveUp("no hope")


@job_name(f"{NAME}.fatal")
@dataclass
class Fatal:
    """A job that takes its process along."""

    journal: str
    label: str
    code: int | None = None
    """The exit code of its process; None: it kills it."""


class FatalJob(BackgroundJob[Fatal]):
    """Runs a `Fatal`."""

    def execute(self, args: Fatal) -> None:
        record(args.journal, "begin", args.label)
        if args.code is not None:
            os._exit(args.code)
        os.kill(os.getpid(), signal.SIGKILL)


# Every kind of arguments


class Colour(StrEnum):
    """One of the scalars."""

    RED = "red"


@dataclass
class Line:
    """A nested dataclass."""

    text: str
    count: int = 1


@job_name(f"{NAME}.kind.dataclass")
@dataclass
class ADataclass:
    """Scalars of every kind, and nesting."""

    journal: str
    number: int
    ratio: float
    when: datetime
    day: date
    span: timedelta
    price: Decimal
    key: UUID
    blob: bytes
    colour: Colour
    maybe: str | None
    lines: list[Line]
    table: dict[str, list[int]]


@job_name(f"{NAME}.kind.struct")
class AStruct(Struct):
    """A msgspec Struct."""

    journal: str
    pair: tuple[int, str]


@job_name(f"{NAME}.kind.namedtuple")
class ANamedTuple(NamedTuple):
    """A NamedTuple."""

    journal: str
    text: str


@job_name(f"{NAME}.kind.typeddict")
class ATypedDict(TypedDict):
    """A TypedDict: it has no type of its own at run time."""

    journal: str
    text: str


class _Echo:
    """Writes down what the arguments became on their way."""

    def execute(self, args: Any) -> None:
        journal = args["journal"] if isinstance(args, dict) else args.journal
        record(journal, "end", type(args).__name__, data=args)


class EchoDataclass(_Echo, BackgroundJob[ADataclass]):
    """Echoes a dataclass."""


class EchoStruct(_Echo, BackgroundJob[AStruct]):
    """Echoes a Struct."""


class EchoNamedTuple(_Echo, BackgroundJob[ANamedTuple]):
    """Echoes a NamedTuple."""


class EchoTypedDict(_Echo, BackgroundJob[ATypedDict]):
    """Echoes a TypedDict."""


@background_job(f"{NAME}.echo")
def echo(journal: str, text: str, *, numbers: list[int] | None = None) -> int:
    """Write down the arguments of a function job, and return how long the text is."""
    record(journal, "end", "echo", data={"text": text, "numbers": numbers})
    return len(text)


_UUID = UUID("12345678-1234-5678-1234-567812345678")


def samples(journal: str) -> Sequence[tuple[Any, Any]]:
    """Return arguments of every kind, each with the job that takes it."""
    return [
        (
            ADataclass(
                journal,
                number=2**53 + 1,
                ratio=0.1,
                when=datetime(2026, 2, 28, 23, 59, 59, 999_999, tzinfo=UTC),
                day=date(2024, 2, 29),
                span=timedelta(days=1, microseconds=1),
                price=Decimal("0.10"),
                key=_UUID,
                blob=b"\x00\xff",
                colour=Colour.RED,
                maybe=None,
                lines=[Line('a\n"b" \\ \u2028 é 漢 \U0001f600'), Line("", 0)],
                table={"": [], "k": [1, -1]},
            ),
            EchoDataclass,
        ),
        (AStruct(journal, (1, "x")), EchoStruct),
        (ANamedTuple(journal, "x"), EchoNamedTuple),
        (ATypedDict(journal=journal, text="x"), EchoTypedDict),
    ]
