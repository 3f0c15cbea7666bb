"""Servers for tests: the shared ones, never stopped or flushed, and private ones that a test may kill."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from redis import Redis
from redis.exceptions import RedisError

from anyjob.testing.conformance.redis_server import PrivateRedis as PlainPrivateRedis
from anyjob.testing.conformance.redis_server import RedisHarness, free_port, program, unavailable

__all__ = ["PrivateRedis", "RedisHarness", "free_port", "program", "redis_url", "unavailable"]

_REDIS: Final = "redis://localhost:6379/0"


def redis_url() -> str:
    """Return the URL of the shared Redis, `ANYJOB_TEST_REDIS_URL`."""
    url = os.environ.get("ANYJOB_TEST_REDIS_URL", _REDIS)
    try:
        Redis.from_url(url, socket_timeout=2, socket_connect_timeout=2).ping()
    except RedisError as error:
        unavailable(f"no Redis at ANYJOB_TEST_REDIS_URL: {error}")
    return url


class PrivateRedis(PlainPrivateRedis):
    """The kit's, with a client."""

    @contextmanager
    def full(self) -> Iterator[None]:
        """Let it be out of memory (`noeviction`), in the body."""
        with self.client() as client:
            client.config_set("maxmemory", 1)
            try:
                yield
            finally:
                client.config_set("maxmemory", 0)

    def client(self) -> Redis:
        return Redis.from_url(self.url)
