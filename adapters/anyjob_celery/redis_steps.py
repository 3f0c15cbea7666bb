"""What a Celery worker does for Redis beside running jobs."""

from __future__ import annotations

from typing import Any

from celery import bootsteps

from anyjob_redis import RecurringThread

__all__ = ["TendMessages"]


class TendMessages(bootsteps.StartStopStep):
    """Keeps alive what is held, brings back what a dead worker held, and pushes what is due.

    After the pool, for a child must not be forked from a process with threads at work; and until the process ends, for
    a stopping worker still holds what it runs.
    """

    requires = ("celery.worker.components:Pool",)

    def start(self, worker: Any) -> None:
        backend = worker.app.anyjob.backend
        RecurringThread("anyjob-held", backend.held.tend, backend.config.clock).start()
        RecurringThread("anyjob-due", backend.messages.scheduled.promote, backend.config.clock).start()
