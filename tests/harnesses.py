"""What the conformance kit is run on here: a harness for each backend."""

from __future__ import annotations

import json
import pickle
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from msgspec import Raw
from redis import Redis
from rq import Callback, Queue
from servers import RedisHarness

from anyjob import JobEnvelope, JobPriority
from anyjob.extend import JobStore, StoreBackend
from anyjob.seams.backend import BackendConfig
from anyjob.stores.memory import InMemoryJobStore
from anyjob.stores.store_backend import memory_backend
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
        fields, datas, ids = (
            _strange_fields(path),
            list(_strange_data(path)),
            (b"\xff\x00", b"a b", b"../x", b"*", b"%s"),
        )
        for name, value in fields:
            job = queue.enqueue(ENTRY, raw, job_id=self._native_id(), **_AS_OURS)
            self._redis.hset(job.key, name, value)
        for data in datas:
            job = queue.enqueue(ENTRY, raw, job_id=self._native_id(), **_AS_OURS)
            self._redis.hset(job.key, "data", data)
        for native_id in ids:
            self._redis.rpush(queue.key, native_id)
        return 8 + len(fields) + len(datas) + len(ids)

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


def _strange_fields(path: Path) -> Sequence[tuple[str, bytes | str]]:
    """Return fields of RQ's jobs, with values that a careless worker dies of, or obeys."""
    return [
        *((name, "os.system") for name in ("success_callback_name", "failure_callback_name", "stopped_callback_name")),
        *(("timeout", value) for value in ("1" * 400, "-2", "0", "NaN", b"\xff")),
        *(("result_ttl", value) for value in ("-1", "x", "1e300")),
        *(("retries_left", value) for value in ("9", "-1")),
        ("retry_intervals", "[]"),
        ("repeats_left", "9"),
        ("ttl", "1"),
        ("failure_ttl", "x"),
        ("group_id", "../x"),
        ("allow_dependency_failures", "1"),
        ("dependency_ids", json.dumps(["x"])),
        ("serializer", "rq.serializers.DefaultSerializer"),
        ("meta", pickle.dumps(_Touch(path))),
        ("exc_info", b"\xff" * 1_000),
        ("os.system", f"touch {path}"),
        ("x" * 100_000, "x"),
    ]


def _strange_data(path: Path) -> Iterator[bytes]:
    """Yield what may stand in the place of a call."""
    call = EnvelopeSerializer.dumps((ENTRY, None, [Raw(b"{}")], {}))
    others: list[tuple[Any, ...]] = [
        ("os.system", None, [f"touch {path}"], {}),
        (ENTRY, "x", [{}], {}),
        (ENTRY, None, [], {}),
    ]
    others += [(ENTRY, None, [{}, {}], {}), (ENTRY, None, [{}], {"more": 1}), ("", None, [{}], {})]
    for other in others:
        yield zlib.compress(json.dumps(other).encode())
    yield from (b"", b"\xff\xfe", call, zlib.compress(call)[:-4], zlib.compress(b""), zlib.compress(b"[" * 100_000))
    yield zlib.compress(pickle.dumps(("os.system", None, (f"touch {path}",), {})))
    yield pickle.dumps(_Touch(path))
    yield zlib.compress(zlib.compress(call))
    yield _bomb()


@cache
def _bomb() -> bytes:
    """Return what unpacks into 512 MB."""
    return zlib.compress(bytes(2**29), 1)


_AS_OURS = {"job_timeout": -1, "result_ttl": 0}
