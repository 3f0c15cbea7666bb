"""Enqueues chores at random until it is told to stop, and writes down what it asked for and what it was told.

python -m anyjob.testing.probes.producer CONFIG LEDGER JOURNAL SEED NAME
"""

from __future__ import annotations

import os
import random
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
from msgspec import Struct

from anyjob.base.envelope import JobEnvelope, JobPriority
from anyjob.base.errors import EnqueueError
from anyjob.current import default_registry
from anyjob.seams.capabilities import Quality
from anyjob.send.manager import JobManager
from anyjob.settings import load_settings
from anyjob.settings.compose import build
from anyjob.testing.probes.chores import MAX_TRIES, AsyncChore, Chore

__all__ = ["STEADY", "Ledger", "Order", "produce"]

PACE: Final = 0.12
"""Seconds between two orders of a producer, on the average."""
STEADY: Final = "b"
"""The queue of jobs that are neither delayed nor fail: the one that a worker with a wrong clock may serve."""


class Order(Struct, frozen=True, kw_only=True):
    """A job that a producer asked for."""

    id: str
    kind: str
    fails: int
    due: float | None
    """Before this time it is early."""
    fate: Literal["asked", "accepted", "in doubt", "rejected"] = "asked"
    """`asked`: nobody was told, for the producer was killed; in doubt as well."""


class Ledger:
    """The orders of any number of producers: a file that they append to, so that a kill loses none."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stop = path.with_name(f"{path.name}.stop")

    def write(self, orders: Sequence[Order]) -> None:
        """Append orders; the last line of an id counts."""
        file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(file, b"".join(msgspec.json.encode(order) + b"\n" for order in orders))
        finally:
            os.close(file)

    def read(self) -> Sequence[Order]:
        """Return the orders with their fates."""
        if not self.path.exists():
            return []
        *lines, _half = self.path.read_bytes().split(b"\n")
        decode = msgspec.json.Decoder(Order).decode
        return list({order.id: order for order in map(decode, lines)}.values())

    def close(self) -> None:
        """Tell all producers to stop."""
        self._stop.touch()

    @property
    def is_closed(self) -> bool:
        """Whether the producers are to stop."""
        return self._stop.exists()


@dataclass(frozen=True)
class _Kind:
    """A kind of jobs; `weight` is its share in a hundred orders."""

    weight: int
    seconds: Callable[[random.Random], float] = lambda _: 0.0
    delay: Callable[[random.Random], float] | None = None
    fails: Callable[[random.Random], int] = lambda _: 0
    args: type[Chore] = Chore
    queue: str = "default"


def _between(low: float, high: float) -> Callable[[random.Random], float]:
    return lambda dice: dice.uniform(low, high)


_KINDS: Final[dict[str, _Kind]] = {
    "quick": _Kind(30),
    "short": _Kind(15, seconds=_between(0.02, 0.05)),
    "long": _Kind(6, seconds=_between(0.5, 1.5)),
    "delayed": _Kind(15, delay=_between(0.5, 3.0)),
    "failing": _Kind(5, fails=lambda dice: dice.randint(1, MAX_TRIES)),
    "failing late": _Kind(5, fails=lambda dice: dice.randint(1, MAX_TRIES), seconds=_between(0.3, 1.0)),
    "async": _Kind(8, args=AsyncChore, seconds=_between(0.0, 0.05)),
    "async failing": _Kind(3, args=AsyncChore, fails=lambda dice: dice.randint(1, MAX_TRIES)),
    "steady": _Kind(8, queue=STEADY, seconds=_between(0.0, 0.05)),
    "steady async": _Kind(2, queue=STEADY, args=AsyncChore, seconds=_between(0.0, 0.5)),
    "steady long": _Kind(3, queue=STEADY, seconds=_between(2.5, 3.5)),  # longer than the lease
}


def produce(manager: JobManager, ledger: Ledger, journal: Path, seed: str, name: str) -> None:
    """Send orders until the ledger is closed: most alone, some in bulk."""
    dice, pause, number = random.Random(f"{seed} {name}"), threading.Event(), 0  # noqa: S311  # to be repeated
    while not ledger.is_closed:
        count = dice.choice([1, 1, 1, 1, 1, 1, 1, 5])
        made = [_draw(manager, dice, journal, f"{name}-{number + each}") for each in range(count)]
        number += count
        orders = [order for order, _ in made]
        ledger.write(orders)
        ledger.write(_told(orders, _send(manager, [envelope for _, envelope in made])))
        pause.wait(dice.expovariate(1 / (PACE * count)))  # the load is what this is about


def _draw(manager: JobManager, dice: random.Random, journal: Path, job_id: str) -> tuple[Order, JobEnvelope]:
    name = dice.choices([*_KINDS], [kind.weight for kind in _KINDS.values()])[0]
    kind = _KINDS[name]
    fails = kind.fails(dice)
    args = kind.args(str(journal), name, round(kind.seconds(dice), 3), fails)
    delay = None if kind.delay is None else kind.delay(dice)
    has_levels = manager.backend().capabilities.priority is not Quality.NONE
    level = dice.choice([*JobPriority]) if has_levels else JobPriority.NORMAL
    options: dict[str, Any] = {"queue": kind.queue, "job_id": job_id, "priority": level}
    envelope = manager.prepare(args, delay=delay, **options)
    due = None if envelope.due_at is None else envelope.due_at.timestamp()
    return Order(id=job_id, kind=name, fails=fails, due=due), envelope


def _send(manager: JobManager, envelopes: Sequence[JobEnvelope]) -> EnqueueError | None:
    try:
        manager.enqueue_many(envelopes)
    except EnqueueError as error:
        return error
    return None


def _told(orders: Sequence[Order], error: EnqueueError | None) -> Sequence[Order]:
    """Return the orders with what the caller was told of each; what an error doesn't name keeps its old fate."""
    if error is None:
        return [msgspec.structs.replace(order, fate="accepted") for order in orders]
    fates: dict[str, Any] = {
        job_id: fate
        for fate, ids in (("accepted", error.accepted), ("in doubt", error.in_doubt), ("rejected", error.rejected))
        for job_id in ids
    }
    return [msgspec.structs.replace(order, fate=fates[order.id]) for order in orders]


def _main(config: str, ledger: str, journal: str, seed: str, name: str) -> None:
    settings = load_settings({}, environ={}, directory=Path("/"), config=Path(config))
    if settings is None:
        raise SystemExit(f"{config} names no backend")
    produce(build(settings, registry=default_registry), Ledger(Path(ledger)), Path(journal), seed, name)


if __name__ == "__main__":
    _main(*sys.argv[1:])
