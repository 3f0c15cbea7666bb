"""A message that says it is compressed: a bomb, for kombu unpacks it before anybody looks."""

from __future__ import annotations

import bz2
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from celery_worlds import CeleryRedisHarness, CeleryRedisWorld
from kombu import Connection, Consumer, Queue
from kombu import message as kombu_message
from servers import PrivateRedis

from anyjob_celery import RedisCeleryBackend
from anyjob_celery.frame import TASK
from anyjob_celery.redis_messages import HeldMessages
from anyjob_celery.redis_transport import JobTransport, TransportPart

pytestmark = pytest.mark.timeout(90)


@pytest.fixture(scope="module")
def harness(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CeleryRedisHarness]:
    harness = CeleryRedisHarness(PrivateRedis(tmp_path_factory.mktemp("redis")))
    yield harness
    harness.close()


@pytest.fixture
def world(harness: CeleryRedisHarness, tmp_path: Path) -> Iterator[CeleryRedisWorld]:
    with harness.open(tmp_path) as world:
        yield world


def item_of(body: bytes, compression: object) -> bytes:
    return json.dumps(
        {
            "body": body.hex(),
            "headers": {"task": TASK, "id": "bomb", "compression": compression},
            "content-type": "application/json",
            "content-encoding": "utf-8",
            "properties": {"delivery_tag": "x", "delivery_info": {}, "priority": 2},
        }
    ).encode()


@pytest.mark.parametrize(
    "compression",
    ["application/x-bz2", "bzip2", "zlib", "lzma", "zstd", "application/x-brotli", "none such", 7, ["bz2"]],
)
def test_what_says_that_it_is_compressed_is_never_unpacked(
    world: CeleryRedisWorld, monkeypatch: pytest.MonkeyPatch, compression: object
) -> None:
    unpacked: list[object] = []

    def unpack(body: bytes, kind: object) -> bytes:
        unpacked.append(kind)
        return body

    monkeypatch.setattr(kombu_message, "decompress", unpack)
    backend = world.manager.backend()
    assert isinstance(backend, RedisCeleryBackend)
    item = item_of(bz2.compress(bytes(1 << 20)), compression)
    backend.client.lpush(f"{world.namespace}:celery:default", item)
    options = {
        "global_keyprefix": f"{world.namespace}:celery:",
        "anyjob": TransportPart(HeldMessages(backend.messages, 10.0), threading.Event()),
    }
    got: list[Any] = []
    with (
        Connection(backend.url, transport=JobTransport, transport_options=options) as connection,
        Consumer(
            connection,
            [Queue("default")],
            on_message=got.append,
            on_decode_error=lambda message, error: got.append((message, error)),
        ),
    ):
        connection.drain_events(timeout=5)
    ((message, error),) = got
    assert unpacked == []
    assert "compressed" in str(error)
    assert message.item == item


def test_a_bomb_is_parked_as_it_came_and_its_neighbours_run(world: CeleryRedisWorld) -> None:
    item = item_of(bz2.compress(bytes(300 << 20)), "application/x-bz2")
    with world.client() as client:
        client.lpush(f"{world.namespace}:celery:default", item)
    world.enqueue("neighbour")
    world.start_worker()
    world.journal.wait(1)
    (parked,) = world.wait_parked()
    assert parked.raw == item
    assert parked.failure is not None
    assert "it is compressed" in parked.failure.message
