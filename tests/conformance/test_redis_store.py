"""The store on Redis keeps what every store promises: on a server, and on what stands for one in tests."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import settings

pytest.importorskip("redis")

from redis import Redis
from servers import redis_url

from anyjob.base.clock import Clock
from anyjob.extend import JobStore
from anyjob.testing.conformance import StoreConformance
from anyjob.testing.conformance.store_machine import StoreMachine
from anyjob_redis import ListLayout, RedisJobStore

fakeredis = pytest.importorskip("fakeredis")

pytestmark = pytest.mark.timeout(300)


class _OnRedis(StoreConformance):
    @pytest.fixture(autouse=True)
    def _server(self) -> Iterator[None]:
        self.client, self.root = Redis.from_url(redis_url()), f"kit{secrets.token_hex(6)}"
        yield
        remove(self.client, self.root)

    def make_store(self, clock: Clock) -> JobStore:
        return RedisJobStore(self.client, self.root, clock)


class TestRedisJobStore(_OnRedis):
    """On the server that tests share."""


class TestFakeRedisJobStore(StoreConformance):
    """In memory, as an application's own tests may have it."""

    def make_store(self, clock: Clock) -> JobStore:
        return RedisJobStore(fakeredis.FakeRedis(), "kit", clock)


class FakeRedisMachine(StoreMachine):
    def make_store(self, clock: Clock) -> JobStore:
        return RedisJobStore(fakeredis.FakeRedis(), "kit", clock)


class RedisMachine(StoreMachine):
    def make_store(self, clock: Clock) -> JobStore:
        self.client, self.root = Redis.from_url(redis_url()), f"kit{secrets.token_hex(6)}"
        return RedisJobStore(self.client, self.root, clock)

    def teardown(self) -> None:
        remove(self.client, self.root)


TestFakeRedisMachine = FakeRedisMachine.TestCase
TestFakeRedisMachine.settings = settings(max_examples=30, stateful_step_count=40, deadline=None)

TestRedisMachine = RedisMachine.TestCase
TestRedisMachine.settings = settings(max_examples=100, stateful_step_count=50, deadline=None)


def remove(client: Any, root: str) -> None:
    """Remove what a store kept, and leave the server."""
    keys = list(client.scan_iter(f"{root}:*", 1000))
    if keys:
        client.delete(*keys)
    client.close()


class TestListLayout(_OnRedis):
    """Lists of ids, and hashes of messages."""

    def make_store(self, clock: Clock) -> JobStore:
        return RedisJobStore(self.client, self.root, clock, layout=ListLayout())


class ListMachine(RedisMachine):
    def make_store(self, clock: Clock) -> JobStore:
        self.client, self.root = Redis.from_url(redis_url()), f"kit{secrets.token_hex(6)}"
        return RedisJobStore(self.client, self.root, clock, layout=ListLayout())


TestListMachine = ListMachine.TestCase
TestListMachine.settings = settings(max_examples=100, stateful_step_count=50, deadline=None)
