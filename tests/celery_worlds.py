"""The conformance kit's worlds on Celery."""

from __future__ import annotations

import base64
import bz2
import json
import lzma
import pickle
import zlib
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
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


def celery_amqp_harness(folder: Path | None = None, conf: str = "") -> RabbitHarness:
    """Return the harness of Celery over RabbitMQ: given a folder, on a node of its own, else on the shared one."""
    return RabbitHarness("celery", CeleryAmqpWorld, folder, conf)


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
        *_foreign_tasks(path),
        *_strange_headers(),
        *_bombs(),
    ]


def _foreign_tasks(path: Path) -> Iterator[tuple[Mapping[str, Any], bytes]]:
    """Yield messages for other tasks, of both of Celery's protocols, and ours with what Celery would do besides."""
    body, ours = body_of(b"{}"), {"task": TASK, "id": "hostile", "lang": "py"}
    command = f"touch {path}"
    signature: dict[str, Any] = {
        "task": "os.system",
        "args": [command],
        "kwargs": {},
        "options": {},
        "subtask_type": None,
    }
    old = {"task": "os.system", "id": "x", "args": [command], "kwargs": {}, "retries": 0, "eta": None}
    for first in (old, {**old, "task": TASK}, {**old, "taskset": "x", "chord": signature}, {**old, "callbacks": 1}):
        yield _JSON, json.dumps(first).encode()
    for task in ("celery.chord", "celery.group", "celery.chain", "celery.starmap", "celery.backend_cleanup", "", "\0"):
        yield {**_JSON, "application_headers": {**ours, "task": task}}, json.dumps([[], signature, {}]).encode()
    for embed in ("callbacks", "errbacks", "chain", "chord"):
        after = signature if embed == "chord" else [signature]
        yield {**_JSON, "application_headers": ours}, json.dumps([[{}], {}, {embed: after}]).encode()
    yield {**_JSON, "application_headers": {**ours, "shadow": ["x"], "group": {}, "root_id": 7}}, body[:-1]
    yield {**_JSON, "application_headers": ours, "reply_to": "os.system"}, b"[[], {}, {}]"


def _strange_headers() -> Iterator[tuple[Mapping[str, Any], bytes]]:
    """Yield messages whose properties and headers are of types that no client would give them."""
    body, ours = body_of(b"{}"), {"task": TASK, "id": "hostile", "lang": "py"}
    for more in (
        {"id": 7},
        {"task": [TASK]},
        {"expires": "2001-01-01T00:00:00"},
        {"expires": "never"},
        {"eta": "9999-12-31T23:59:59+00:00"},
        {"retries": -1, "timelimit": ["x", "y"]},
        {"timelimit": "abc"},
        {"ignore_result": "x", "argsrepr": 7},
        {"stamps": {"x": 1}, "stamped_headers": "x"},
    ):
        yield {**_JSON, "application_headers": {**ours, **more}}, body
    for kind in ("application/x-yaml", "application/x-msgpack", "text/plain", "application/data", "x" * 200):
        yield {**_JSON, "content_type": kind, "application_headers": ours}, body
    yield {**_JSON, "content_encoding": "no-such-encoding", "application_headers": ours}, b"\xff\xfe"


@cache
def _bombs() -> Sequence[tuple[Mapping[str, Any], bytes]]:
    """Return messages of some kilobytes that unpack into 512 MB, by each means that kombu has without more packages."""
    megabytes, ours = bytes(2**24), {"task": TASK, "id": "hostile", "lang": "py"}
    packed = {
        "application/x-bz2": bz2.compress(megabytes) * 32,
        "application/x-lzma": lzma.compress(megabytes) * 32,
        "application/x-gzip": zlib.compress(bytes(2**29), 1),
    }
    return [
        ({**_JSON, "application_headers": {**ours, "compression": compression}}, body)
        for compression, body in packed.items()
    ]


_JSON: Mapping[str, Any] = {"content_type": "application/json", "content_encoding": "utf-8"}


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
