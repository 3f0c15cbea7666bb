"""Celery's settings as anyjob needs them, and the risks of an application that has others."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from anyjob_celery.overtaking import overtaking
from anyjob_celery.settings import Settings, transport_option

__all__ = [
    "REFUSED",
    "REMOTE_CONTROL",
    "SAFE",
    "refusal_of",
    "restore_period_of",
    "risks_of",
]

# Each of these, as Celery has it by default, loses, repeats or leaks something.
SAFE: Final[Mapping[str, Any]] = {
    "accept_content": ["json"],
    "task_serializer": "json",
    "result_serializer": "json",
    "result_accept_content": ["json"],
    "task_acks_late": True,
    "task_reject_on_worker_lost": True,
    "worker_prefetch_multiplier": 1,
    "broker_connection_retry_on_startup": True,
    "broker_connection_max_retries": None,
    "enable_utc": True,
    "worker_consumer": "anyjob_celery.consumer:JobConsumer",
}

_OURS: Final = (
    "anyjob sees to that itself. For an application with settings of your own use celery://?app=module:attribute."
)
_LIMIT: Final = "Celery would kill the job and count nothing. Give the job a time_limit."
_ACKS: Final = "a job is acknowledged once what became of it is settled, and not before."

REFUSED: Final[Mapping[str, str]] = {
    **dict.fromkeys(SAFE, _OURS),
    "broker_channel_error_retry": _OURS,
    "broker_connection_retry": _OURS,
    "broker_read_url": _OURS,
    "broker_transport": _OURS,
    "broker_url": _OURS,
    "broker_write_url": _OURS,
    "control_exchange": _OURS,
    "event_exchange": _OURS,
    "event_queue_prefix": _OURS,
    "task_acks_on_failure": _ACKS,
    "task_acks_on_failure_or_timeout": _ACKS,
    "task_acks_on_timeout": _ACKS,
    "task_always_eager": "jobs would run inside of enqueue. For tests use the backend memory:, or anyjob.testing.",
    "task_annotations": "they can undo what keeps jobs from being lost. Set the job's own attributes.",
    "task_create_missing_queues": _OURS,
    "task_default_exchange": _OURS,
    "task_protocol": _OURS,
    "task_queues": _OURS,
    "task_retry_on_worker_lost": "the layer owns the retries: see max_losses.",
    "task_routes": _OURS,
    "task_soft_time_limit": _LIMIT,
    "task_time_limit": _LIMIT,
    "worker_cancel_long_running_tasks_on_connection_loss": "each lost connection would cost every running job a try.",
    "worker_concurrency": "say it to the worker: `anyjob worker --concurrency 4`, which is 1 where nobody says so.",
    "worker_deduplicate_successful_tasks": "a job whose id succeeded before would be dropped. See unique ids.",
    "worker_pool": "use the option pool.",
}
"""Options that a backend refuses, each with the reason or the way out: anyjob sets it, or it undoes a promise."""

_POOLS: Final = frozenset(f"celery.concurrency.{name}" for name in ("prefork", "thread", "solo"))

REMOTE_CONTROL: Final = (
    "worker_enable_remote_control: who can write to the broker can also stop workers; Flower and `inspect` need it, "
    "else use False"
)


def refusal_of(worker: Any) -> str | None:
    """Return why our worker must not run with its command line; None if it may."""
    if worker.time_limit or worker.soft_time_limit:
        return f"--time-limit and --soft-time-limit: {_LIMIT}"
    if worker.pool_cls.__module__ not in _POOLS:
        return f"--pool: {worker.pool_cls.__module__} is none of prefork, threads, solo"
    return None


def restore_period_of(conf: Settings) -> float:
    """Return the seconds between the looks of kombu's Redis transport for crashed workers' messages."""
    from anyjob_celery.private_kombu import restore_period  # imports redis, which an application on RabbitMQ may lack

    interval, throttle = (transport_option(conf, f"unacked_restore_{each}", 10) for each in ("interval", "throttle"))
    return restore_period(float(interval), float(throttle))


def risks_of(conf: Settings, transport: str, queues: Mapping[str, Any]) -> Sequence[str]:
    """Return the risks of our jobs in an application with these settings and kombu queues, each with the setting's
    name.

    Our task's own options (late acknowledgement, no retries of Celery's own) are safe in any.
    """
    found = [each for each in (*_ANYWHERE, *_BY_TRANSPORT[transport]) if not each.is_safe(conf)]
    return [*(f"{each.setting}: {each.risk}" for each in found), *overtaking(conf, transport, queues)]


class _Risk(NamedTuple):
    setting: str
    is_safe: Callable[[Settings], bool]
    risk: str


def _never(_conf: Settings) -> bool:
    return False


_ANYWHERE: Final = (
    _Risk(
        "accept_content",
        lambda conf: {*conf["accept_content"]} <= {"json", "application/json"},
        "who can write to the broker may run code in the worker, by pickle or yaml; use ['json']",
    ),
    _Risk(
        "worker_prefetch_multiplier",
        lambda conf: conf["worker_prefetch_multiplier"] == 1,
        "a worker holds jobs that it does not run: they wait for it while others are idle, and higher priorities wait "
        "behind them; use 1",
    ),
    _Risk(
        "worker_cancel_long_running_tasks_on_connection_loss",
        lambda conf: not conf["worker_cancel_long_running_tasks_on_connection_loss"],
        "each lost connection costs every running job a try; use False",
    ),
    _Risk("task_time_limit", lambda conf: not conf["task_time_limit"], "a longer job is killed; its try has failed"),
    _Risk("task_soft_time_limit", lambda conf: not conf["task_soft_time_limit"], "a longer job gets an exception"),
    _Risk(
        "task_always_eager", lambda conf: not conf["task_always_eager"], "jobs run inside of enqueue, delayed or not"
    ),
)

_REDIS: Final = (
    _Risk(
        "broker_transport",
        _never,
        "kombu takes a message first and notes it then: a worker that is killed in between loses it. celery+redis:// "
        "does both in one step",
    ),
    _Risk(
        "broker_transport_options.visibility_timeout",
        _never,
        "the jobs of a killed worker come back only after this (an hour, if unset), and a job that runs longer than "
        "this runs twice. celery+redis:// keeps a short one fresh",
    ),
    _Risk(
        "broker_transport_options.unacked_restore_throttle",
        lambda conf: restore_period_of(conf) <= 30,
        "they are looked for every unacked_restore_interval x unacked_restore_throttle seconds (100, if unset); use 1, "
        "and kombu 5.7 or newer, for others always take 100",
    ),
    _Risk(
        "broker_transport_options.socket_timeout",
        lambda conf: all(transport_option(conf, name) for name in ("socket_timeout", "socket_connect_timeout")),
        "an enqueue to a Redis that never answers hangs for ever; set this and socket_connect_timeout",
    ),
    _Risk(
        "broker_transport_options.priority_steps",
        lambda conf: len(transport_option(conf, "priority_steps", ())) >= 5,
        "five priorities share four levels; use [0, 1, 2, 3, 4], in all producers and workers at once",
    ),
)

_AMQP: Final = (
    _Risk(
        "broker_transport_options.confirm_publish",
        lambda conf: bool(transport_option(conf, "confirm_publish")),
        "an enqueue counts as done that RabbitMQ never got; use True",
    ),
    _Risk(
        "broker_transport",
        _never,
        "what is sent to a queue that somebody deleted is gone in silence: Celery can't say mandatory. celery+amqp:// "
        "does",
    ),
    _Risk(
        "broker_channel_error_retry",
        lambda conf: bool(conf["broker_channel_error_retry"]),
        "a job longer than RabbitMQ's consumer_timeout ends the worker; use True",
    ),
)


_BY_TRANSPORT: Final[Mapping[str, Sequence[_Risk]]] = {"redis": _REDIS, "amqp": _AMQP}
