"""What the conformance kit is run on here: a harness for each backend."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from shutil import which

from celery_worlds import CeleryAmqpHarness, CeleryRedisHarness
from msgspec import Raw
from rabbit import PrivateRabbit, amqp_url
from servers import PrivateRedis, redis_url

from anyjob import InMemoryJobStore, JobEnvelope, JobPriority, JobStore, StoreBackend
from anyjob.backend import BackendConfig
from anyjob.store_backend import memory_backend
from anyjob.testing.conformance import InProcessHarness

__all__ = ["celery_amqp_harness", "celery_redis_harness", "memory_harness"]


def memory_harness(make: Callable[[BackendConfig], StoreBackend] = memory_backend) -> InProcessHarness:
    """Return the harness of the in-memory backend, or of one that `make` makes over an `InMemoryJobStore`."""
    return InProcessHarness(make, _put_into_memory)


def celery_amqp_harness(folder: Path) -> CeleryAmqpHarness:
    """Return the harness of Celery over RabbitMQ: on a node of its own, else on the shared one."""
    if not PrivateRabbit.is_installed():
        return CeleryAmqpHarness(amqp_url())
    node = PrivateRabbit(folder)
    node.start()
    return CeleryAmqpHarness(node.url, node)


def celery_redis_harness(folder: Path) -> CeleryRedisHarness:
    """Return the harness of Celery over Redis: on a server of its own, else on the shared one."""
    if which("redis-server") is None:
        return CeleryRedisHarness(redis_url())
    server = PrivateRedis(folder).start()
    return CeleryRedisHarness(server.url, server)


def _put_into_memory(store: JobStore, raw: bytes, queue: str) -> None:
    """Put what no envelope could be, in the place of one: nothing public lets such a thing in."""
    assert isinstance(store, InMemoryJobStore)
    now = store.clock.now()
    job_id = f"raw-{len(store._rows)}"  # noqa: SLF001
    store.insert([JobEnvelope(1, job_id, "raw", Raw(b"{}"), queue, JobPriority.NORMAL, now, now)])
    store._rows[job_id].raw = raw  # noqa: SLF001
