"""Which of an application's own tasks run before our jobs, by the priorities in its settings."""

from __future__ import annotations

from bisect import bisect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from anyjob.extend import JobPriority
from anyjob_amqp import LEVELS
from anyjob_celery.settings import Settings, transport_option

__all__ = ["most_priority", "overtaking", "priority_steps", "redis_levels", "task_priorities"]


def overtaking(conf: Settings, transport: str, queues: Mapping[str, Any]) -> Sequence[str]:
    """Return the settings by which tasks of the application's own hold up our HIGH jobs, each with the reason.

    `queues` are its kombu queues.
    """
    said = {"task_default_priority": conf["task_default_priority"], **dict(_routed(conf))}
    return _told(said, conf, transport, queues)


def task_priorities(
    conf: Settings, transport: str, queues: Mapping[str, Any], tasks: Mapping[str, Any]
) -> Sequence[str]:
    """Return the same of the tasks that have a priority in their code."""
    default = conf["task_default_priority"]
    own = {name: getattr(task, "priority", default) for name, task in sorted(tasks.items())}  # gone in Celery 6
    said = {f"{name}.priority": priority for name, priority in own.items() if priority != default}
    return _told(said, conf, transport, queues)


def most_priority(queue: Any) -> int:
    """Return the highest priority that a kombu queue on RabbitMQ tells apart."""
    return int((queue.queue_arguments or {}).get("x-max-priority") or queue.max_priority or 0)


def priority_steps(conf: Settings) -> Sequence[int]:
    """Return the priorities that kombu tells apart on Redis, the first is sooner."""
    return list(transport_option(conf, "priority_steps", (0, 3, 6, 9)))


def redis_levels(conf: Settings) -> Mapping[JobPriority, int]:
    """Return each priority of ours as the step that is nearest."""
    steps = priority_steps(conf)
    levels = sorted(JobPriority, reverse=True)
    return {level: steps[round(number * (len(steps) - 1) / (len(levels) - 1))] for number, level in enumerate(levels)}


def _told(said: Mapping[str, Any], conf: Settings, transport: str, queues: Mapping[str, Any]) -> Sequence[str]:
    found = [(setting, _OVERTAKES[transport](priority, conf, queues)) for setting, priority in said.items()]
    return [f"{setting}: {how}" for setting, how in found if how is not None]


def _routed(conf: Settings) -> Iterator[tuple[str, Any]]:
    routes = conf["task_routes"]
    for each in routes if isinstance(routes, list | tuple) else [routes]:
        for pattern, route in each.items() if isinstance(each, Mapping) else ():
            if isinstance(route, Mapping) and route.get("priority") is not None:
                yield f"task_routes[{str(pattern)!r}]", route["priority"]


def _overtakes_on_amqp(priority: Any, _conf: Settings, queues: Mapping[str, Any]) -> str | None:
    high = LEVELS[JobPriority.HIGH]
    most = {
        name: most_priority(queue) for name, queue in sorted(queues.items())
    }  # a higher priority counts as this one
    held_up = [name for name, cap in most.items() if min(int(priority or 0), cap) > min(high, cap)]
    if not held_up:
        return None
    return (
        f"{priority} is sooner than our HIGH jobs ({high}) in {', '.join(held_up)}: they wait for all of these tasks; "
        f"use {LEVELS[JobPriority.NORMAL]}, as NORMAL has, or less"
    )


def _overtakes_on_redis(priority: Any, conf: Settings, _queues: Mapping[str, Any]) -> str | None:
    steps = priority_steps(conf)
    number = min(max(int(priority or 0), 0), 9)
    if steps[bisect(steps, number) - 1] != steps[0]:  # as kombu chooses the list
        return None
    return (
        f"{number}{' (unset)' if priority is None else ''} is the level of our HIGH jobs: they take turns with these "
        f"tasks, and all other jobs wait for both; use {redis_levels(conf)[JobPriority.NORMAL]}, as NORMAL has, or more"
    )


_Overtakes = Callable[[Any, Settings, Mapping[str, Any]], str | None]
_OVERTAKES: Final[Mapping[str, _Overtakes]] = {"amqp": _overtakes_on_amqp, "redis": _overtakes_on_redis}
