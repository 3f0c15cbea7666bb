"""The conformance kit's worlds on Redis alone."""

from __future__ import annotations

import pickle
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from redis import Redis
from servers import PrivateRedis, RedisHarness

from anyjob.base.envelope import id_in
from anyjob.testing.conformance import ServerWorld
from anyjob_redis.backend import root_of

__all__ = ["RedisWorld", "redis_harness"]


def redis_harness(folder: Path) -> PlainRedisHarness:
    """Return the harness of jobs in Redis alone, on a server of its own."""
    return PlainRedisHarness(PrivateRedis(folder))


class _RunsCode:
    """Pickled, it makes the file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def hostile_messages(path: Path) -> Iterator[bytes]:
    """Yield what is no envelope."""
    yield from (b"no JSON", b"\xff\xfe\x00", b"[" * 100_000, b"{}", b"null", b"\n", b'{"v":1}', b'{"v":99,"id":"x"}')
    yield pickle.dumps(_RunsCode(path))


class RedisWorld(ServerWorld):
    """A namespace on Redis."""

    @property
    def root(self) -> str:
        return root_of(self.namespace)

    def put(self, raw: bytes, *, queue: str = "default") -> None:
        with self.client() as client:
            self.push(client, queue, raw, id_in(raw) or secrets.token_hex(8))

    def put_hostile(self, path: Path) -> int:
        hostile = list(hostile_messages(path))
        with self.client() as client:
            for raw in hostile:
                self.push(client, "default", raw, secrets.token_hex(8))
            level = f"{self.root}:default.normal"
            client.zadd(level, {b"no-such-job": 1, b"\xff \x00 %s\n": 2, b"0000000000000001 gone": 3, b"": 4})
            for record in (b"", b"rubbish", b"w default normal 1 x - 0\n{}"):  # of what waits, as its level says
                job_id = secrets.token_hex(8)
                client.hset(f"{self.root}:jobs", job_id, record)
                client.zadd(level, {f"0000000000000001 {job_id}": 1})
        return len(hostile) + 4 + 3

    def clear(self) -> None:
        with self.client() as client:
            for key in client.scan_iter(f"{self.namespace}:*", 1000):
                client.delete(key)

    def client(self) -> Redis:
        return Redis.from_url(self.url.removeprefix("redis+"))

    def push(self, client: Redis, queue: str, raw: bytes, job_id: str) -> None:
        """Put bytes where a job's would be, in a record that is otherwise in order."""
        number = int(client.incr(f"{self.root}:number"))
        client.hset(f"{self.root}:jobs", job_id, b"w %s normal 1 %d - 0\n%s" % (queue.encode(), number, raw))
        client.zadd(f"{self.root}:order", {job_id: number})
        client.sadd(f"{self.root}:queues", queue)
        client.zadd(f"{self.root}:{queue}.normal", {f"{number:016d} {job_id}": 1})


class PlainRedisHarness(RedisHarness[RedisWorld]):
    """The worlds on a Redis of their own."""

    library = ""
    world = RedisWorld
