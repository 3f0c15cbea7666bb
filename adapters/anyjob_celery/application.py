"""Makes the Celery application that runs our jobs, with settings that lose, repeat and leak nothing."""

from __future__ import annotations

import logging
from functools import partial
from typing import Any

from celery import Celery
from celery.app.amqp import Queues
from kombu import Connection, Exchange, Queue

from anyjob.extend import QUEUE_NAME, JobExecutor
from anyjob_celery.backend import OwnCeleryBackend
from anyjob_celery.safety import SAFE
from anyjob_celery.stopping import StopBound, StopFlag
from anyjob_celery.task import AddJobTasks, JobTask

__all__ = ["make_application"]


def make_application(backend: OwnCeleryBackend, executor: JobExecutor, *, stop_timeout: float) -> Celery:
    """Return the application whose workers run the jobs of `backend`; connects to nothing.

    Without a closed list its queues are `default` and those of the registered jobs: Celery can't find others. With `-Q`
    a worker may serve any queue.
    """
    config = backend.config
    closed = config.queues is not None
    known = config.queues or sorted(executor.registry.queues())
    app = Celery(config.namespace, set_as_current=False)
    stop = StopFlag()
    app.conf.update(
        {
            "worker_hijack_root_logger": not logging.getLogger().handlers,  # the application set up its own
            **backend.options,
            **SAFE,
            **backend.transport_settings(stop),
            "broker_url": backend.url,
            # Separate settings, which win over CELERY_BROKER_URL: a worker of another broker would not run our jobs.
            "broker_read_url": backend.url,
            "broker_write_url": backend.url,
            "task_queues": [_queue(backend, logical) for logical in known],
            "task_create_missing_queues": not closed,
        }
    )
    app.amqp.queues_cls = partial(_JobQueues, backend)
    app.amqp.Connection = _JobConnection
    app.register_task(JobTask(backend, executor, stop))
    app.steps["worker"].update((AddJobTasks, StopBound))
    app.steps["worker"].update(backend.worker_steps())
    app.anyjob = StopBound.Options(backend, executor, stop, stop_timeout)
    return app


class _JobConnection(Connection):
    """Names its URL's scheme instead of our transport, because Flower has no broker page for that."""

    def info(self) -> Any:
        driver = self.get_transport_cls().driver_type
        return {**super().info(), "transport": f"{driver}s" if self.ssl else driver}


class _JobQueues(Queues):
    """Makes a queue of `-Q` in the same way as all others."""

    def __init__(self, backend: OwnCeleryBackend, *args: Any, **options: Any) -> None:
        self._backend = backend
        super().__init__(*args, **options)

    def new_missing(self, name: str) -> Queue:
        if not QUEUE_NAME.fullmatch(name):
            raise KeyError(name)
        return _queue(self._backend, name)


def _queue(backend: OwnCeleryBackend, logical: str) -> Queue:
    return Queue(exchange=Exchange(""), **backend.native_queue(logical))
