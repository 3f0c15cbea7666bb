"""The risks of a RabbitMQ server for Celery's workers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from anyjob_amqp import Links, RabbitServer

__all__ = ["limits_channels", "risks_of_existing"]


def risks_of_existing(links: Links, queues: Mapping[str, Any]) -> Iterator[str]:
    """Return the risks of jobs in an application's kombu queues. Raises `EnqueueError`."""
    server = RabbitServer.behind(links)
    arguments = {name: queue.queue_arguments or {} for name, queue in queues.items()}
    quorum = {name: each for name, each in arguments.items() if each.get("x-queue-type") == "quorum"}
    # With one of these Celery limits each queue, whatever the server.
    yield from server.risk_of_several(queues, limits_channels=limits_channels(server) and not quorum)
    yield from server.risk_of_quorum(quorum)


def limits_channels(server: RabbitServer) -> bool:
    """Whether the limit of a worker of Celery's is that of all its queues together."""
    return server.release < (4, 0)  # from then on kombu no longer asks for it
