"""The conformance kit's worlds on Celery."""

from __future__ import annotations

import base64
import json
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import amqp
import redis
from rabbit import RabbitHarness, RabbitWorld
from raw_amqp import NO_TEXT, STRANGE, UNDECODABLE
from servers import PrivateRedis, RedisHarness

from anyjob.testing.conformance import ServerWorld
from anyjob_amqp import AmqpNames
from anyjob_celery.frame import TASK, body_of

__all__ = ["celery_amqp_harness", "celery_redis_harness"]


def celery_amqp_harness(folder: Path | None = None) -> RabbitHarness:
    """Return the harness of Celery over RabbitMQ: given a folder, on a node of its own, else on the shared one."""
    return RabbitHarness("celery", CeleryAmqpWorld, folder)


def celery_redis_harness(folder: Path) -> CeleryRedisHarness:
    """Return the harness of Celery over Redis, on a server of its own."""
    return CeleryRedisHarness(PrivateRedis(folder))


class _RunsCode:
    """Pickled, it makes the file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def hostile_frames(path: Path) -> Sequence[tuple[Mapping[str, Any], bytes]]:
    """Return properties and bodies of messages that a careless Celery worker dies of, drops, or runs."""
    body = body_of(b"{}")
    ours = {"task": TASK, "id": "hostile", "lang": "py"}
    json_ = {"content_type": "application/json", "content_encoding": "utf-8"}
    command = f"touch {path}"
    signature = {"task": "celery.map", "args": [{"task": "os.system", "args": [command]}, [[command]]], "kwargs": {}}
    return [
        (json_, body),  # no headers
        ({**json_, "application_headers": {"task": 7, "id": "x"}}, body),
        ({**json_, "application_headers": {"task": TASK}}, body),  # no id
        ({**json_, "application_headers": {"task": "os.system", "id": "x"}}, json.dumps([[command], {}, {}]).encode()),
        ({**json_, "application_headers": {"task": "celery.map", "id": "x"}}, json.dumps([[], signature, {}]).encode()),
        ({**json_, "application_headers": ours}, json.dumps([[{}], {}, {"callbacks": [signature]}]).encode()),
        ({**json_, "application_headers": ours}, json.dumps([[{}], {"more": 1}, {}]).encode()),
        ({**json_, "application_headers": ours}, b"\x00\xff no JSON"),
        ({**json_, "application_headers": ours}, b"[" * 100_000),
        ({**json_, "application_headers": ours}, b""),
        ({**json_, "application_headers": {**ours, "eta": "the day after"}}, body),
        ({**json_, "application_headers": {**ours, "compression": "application/x-gzip"}}, b"no gzip"),
        (
            {"content_type": "application/x-python-serialize", "content_encoding": "binary", "application_headers": {}},
            pickle.dumps(_RunsCode(path)),
        ),
        (
            {"content_type": "application/x-python-serialize", "application_headers": ours},
            pickle.dumps(_RunsCode(path)),
        ),
    ]


class CeleryAmqpWorld(RabbitWorld):
    """A namespace on RabbitMQ."""

    @property
    def names(self) -> AmqpNames:
        return AmqpNames(self.namespace)

    @property
    def exchanges(self) -> Sequence[str]:
        return (f"{self.namespace}:events", f"{self.namespace}.pidbox", f"reply.{self.namespace}.pidbox")

    def put(self, raw: bytes, *, queue: str = "default") -> None:
        headers = {"task": TASK, "id": "put", "lang": "py"}
        self._publish(
            {"content_type": "application/json", "content_encoding": "utf-8", "application_headers": headers},
            body_of(raw),
            queue,
        )

    def put_hostile(self, path: Path) -> int:
        frames = hostile_frames(path)
        for properties, body in frames:
            self._publish(properties, body, "default")
        return len(frames) + self.publish_raw([*UNDECODABLE, *NO_TEXT, *STRANGE], body_of(b"{}"), "default")

    def _publish(self, properties: Mapping[str, Any], body: bytes, queue: str) -> None:
        self.publish(amqp.Message(body, delivery_mode=2, **properties), queue)


class CeleryRedisWorld(ServerWorld):
    """A namespace on Redis."""

    def put(self, raw: bytes, *, queue: str = "default") -> None:
        headers = {"task": TASK, "id": "put", "lang": "py"}
        self._push(_item({"content_type": "application/json", "application_headers": headers}, body_of(raw)), queue)

    def put_hostile(self, path: Path) -> int:
        broken = [
            b"",
            b"\x00\xff no text",
            b"[]",
            b"{}",
            b'"text"',
            b"[" * 100_000,
            b'{"body":"","headers":[],"properties":{}}',
            b'{"body":1,"headers":{},"properties":{},"content-type":null,"content-encoding":null}',
            json.dumps({**json.loads(_item(*hostile_frames(path)[1])), "body": "no base64 \u00e9"}).encode(),
        ]
        items = [*broken, *(_item(properties, body) for properties, body in hostile_frames(path))]
        for item in items:
            self._push(item, "default")
        return len(items)

    def clear(self) -> None:
        with self.client() as client:
            for key in client.scan_iter(f"{self.namespace}:*", 1000):
                client.delete(key)

    def _push(self, item: bytes, queue: str) -> None:
        with self.client() as client:
            client.lpush(f"{self.namespace}:celery:{queue}\x06\x162", item)

    def client(self) -> redis.Redis:
        return redis.Redis.from_url(self.url.partition("+")[2])


def _item(properties: Mapping[str, Any], body: bytes) -> bytes:
    """Return what kombu puts into a list of Redis for such a message."""
    return json.dumps(
        {
            "body": base64.b64encode(body).decode(),
            "headers": properties.get("application_headers", {}),
            "content-type": properties["content_type"],
            "content-encoding": properties.get("content_encoding"),
            "properties": {"body_encoding": "base64", "delivery_tag": "x", "delivery_info": {}, "priority": 2},
        }
    ).encode()


class CeleryRedisHarness(RedisHarness[CeleryRedisWorld]):
    """Celery's worlds on a Redis of their own."""

    library = "celery"
    world = CeleryRedisWorld
