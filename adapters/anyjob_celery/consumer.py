"""A Celery consumer that loses no message, whatever it is: what Celery would drop, or die of, is parked."""

from __future__ import annotations

import select
from collections.abc import Callable
from time import monotonic
from types import GeneratorType
from typing import Any, Final

from celery.worker.consumer import Consumer
from celery.worker.state import active_requests

from anyjob_celery.frame import TASK

__all__ = ["JobConsumer"]


class JobConsumer(Consumer):
    """Takes messages for our task alone."""

    _hears_children = False

    def on_ready(self) -> None:
        super().on_ready()
        self._hears_children = True  # before, its pool can't hear, and has been given nothing

    def create_task_handler(self, *args: Any, **options: Any) -> Callable[[Any], Any]:
        hand_on = super().create_task_handler(*args, **options)

        def on_message(message: Any) -> Any:
            headers = message.headers
            if isinstance(headers, dict) and headers.get("task") == TASK:
                return hand_on(message)
            return self._refuse(message, "not a message of anyjob: it is for another task, or for none")

        return on_message

    def on_close(self) -> None:
        if self._hears_children:
            _hear_children(self.pool, self.hub)
        super().on_close()
        jobs = self.app.tasks[TASK].jobs
        if not self.app.anyjob.stop.is_set():  # else all is given back in the end, what was not begun as well
            jobs.keep_held({request.message.delivery_tag for request in tuple(active_requests)})

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        self._refuse(message, f"it can't be decoded: {exc}")

    def on_invalid_task(self, body: Any, message: Any, exc: Exception) -> None:  # noqa: ARG002
        self._refuse(message, f"Celery can't use it: {exc}")

    def _refuse(self, message: Any, why: str) -> None:
        self.app.tasks[TASK].refuse(message, why, self.connection_errors)


def _hear_children(pool: Any, hub: Any) -> None:
    """Read what a prefork pool's children say, until each has begun what was written to it: it says so before it does.

    Celery discards, at a stop too, every job that it hasn't heard of beginning: one that its child takes all the same
    would run, never be acknowledged, hold up the stop to its limit, and repeat as if it had crashed. What is written
    is written to an idle child, which begins it at once; a child that doesn't in time is stuck.
    """
    processes: Any = getattr(pool, "_pool", None)
    if hub is None or not hasattr(processes, "handle_result_event"):  # threads
        return
    deadline = monotonic() + _LONGEST_HEARING
    while True:
        is_due = any(map(_is_to_begin, processes._cache.values())) and monotonic() < deadline  # noqa: SLF001
        pipes = set(processes._fileno_to_outq) & set(hub.readers)  # noqa: SLF001
        readable, _, _ = select.select(pipes, (), (), _PAUSE if is_due else 0)
        if not readable and not is_due:
            return
        for pipe in readable:
            _read(hub, pipe)


def _is_to_begin(job: Any) -> bool:
    """Whether a child that lives was given it, and has not said that it begins."""
    child = job._write_to  # noqa: SLF001
    return child is not None and not job._accepted and child._is_alive()  # noqa: SLF001


def _read(hub: Any, pipe: int) -> None:
    """Do what the event loop does about a pipe that can be read; it may have read half of a message before."""
    read, arguments = hub.readers[pipe]
    if isinstance(read, GeneratorType):
        next(read, None)
    else:
        read(*arguments)


_LONGEST_HEARING: Final = 5.0
_PAUSE: Final = 0.05
