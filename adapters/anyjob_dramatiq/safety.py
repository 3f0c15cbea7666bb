"""The risks on a broker of the user's own, setting by setting."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from dramatiq import Broker, get_encoder
from dramatiq.encoder import PickleEncoder
from dramatiq.middleware import Retries

from anyjob.extend import JobPriority
from anyjob_amqp import LEVELS
from anyjob_dramatiq.guard import JobGuard

__all__ = ["risks_of", "risks_of_actors"]


def risks_of(broker: Broker, kind: str) -> Sequence[str]:
    """Return the risks of our jobs on this broker, each with the name of the setting."""
    return [f"{each.setting}: {each.risk}" for each in (*_ANYWHERE, *_BY_KIND[kind]) if not each.is_safe(broker)]


def risks_of_actors(broker: Broker, kind: str) -> Sequence[str]:
    """Return which of the application's own actors run before our most urgent jobs, by the setting that causes it."""
    theirs = [each for each in broker.actors.values() if getattr(each.fn, "__module__", "") != JobGuard.__module__]
    return [rule for rule in (_told(overtakes, theirs) for overtakes in _OVERTAKES[kind]) if rule]


class _Overtakes(NamedTuple):
    setting: str
    is_sooner: Callable[[Any], bool]
    risk: str


def _told(overtakes: _Overtakes, actors: Sequence[Any]) -> str | None:
    names = sorted(each.actor_name for each in actors if overtakes.is_sooner(each))
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    told = ", ".join(names[:_MOST_NAMES]) + more
    return f"{overtakes.setting}: the actors {told} {overtakes.risk}" if names else None


class _Risk(NamedTuple):
    setting: str
    is_safe: Callable[[Any], bool]
    risk: str


def _never(_broker: Any) -> bool:
    return False


_ANYWHERE: Final = (
    _Risk(
        "set_encoder",
        lambda _: not isinstance(get_encoder(), PickleEncoder),
        "who can write to the broker runs code in the worker, by pickle; use JSONEncoder",
    ),
    _Risk(
        "middleware",
        lambda broker: any(isinstance(each, Retries) for each in broker.middleware),
        "without Retries a job that can't be settled counts as done; add Retries(max_retries=0)",
    ),
    _Risk(
        "actors",
        _never,
        "a worker that doesn't import anyjob_dramatiq.app knows none of our jobs: what it takes it dead-letters, for 7 "
        "days. Start all workers of our queues with it",
    ),
)

_REDIS: Final = (
    _Risk(
        "maintenance_chance",
        lambda broker: broker.maintenance_chance >= 1_000_000,
        "the jobs of a killed worker come back after 17 minutes in the mean, without a bound; use 1_000_000",
    ),
    _Risk(
        "heartbeat_timeout",
        lambda broker: broker.heartbeat_timeout <= 60_000,
        "they come back only after it; use 30_000",
    ),
    _Risk(
        "RedisBroker",
        _never,
        "a message that can't be decoded strands its neighbours until the worker ends, and a worker holds jobs that it "
        "does not run. dramatiq+redis:// does neither",
    ),
)

_AMQP: Final = (
    _Risk(
        "confirm_delivery",
        lambda broker: bool(broker.confirm_delivery),
        "an enqueue counts as done that RabbitMQ never got; use True",
    ),
    _Risk(
        "max_priority",
        lambda broker: (broker.max_priority or 0) >= 4,
        "priorities are refused: the queues have none; use 4 (existing queues must be deleted first)",
    ),
    _Risk(
        "blocked_connection_timeout",
        lambda broker: all(each.socket_timeout and each.socket_timeout <= 5 for each in _parameters(broker)),
        "an enqueue to a RabbitMQ that never answers takes 15 s to fail; set socket_timeout and stack_timeout to 2",
    ),
)

_BY_KIND: Final[Mapping[str, Sequence[_Risk]]] = {"RedisBroker": _REDIS, "RabbitmqBroker": _AMQP}


_MOST_NAMES: Final = 5
_OVERTAKES: Final[Mapping[str, Sequence[_Overtakes]]] = {
    "RedisBroker": (
        _Overtakes(
            "priority",
            lambda actor: actor.priority < 100 - JobPriority.HIGH,
            "come before our HIGH jobs among what a worker holds (Dramatiq's default is 0, and lower is sooner); "
            "priority=85 is that of our NORMAL ones",
        ),
    ),
    "RabbitmqBroker": (
        _Overtakes(
            "priority",
            lambda actor: actor.priority < 100 - JobPriority.NORMAL,
            "come before all our jobs among what a worker holds (Dramatiq's default is 0, and lower is sooner); "
            "priority=85 is ours",
        ),
        _Overtakes(
            "broker_priority",
            lambda actor: (actor.options.get("broker_priority") or 0) > max(LEVELS.values()),
            "come before our HIGH jobs in a queue; these have 4",
        ),
    ),
}


def _parameters(broker: Any) -> Sequence[Any]:
    return broker.parameters if isinstance(broker.parameters, list) else [broker.parameters]
