"""Makes the Celery application that runs our jobs, with the settings that lose, repeat and leak nothing."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, Final

from celery import Celery
from celery.app.amqp import Queues
from kombu import Exchange, Queue

from anyjob.envelope import QUEUE_NAME
from anyjob.errors import ConfigurationError
from anyjob.executor import JobExecutor
from anyjob_celery.backend import CeleryBackend
from anyjob_celery.stopping import StopBound, StopFlag
from anyjob_celery.task import JobTask

__all__ = ["make_application"]


def make_application(backend: CeleryBackend, executor: JobExecutor, *, stop_timeout: float) -> Celery:
    """Return the application whose workers run the jobs of `backend`; connects to nothing.

    Without a closed list its queues are `default` and those of the registered jobs: Celery can't find others. A worker
    that is told a queue (`-Q`) may be told any.
    """
    config = backend.config
    closed = config.queues is not None
    known = config.queues or sorted({"default", *(job.queue for job in executor.registry)})
    app = Celery(config.namespace, set_as_current=False)
    stop = StopFlag()
    needed = {**_SAFE, **backend.transport_settings(stop)}
    _refuse_ours(backend.options, config.alias, needed)
    app.conf.update(
        {
            **backend.options,
            **needed,
            "broker_url": backend.url,
            # Named apart, they win over CELERY_BROKER_URL: what serves other jobs than were enqueued helps nobody.
            "broker_read_url": backend.url,
            "broker_write_url": backend.url,
            "task_queues": [_queue(backend, logical) for logical in known],
            "task_create_missing_queues": not closed,
        }
    )
    app.amqp.queues_cls = partial(_JobQueues, backend)
    app.register_task(JobTask(backend, executor, stop))
    app.steps["worker"].add(StopBound)
    app.steps["worker"].update(backend.worker_steps())
    app.anyjob = StopBound.Options(backend, stop, stop_timeout)
    return app


class _JobQueues(Queues):
    """Makes a queue that a worker is told by `-Q` as all others are made."""

    def __init__(self, backend: CeleryBackend, *args: Any, **options: Any) -> None:
        self._backend = backend
        super().__init__(*args, **options)

    def new_missing(self, name: str) -> Queue:
        if not QUEUE_NAME.fullmatch(name):
            raise KeyError(name)
        return _queue(self._backend, name)


def _queue(backend: CeleryBackend, logical: str) -> Queue:
    return Queue(exchange=Exchange(""), **backend.native_queue(logical))


def _refuse_ours(options: Mapping[str, Any], alias: str, needed: Mapping[str, Any]) -> None:
    refused = {*_OURS, *needed}.intersection(options)
    if refused:
        raise ConfigurationError(
            f"backends.{alias}.options: {', '.join(sorted(refused))}: anyjob sees to that itself. For a Celery "
            "application with settings of your own use celery://?app=module:attribute."
        )


# Each of these, as Celery has it by default, loses, repeats or leaks something.
_SAFE: Final[Mapping[str, Any]] = {
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
    "broker_read_url",
    "broker_url",
    "broker_write_url",
    "task_create_missing_queues",
    "task_queues",
    "task_routes",
)
