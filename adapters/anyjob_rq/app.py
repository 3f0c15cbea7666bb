"""The worker classes for RQ's command line, which find the application by its settings."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import uuid
from collections.abc import Iterable
from typing import Any

from redis import Redis
from rq import Queue
from rq.worker import SimpleWorker

from anyjob.current import load_served
from anyjob.extend import HANDED_BACK, ConfigurationError, JobExecutor, JobLogger, hide_password
from anyjob_redis.scripts import register
from anyjob_rq.backend import RQBackend
from anyjob_rq.horse import ForkingMixin
from anyjob_rq.worker import JobWorkerMixin

__all__ = ["RQJobWorker", "RQSimpleJobWorker"]

logger = JobLogger("anyjob.worker")


class _Hosted(JobWorkerMixin):
    """Takes its backend and executor from the application of `ANYJOB_APP`, or the settings, unless they are given."""

    def __init__(
        self,
        queues: str | Queue | Iterable[str | Queue],
        name: str | None = None,
        *,
        connection: Redis | None = None,
        backend: RQBackend | None = None,
        executor: JobExecutor | None = None,
        **options: Any,
    ) -> None:
        self._is_command = backend is None or executor is None
        if backend is None or executor is None:
            manager, backend = load_served(RQBackend)
            executor = manager.executor
            options.setdefault("stop_timeout", manager.worker_options.stops_within)
        if connection is not None:
            _refuse_other_server(connection, backend)
        super().__init__(queues, name, backend=backend, executor=executor, **options)

    def work(self, *args: Any, **options: Any) -> bool:
        """Work; in a pool, as long as its first process lives. The command's exit code tells how a stop ended."""
        pool = multiprocessing.parent_process()
        if pool is not None:
            threading.Thread(target=_stop_after, args=(pool,), name="anyjob-pool", daemon=True).start()
        try:
            return super().work(*args, **options)
        finally:
            if self.handed_back and self._is_command:
                raise SystemExit(HANDED_BACK)


class RQJobWorker(_Hosted, ForkingMixin):
    """RQ's worker for anyjob's jobs, a process for each: `rq worker -w anyjob_rq.RQJobWorker mail reports`.

    Queues are logical ones; `'*'` is all of them. It serves the backend that the settings name (`ANYJOB_APP`,
    `ANYJOB_WORKER_BACKEND`), or in code the `backend` and `executor` that it is given.
    """


class RQSimpleJobWorker(_Hosted, SimpleWorker):
    """The same without a process for each job: for tests, and where there is no fork.

    A running job is told of its worker's stop, and not killed; a second signal interrupts it.
    """


def _stop_after(pool: Any) -> None:
    pool.join()
    logger.warning("the worker pool is gone: stopping")
    os.kill(os.getpid(), signal.SIGTERM)


def _refuse_other_server(connection: Redis, backend: RQBackend) -> None:
    """Raise `ConfigurationError` unless RQ's connection leads to the backend's database."""
    if connection is backend.client:
        return
    key = f"{backend.config.namespace}:probe:{uuid.uuid4().hex}"
    register(backend.client, "redis.call('SET', KEYS[1], 1, 'PX', 10000)", drains=backend.config.namespace)([key])
    if not connection.get(key):
        raise ConfigurationError(
            "RQ's command line leads to another Redis than backend "
            f"{backend.config.alias!r} ({hide_password(backend.config.url)}). Give `rq` the same URL, by -u or "
            "better in RQ_REDIS_URL, or run `anyjob worker`, which does."
        )
    backend.client.delete(key)
