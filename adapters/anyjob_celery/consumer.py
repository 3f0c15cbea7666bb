"""A Celery consumer that loses no message: it parks those that Celery would drop, or crash on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from celery.worker.consumer import Consumer
from celery.worker.state import active_requests

from anyjob_celery.children import hear_children
from anyjob_celery.frame import TASK

__all__ = ["JobConsumer"]


class JobConsumer(Consumer):
    """Takes messages for our task alone."""

    _hears_children = False

    def on_ready(self) -> None:
        super().on_ready()
        self._hears_children = True  # before, the pool can't read, and has no job

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
            hear_children(self.pool, self.hub)
        super().on_close()
        jobs = self.app.tasks[TASK].jobs
        if not self.app.anyjob.stop.is_set():  # else all messages are given back in the end, unbegun ones too
            jobs.keep_held({request.message.delivery_tag for request in tuple(active_requests)})

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        self._refuse(message, f"it can't be decoded: {exc}")

    def on_invalid_task(self, body: Any, message: Any, exc: Exception) -> None:  # noqa: ARG002
        self._refuse(message, f"Celery can't use it: {exc}")

    def _refuse(self, message: Any, why: str) -> None:
        self.app.tasks[TASK].refuse(message, why, self.connection_errors)
