"""Jobs in Redis, run by our own worker: a store and nothing else."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import timedelta

from anyjob.extend import (
    BackendConfig,
    JobInspector,
    ReadNative,
    StoreBackend,
    UnsupportedCapabilityError,
    check_versions,
)
from anyjob_redis.connection import connect, translated
from anyjob_redis.inspector import ON_REDIS
from anyjob_redis.skew import ClockSkew
from anyjob_redis.store import RedisJobStore

__all__ = ["RedisBackend", "root_of"]


def root_of(namespace: str) -> str:
    """Return the prefix of all keys of the plain backend: the same Redis may have other keys of the application."""
    return f"{namespace}:jobs"


class RedisBackend(StoreBackend):
    """The scheme is `redis:`, `rediss:` or `redis+unix:`; the rest of the URL, and `options`, are redis-py's."""

    store: RedisJobStore

    def __init__(self, config: BackendConfig) -> None:
        check_versions("redis")
        self.config = config
        self.client = connect(config, config.url.removeprefix("redis+"))
        store = RedisJobStore(
            self.client, root_of(config.namespace), config.clock, lease=config.lease, within=config.enqueue_timeout
        )
        capabilities = replace(
            ON_REDIS,
            unique_ids=True,
            # A lease, checked three times in its length, and a second to give the job back.
            redelivery_bound=timedelta(seconds=config.lease * 4 / 3 + 1),
            exact_loss_count=True,
            silence_bound=timedelta(seconds=config.lease * 2 / 3),  # renewal shares the interpreter with jobs
        )
        super().__init__(store, capabilities, lease=config.lease)

    def native_inspector(self, read: ReadNative, queues: Collection[str] | None = None) -> JobInspector:  # noqa: ARG002
        raise UnsupportedCapabilityError(
            f"Backend {self.config.alias!r} has keys of its own, which no application sends to by itself."
        )

    def look_for_risks(self) -> Sequence[str]:
        with translated():
            policy = str(self.client.info("memory").get("maxmemory_policy", ""))
        evicts = f"maxmemory-policy: {policy} drops jobs when Redis is full; set noeviction."
        return [*ClockSkew(self.client, self.config.clock).risks(), *([evicts] if policy.startswith("allkeys") else [])]
