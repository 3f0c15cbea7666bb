"""Private parts of Celery and billiard, each where there is no public way.

tests/test_private_parts.py says when an upgrade changes any of it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from billiard.common import terminate_handler_fired
from celery import Task
from celery.app.defaults import DEFAULTS
from celery.worker.request import Request

__all__ = ["ChildParts", "RequestParts", "TaskParts", "Tracer", "is_told_to_end", "setting_names"]

Tracer = Callable[[str, Any, Any, Mapping[str, Any]], Any]
"""The function that Celery makes to run a task: it takes id, args, kwargs and request."""


def setting_names() -> Collection[str]:
    """Return the names of all settings that this Celery knows."""
    return frozenset(DEFAULTS)


def is_told_to_end() -> bool:
    """Whether this child of a prefork pool got a signal to end, for which billiard has its own handler."""
    return bool(terminate_handler_fired())


class ChildParts:
    """The jobs that a prefork pool gave to its children, and the pipes by which they answer."""

    def __init__(self, pool: Any) -> None:
        self._processes: Any = getattr(pool, "_pool", None)

    def __bool__(self) -> bool:
        """Whether it has children whose answers an event loop reads: a pool of threads has none."""
        return hasattr(self._processes, "handle_result_event")

    @property
    def pipes(self) -> Iterable[int]:
        """The descriptors of the children's answers."""
        pipes: Iterable[int] = self._processes._fileno_to_outq  # noqa: SLF001
        return pipes

    @property
    def to_begin(self) -> Sequence[Any]:
        """The jobs that were written to a live child which has not said that it begins."""
        return [job for job in self._processes._cache.values() if self._is_to_begin(job)]  # noqa: SLF001

    @staticmethod
    def _is_to_begin(job: Any) -> bool:
        child = job._write_to  # noqa: SLF001
        return child is not None and not job._accepted and child._is_alive()  # noqa: SLF001


class RequestParts(Request):
    """Handles a request that remote control revokes, or terminated: Celery only acknowledges it."""

    def announce_revoked(self, reason: str, *rest: Any) -> None:
        """Note that it is revoked."""
        super()._announce_revoked(reason, *rest)

    def _announce_revoked(self, reason: str, terminated: bool, signum: Any, expired: bool) -> None:
        self.announce_revoked(reason, terminated, signum, expired)
        self._already_revoked = True


class TaskParts(Task):
    """A wrapper of a task. Celery keeps the task's runner as its `__trace__`, which it makes anew in each process."""

    _tracer: Tracer | None = None

    def trace(self, tracer: Tracer, task_id: str, args: Any, kwargs: Any, request: Mapping[str, Any]) -> Any:
        """Run the task by the runner that Celery made, and return its result."""
        return tracer(task_id, args, kwargs, request)

    @property
    def __trace__(self) -> Callable[..., Any] | None:
        return None if self._tracer is None else partial(self.trace, self._tracer)

    @__trace__.setter
    def __trace__(self, tracer: Tracer) -> None:
        self._tracer = tracer
