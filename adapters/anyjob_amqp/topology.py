"""The queues and exchanges on the broker, as data that any client can declare: for priorities, delays, parked jobs.

A delay travels through a chain of 17 queues, as in kombu's native delayed delivery, but under our own names: the queue
of level n holds every message for 2^n seconds and passes it on, and a routing key has a bit for each level that says
whether to stop there. Each queue has one fixed time to live, so no message waits behind another. The last exchange
leads into the job's queue, where priority counts. A job that is due later than the longest pass arrives early, and its
worker sends it through the chain again: each queue of a chain costs the node three files, for ever.

The chain's queues are quorum queues that dead-letter at least once: a hop that classic queues may lose, they repeat,
and a message whose last queue is gone stays where it is until there is one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final

from anyjob.extend import JobPriority

__all__ = [
    "JOB_QUEUE",
    "LEVELS",
    "AmqpNames",
    "BindingDeclaration",
    "Declarations",
    "ExchangeDeclaration",
    "Note",
    "Place",
    "QueueDeclaration",
    "Route",
]

LEVELS: Final[Mapping[JobPriority, int]] = {level: number for number, level in enumerate(sorted(JobPriority))}
"""Each priority as the number that a message carries: higher is sooner."""

# Explicit, because a virtual host may have another default: a quorum queue takes no `x-max-priority`, and drops, on
# RabbitMQ 4, a parked job that was looked at 21 times.
_CLASSIC: Final[Mapping[str, Any]] = {"x-queue-type": "classic"}
JOB_QUEUE: Final[Mapping[str, Any]] = {**_CLASSIC, "x-max-priority": max(LEVELS.values())}
"""The arguments of a queue where jobs wait."""

_BITS: Final = 17
_MANY: Final = 1_000
_A_MONTH: Final = 30 * 24 * 3600 * 1000


@dataclass(frozen=True, slots=True)
class QueueDeclaration:
    """A durable queue. All clients must use the same arguments, or the broker refuses."""

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ExchangeDeclaration:
    """A durable topic exchange."""

    name: str


@dataclass(frozen=True, slots=True)
class BindingDeclaration:
    """From an exchange into a queue, or into another exchange."""

    source: str
    key: str
    queue: str | None = None
    exchange: str | None = None


Declarations = tuple[QueueDeclaration | ExchangeDeclaration | BindingDeclaration, ...]
"""In the order in which they must be made."""


@dataclass(frozen=True, slots=True)
class Note:
    """A name that is noted in a queue (`anyjob_amqp.notes`), because nothing else tells that there is such a queue."""

    name: str
    queue: QueueDeclaration = field(compare=False)


@dataclass(frozen=True, slots=True)
class Place:
    """The target of messages, with all that must be declared before one is published; known by its name."""

    name: str
    declarations: Declarations = field(compare=False)
    note: Note | None = field(default=None, compare=False)
    """The note to be written before anything is published there."""


@dataclass(frozen=True, slots=True)
class Route:
    """How a message is published."""

    exchange: str
    key: str
    place: Place


@dataclass(frozen=True, slots=True)
class AmqpNames:
    """The queues and exchanges of one namespace. No queue's own name has a colon, so none can meet another's."""

    namespace: str

    def queue(self, logical: str) -> str:
        """Return the native name of a logical queue."""
        return f"{self.namespace}.{logical}"

    def level(self, number: int) -> str:
        """Return the queue, and the exchange before it, that hold for 2^number seconds."""
        return f"{self.namespace}:later.{number}"

    @property
    def levels(self) -> Sequence[str]:
        """The queues that hold the scheduled jobs."""
        return [self.level(number) for number in range(_BITS)]

    @property
    def due(self) -> str:
        """The exchange at which due jobs arrive."""
        return f"{self.namespace}:due"

    def due_key(self, logical: str) -> str:
        """Return the key by which that exchange leads into a queue.

        The exact one: bound by `#.mail`, as kombu does it, a queue would get the messages of the queue `x.mail`, too.
        """
        return "*." * _BITS + self.queue(logical)

    @property
    def parked(self) -> str:
        """The queue of the jobs that were given up."""
        return f"{self.namespace}:parked"

    @property
    def notes(self) -> QueueDeclaration:
        """The queue that notes to which logical queues jobs were sent."""
        return QueueDeclaration(f"{self.namespace}:queues", _CLASSIC)

    def moving(self, move: str) -> str:
        """Return the queue of the notes of a move into this namespace."""
        return f"{self.namespace}:moving.{move}"

    def route(self, logical: str, seconds: int = 0) -> Route:
        """Return the way into a queue, at once or in so many whole seconds: early, after 36 hours at most."""
        if seconds < 1:
            place = _place(self, logical)
            return Route("", place.name, place)
        place, seconds = _delayed_place(self, logical), min(seconds, 2**_BITS - 1)
        return Route(self.level(_BITS - 1), ".".join(f"{seconds:0{_BITS}b}") + f".{self.queue(logical)}", place)

    def route_to_parked(self) -> Route:
        """Return the way into the parked jobs."""
        return Route("", self.parked, Place(self.parked, (QueueDeclaration(self.parked, _CLASSIC),)))

    def route_to_moving(self, move: str) -> Route:
        """Return the way into a move's notes, which expire if the move is not resumed."""
        queue = QueueDeclaration(self.moving(move), {**_CLASSIC, "x-expires": _A_MONTH})
        return Route("", queue.name, Place(queue.name, (queue,)))


@lru_cache(_MANY)
def _place(names: AmqpNames, logical: str) -> Place:
    queue = QueueDeclaration(names.queue(logical), JOB_QUEUE)
    # The client that makes the queue binds it: made anew without that, it would get none of the messages on their way.
    binding = BindingDeclaration(names.due, names.due_key(logical), queue=queue.name)
    return Place(queue.name, (queue, ExchangeDeclaration(names.due), binding), Note(logical, names.notes))


@lru_cache(_MANY)
def _delayed_place(names: AmqpNames, logical: str) -> Place:
    place = _place(names, logical)
    return Place(f"{place.name} later", (*place.declarations, *_chain(names)), place.note)


@lru_cache(_MANY)
def _chain(names: AmqpNames) -> Declarations:
    return tuple(_chain_of(names))


def _chain_of(names: AmqpNames) -> Iterator[QueueDeclaration | ExchangeDeclaration | BindingDeclaration]:
    for number in range(_BITS):  # from the end, so that each leads on to one that is there
        here, onward = names.level(number), names.level(number - 1) if number else names.due
        skipped = "*." * (_BITS - 1 - number)
        yield ExchangeDeclaration(here)
        yield QueueDeclaration(
            here,
            {
                "x-queue-type": "quorum",
                "x-overflow": "reject-publish",
                "x-dead-letter-strategy": "at-least-once",
                "x-dead-letter-exchange": onward,
                "x-message-ttl": 2**number * 1000,
            },
        )
        yield BindingDeclaration(here, f"{skipped}1.#", queue=here)
        yield BindingDeclaration(here, f"{skipped}0.#", exchange=onward)
