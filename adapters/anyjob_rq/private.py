"""Private parts of RQ, in one place: all else that this adapter uses is in RQ's documentation.

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
"""The prefix of all of RQ's own keys."""


def is_enqueue_wrapped() -> bool:
    """Whether a wrapper is around RQ's enqueue, as tracers have one."""
    return hasattr(Queue.enqueue_job, "__wrapped__")


def announce(job: Job, queue: str) -> None:
    """Show a job to the wrappers of RQ's enqueue; nothing is sent."""
    _Announced(queue, connection=job.connection).enqueue_job(job, pipeline=job.connection.pipeline())


class _Announced(Queue):
    def _enqueue_job(self, job: Job, *_: Any, **__: Any) -> Job:
        return job


def use_in_command_line(pool: type[WorkerPool]) -> None:
    """Have RQ's commands make this pool, and ask in our way whether workers are suspended."""
    from rq.cli import workers  # not here above: senders don't need it

    vars(workers).update(WorkerPool=pool, is_suspended=_is_suspended)


def _is_suspended(connection: Redis) -> bool:
    """Ask outside a transaction: RQ asks in one, and a full Redis refuses any transaction, even of reads."""
    return bool(connection.exists(WORKERS_SUSPENDED))


class WorkerParts(BaseWorker):
    """A worker's private state in RQ, which nothing public sets or returns."""

    def note_stop(self) -> None:
        """End RQ's loops: our signal handler replaces RQ's, which would raise in the middle of our work."""
        self._shutdown_requested_date = now()
        self._stop_requested = True

    def forget_stop(self) -> None:
        """Forget the stop in a child: it is its parent's."""
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
        """Note that we waited for the child, not RQ: its pid may be another process's by now."""
        self._horse_pid = 0

    def take_stopped(self, job_id: str) -> bool:
        """Whether `rq`'s stop-job meant this job; it does so once."""
        meant = self._stopped_job_id == job_id
        if meant:
            self._stopped_job_id = None
        return meant

    def _set_connection(self, connection: Redis) -> Redis:
        return connection  # RQ would lengthen its time-outs for BLPOP; we never block

    # RQ 3 keeps running jobs in `executions`, and finds in Redis which job that is. Before, it has `execution`, and the
    # job is a field of the worker's, which its monitors and stop-job read: RQ sets it in a method that we never call.

    def show_execution(self, job: Job) -> Execution:
        """Note for RQ's monitors that the job runs."""
        execution = super().prepare_execution(job)
        self._show_job(job.id)
        return execution

    @property
    def unshown_execution(self) -> Execution:
        """The execution that `show_execution` made before Redis refused it."""
        assert self.execution is not None  # noqa: S101  # for mypy
        return self.execution

    def forget_execution(self) -> None:
        """Note for RQ's monitors that no job runs any more."""
        several: MutableMapping[str, Execution] = getattr(self, "executions", {})
        several.clear()  # RQ 3 would not forget more than one by the following, and we made one in each attempt
        self.execution = None
        with suppress(RedisError):
            self._show_job(None)

    def _show_job(self, job_id: str | None) -> None:
        show: Any = getattr(self, "set_current_job_id", None)
        if show is not None:
            show(job_id)
