"""What we use of RQ that RQ does not promise: whatever else this adapter takes from it, its documentation has.

tests/test_private_parts.py says when an upgrade changes any of it.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from redis import Redis
from redis.exceptions import RedisError
from rq import Queue
from rq.executions import Execution
from rq.job import Job
from rq.suspension import WORKERS_SUSPENDED
from rq.utils import now
from rq.worker import BaseWorker

if TYPE_CHECKING:
    from rq.worker_pool import WorkerPool

__all__ = ["KEY_PREFIX", "WorkerParts", "announce", "is_enqueue_wrapped", "use_in_command_line"]

# RQ 3 lets an environment variable set it, and names it; before, it is a part of other names.
KEY_PREFIX: Final = Queue.redis_queue_namespace_prefix.removesuffix(":queue:")
"""What all of RQ's own keys begin with."""


def is_enqueue_wrapped() -> bool:
    """Whether somebody surrounds RQ's enqueue, as tracers do."""
    return hasattr(Queue.enqueue_job, "__wrapped__")


def announce(job: Job, queue: str) -> None:
    """Have who surrounds RQ's enqueue see a job; nothing is sent."""
    _Announced(queue, connection=job.connection).enqueue_job(job, pipeline=job.connection.pipeline())


class _Announced(Queue):
    def _enqueue_job(self, job: Job, *_: Any, **__: Any) -> Job:
        return job


def use_in_command_line(pool: type[WorkerPool]) -> None:
    """Have RQ's commands make this pool, and ask in our way whether workers are suspended."""
    from rq.cli import workers  # not here above: senders don't need it

    vars(workers).update(WorkerPool=pool, is_suspended=_is_suspended)


def _is_suspended(connection: Redis) -> bool:
    """RQ asks this in a transaction, and Redis refuses any, even of reads, once its memory is used up."""
    return bool(connection.exists(WORKERS_SUSPENDED))


class WorkerParts(BaseWorker):
    """What a worker of RQ's notes about itself, and nothing public can set or tell."""

    def note_stop(self) -> None:
        """Have RQ's loops end: a signal's handler of ours stands for RQ's, which raises in the middle of our work."""
        self._shutdown_requested_date = now()
        self._stop_requested = True

    def forget_stop(self) -> None:
        """In a child: the stop is its parent's."""
        self._stop_requested = False

    @property
    def is_told_to_stop(self) -> bool:
        """Whether a stop was noted."""
        return self._stop_requested

    @property
    def told_to_stop_for(self) -> float | None:
        """The seconds since then."""
        since = self._shutdown_requested_date
        return None if since is None else (now() - since).total_seconds()

    def forget_child(self) -> None:
        """The child was waited for by us, not by RQ: its number may be another process's by now."""
        self._horse_pid = 0

    def take_stopped(self, job_id: str) -> bool:
        """Whether `rq`'s stop-job meant this job; it does so once."""
        meant = self._stopped_job_id == job_id
        if meant:
            self._stopped_job_id = None
        return meant

    def _set_connection(self, connection: Redis) -> Redis:
        return connection  # RQ would stretch its time-outs to what BLPOP needs; we never block

    # RQ 3 holds what runs in `executions`, and finds in Redis which job that is. Before, it holds `execution`, and the
    # job is a field of the worker's, which its monitors and stop-job read: RQ sets it in what we never call.

    def show_execution(self, job: Job) -> Execution:
        """Note for RQ's monitors that the job runs."""
        execution = super().prepare_execution(job)
        self._show_job(job.id)
        return execution

    @property
    def unshown_execution(self) -> Execution:
        """What `show_execution` made before Redis refused it."""
        assert self.execution is not None  # noqa: S101  # for mypy
        return self.execution

    def forget_execution(self) -> None:
        """Nothing runs any more."""
        several: MutableMapping[str, Execution] = getattr(self, "executions", {})
        several.clear()  # RQ 3 would not forget more than one by the following, and we made one in each attempt
        self.execution = None
        with suppress(RedisError):
            self._show_job(None)

    def _show_job(self, job_id: str | None) -> None:
        show: Any = getattr(self, "set_current_job_id", None)
        if show is not None:
            show(job_id)
