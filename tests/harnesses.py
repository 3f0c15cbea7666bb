"""What the conformance kit is run on here: a harness for each backend."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

from msgspec import Raw
from redis import Redis
from rq import Callback, Queue
from servers import RedisHarness

from anyjob import InMemoryJobStore, JobEnvelope, JobPriority, JobStore, StoreBackend
from anyjob.backend import BackendConfig
from anyjob.store_backend import memory_backend
from anyjob.testing.conformance import InProcessHarness, ServerWorld
from anyjob_rq.frame import ENTRY, EnvelopeSerializer
from anyjob_rq.names import Names

__all__ = ["RQHarness", "RQWorld", "memory_harness"]


def memory_harness(make: Callable[[BackendConfig], StoreBackend] = memory_backend) -> InProcessHarness:
    """Return the harness of the in-memory backend, or of one that `make` makes over an `InMemoryJobStore`."""
    return InProcessHarness(make, _put_into_memory)


def _put_into_memory(store: JobStore, raw: bytes, queue: str) -> None:
    """Put what no envelope could be, in the place of one: nothing public lets such a thing in."""
    assert isinstance(store, InMemoryJobStore)
    now = store.clock.now()
    job_id = f"raw-{len(store._rows)}"  # noqa: SLF001
    store.insert([JobEnvelope(1, job_id, "raw", Raw(b"{}"), queue, JobPriority.NORMAL, now, now)])
    store._rows[job_id].raw = raw  # noqa: SLF001


class RQWorld(ServerWorld):
    def put(self, raw: bytes, *, queue: str = "default") -> None:
        self._queue(queue).enqueue(ENTRY, Raw(raw), job_id=self._native_id(), description="raw", **_AS_OURS)

    def put_hostile(self, path: Path) -> int:
        command, queue = f"touch {path}", self._queue("default")
        queue.enqueue("os.system", command, job_id=self._native_id(), **_AS_OURS)
        queue.enqueue("os.system", command)  # with RQ's own id, time limit and all
        raw = Raw(b"{}")
        on_success = Callback("os.system")
        queue.enqueue(ENTRY, raw, job_id=self._native_id(), on_success=on_success, on_failure=on_success, **_AS_OURS)
        job = queue.enqueue(ENTRY, raw, job_id=self._native_id(), **_AS_OURS)
        hook = [{"url": f"file://{path}", "statuses": ["finished", "failed"]}]
        self._redis.hset(job.key, "webhooks", json.dumps(hook))
        job = queue.enqueue(ENTRY, raw, job_id=self._native_id(), **_AS_OURS)
        self._redis.hset(job.key, "data", pickle.dumps(_Touch(path)))
        job = queue.enqueue(ENTRY, raw, job_id=self._native_id(), **_AS_OURS)
        self._redis.hset(job.key, "timeout", "abc")  # a stock worker dies of it
        job = queue.enqueue(ENTRY, raw, job_id=self._native_id(), **_AS_OURS)
        self._redis.hset(job.key, "meta", pickle.dumps(_Touch(path)))
        queue.push_job_id("no-such-job")
        return 8

    def clear(self) -> None:
        for key in self._redis.scan_iter(f"*{self.namespace}*", count=1000):
            self._redis.delete(key)
        for name in self._redis.smembers("rq:queues"):
            if self.namespace.encode() in name:
                self._redis.srem("rq:queues", name)
        self._redis.close()

    @property
    def _redis(self) -> Redis:
        if not hasattr(self, "_client"):
            self._client = Redis.from_url(self.url.removeprefix("rq+"))
        return self._client

    def _native_id(self) -> str:
        return Names(self.namespace).native_id(self.manager.prepare(self.probe("id")).id)

    def _queue(self, name: str) -> Queue:
        self._redis.sadd(f"{self.namespace}:queues", name)
        native = Names(self.namespace).queue(name, JobPriority.NORMAL)
        return Queue(native, connection=self._redis, serializer=EnvelopeSerializer)


class RQHarness(RedisHarness[RQWorld]):
    """RQ on a Redis of the tests' own, which they may kill."""

    library = "rq"
    world = RQWorld


class _Touch:
    """Pickled, it makes a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self._path,))


_AS_OURS = {"job_timeout": -1, "result_ttl": 0}
