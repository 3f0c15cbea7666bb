"""Celery with and without anyjob, in turn, on both transports: one job a call, many at once, and the worker.

    python benchmarks/on_celery.py                       # both transports, on the servers of ANYJOB_TEST_*_URL
    python benchmarks/on_celery.py redis --rounds 3

Both sides have the same safe settings: late acknowledgement, prefetch 1, JSON, confirmed publishes on RabbitMQ. (Not
called celery.py: `import celery` would find it.)
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from celery import Celery
from cost import mark
from kombu import Queue
from side_by_side import NAMESPACE, URLS, Library, Workers, main

OPTIONS = {
    "redis": {"priority_steps": [0, 1, 2, 3, 4], "global_keyprefix": f"{NAMESPACE}:"},
    "amqp": {"confirm_publish": True},
}
NATIVE_QUEUE = f"{NAMESPACE}-celery"
LEVELS = {"x-max-priority": 4}
NATIVE = ["-m", "celery", "-A", "on_celery"]
OURS = ["-m", "celery", "-A", "anyjob_celery.app"]
WORKER = ["worker", "-c", "1", "--without-gossip", "--without-mingle", "-l", "WARNING"]


class CeleryAlone(Library):
    """An application with the safe settings."""

    name = "celery"
    workers: Mapping[str, Workers] = {
        f"worker, {pool}": Workers([*OURS, *WORKER, "-P", pool], [*NATIVE, *WORKER, "-P", pool])
        for pool in ("prefork", "solo")
    }
    queues: Mapping[str, Mapping[str, int]] = {f"{NAMESPACE}.default": LEVELS, NATIVE_QUEUE: LEVELS}

    def __init__(self, transport: str) -> None:
        super().__init__(transport)
        self.app, self.task = application(transport)

    def send(self, number: int) -> None:
        self.task.apply_async(("a@b.c", number), priority=2)


def application(transport: str):  # type: ignore[no-untyped-def]
    """Return the application without anyjob, and its task."""
    app = Celery(NAMESPACE, broker=URLS[transport])
    app.conf.update(
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        worker_prefetch_multiplier=1,
        broker_connection_retry_on_startup=True,
        task_ignore_result=True,
        task_default_queue=NATIVE_QUEUE,
        task_queues=[Queue(NATIVE_QUEUE, queue_arguments=LEVELS if transport == "amqp" else None)],
        broker_transport_options=OPTIONS[transport],
    )

    @app.task(name="bench.native")
    def send(to: str, number: int) -> None:  # noqa: ARG001
        mark(number)

    return app, send


if "BENCH_NATIVE" in os.environ:  # the worker without anyjob imports this module
    app, _ = application(os.environ["BENCH_NATIVE"])

if __name__ == "__main__":
    main(CeleryAlone, __doc__.partition("\n")[0])
