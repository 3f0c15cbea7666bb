"""The conformance kit's worlds on Dramatiq."""

from __future__ import annotations

import pickle
import secrets
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import amqp
import msgspec
from msgspec import Raw
from rabbit import RabbitHarness, RabbitWorld
from raw_amqp import STRANGE, UNDECODABLE
from redis import Redis
from servers import PrivateRedis, RedisHarness

from anyjob.testing.conformance import ServerHarness, ServerWorld
from anyjob_amqp import AmqpNames
from anyjob_dramatiq.amqp_backend import names_of
from anyjob_dramatiq.names import Names, root_of

__all__ = ["dramatiq_amqp_harness", "dramatiq_harness", "dramatiq_redis_harness"]


def dramatiq_redis_harness(folder: Path) -> DramatiqRedisHarness:
    """Return the harness of Dramatiq on Redis, on a server of its own."""
    return DramatiqRedisHarness(PrivateRedis(folder))


def dramatiq_amqp_harness(folder: Path | None = None, conf: str = "") -> RabbitHarness:
    """Return the harness of Dramatiq on RabbitMQ: given a folder, on a node of its own, else on the shared one."""
    return RabbitHarness("dramatiq", DramatiqAmqpWorld, folder, conf)


def dramatiq_harness(transport: str, folder: Path) -> ServerHarness:
    """Return the harness on a Redis of its own, or on the shared RabbitMQ: for tests that kill no server."""
    return dramatiq_redis_harness(folder) if transport == "redis" else dramatiq_amqp_harness()


class _RunsCode:
    """Pickled, it makes the file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def message(queue: str, *args: object, actor: str = "x", **options: object) -> bytes:
    """Return a message as Dramatiq writes it."""
    fields = {"queue_name": queue, "actor_name": actor, "args": args, "kwargs": {}, "options": options}
    return msgspec.json.encode({**fields, "message_id": "x", "message_timestamp": 0})


def hostile_messages(path: Path) -> Iterator[bytes]:
    """Yield messages that a careless Dramatiq worker is stranded by, or obeys."""
    command = f"touch {path}"
    yield b""
    yield b"no JSON"
    yield b"\xff\xfe\x00"
    yield b"[" * 100_000
    yield b"{}"
    yield pickle.dumps(_RunsCode(path))
    yield message("default")
    yield message("default", {}, {})
    yield message("no-such-queue", command, actor="os.system")
    target = {"queue_name": "default", "actor_name": "os.system", "args": [command], "kwargs": {}, "options": {}}
    options: list[dict[str, Any]] = [{"pipe_target": target}, {"on_success": "os.system"}, {"on_failure": "os.system"}]
    options += [{"eta": 2**60}, {"eta": "x"}, {"time_limit": "x"}, {"max_age": 1}, {"max_retries": 9}]
    options += [{"throws": "x", "on_retry_exhausted": "os.system", "retries": -1}]
    options += [{"group_completion_uuid": "x", "group_completion_callbacks": [target]}]
    options += [{"redis_message_id": 7}, {"requeue_timestamp": "x", "current_message": target}, {"on_success": [1]}]
    options += [{"": 0}, {"priority": -(2**70)}, {"eta": -1e300}, {"traceback": "x" * 100_000}, {"pipe_ignore": "x"}]
    for each in options:
        yield message("default", {}, **each)
    yield from _strange_fields(command)


def _strange_fields(command: str) -> Iterator[bytes]:
    """Yield messages with a field that is missing, of another type, or there twice."""
    whole = msgspec.json.decode(message("default", {}))
    for field in whole:
        yield msgspec.json.encode({name: value for name, value in whole.items() if name != field})
    wrong: dict[str, Any] = {"queue_name": 7, "actor_name": ["x"], "args": "x", "kwargs": [], "options": "x"}
    wrong |= {"message_timestamp": "now"}
    for field, value in wrong.items():
        yield msgspec.json.encode({**whole, field: value})
        yield msgspec.json.encode({**whole, field: None})
    yield msgspec.json.encode({**whole, "kwargs": {"command": command}, "actor_name": "subprocess.run"})
    yield msgspec.json.encode({**whole, "args": [{}, command]})
    yield msgspec.json.encode([whole])
    yield msgspec.json.encode(whole)[:-2]
    yield msgspec.json.encode(whole)[:-1] + b',"args":[],"args":[1,2]}'
    yield b"\xef\xbb\xbf" + msgspec.json.encode(whole)
    yield zlib.compress(msgspec.json.encode(whole))


class DramatiqRedisWorld(ServerWorld):
    """A namespace on Redis."""

    @property
    def names(self) -> Names:
        return Names(root_of(self.namespace))

    def put(self, raw: bytes, *, queue: str = "default") -> None:
        with self.client() as client:
            self.push(client, queue, message(queue, Raw(raw)))

    def put_hostile(self, path: Path) -> int:
        hostile = [data for data in hostile_messages(path) if data]
        with self.client() as client:
            for data in hostile:
                self.push(client, "default", data)
            level = self.names.key("default.normal")
            for native_id in (b"no-such-message", b"\xff \x00 %s\n"):
                client.rpush(level, native_id)
        return len(hostile) + 2

    def clear(self) -> None:
        with self.client() as client:
            for key in client.scan_iter(f"{self.namespace}:*", 1000):
                client.delete(key)

    def client(self) -> Redis:
        return Redis.from_url(self.url.partition("+")[2])

    def push(self, client: Redis, queue: str, data: bytes) -> None:
        level, native_id = self.names.key(f"{queue}.normal"), secrets.token_hex(8)
        client.hset(f"{level}.msgs", native_id, data)
        client.rpush(level, native_id)


class DramatiqRedisHarness(RedisHarness[DramatiqRedisWorld]):
    """Dramatiq's worlds on a Redis of their own."""

    library = "dramatiq"
    world = DramatiqRedisWorld


class DramatiqAmqpWorld(RabbitWorld):
    """A namespace on RabbitMQ."""

    @property
    def names(self) -> AmqpNames:
        return names_of(self.namespace)

    def put(self, raw: bytes, *, queue: str = "default") -> None:
        self._publish(message(queue, Raw(raw)), queue)

    def put_hostile(self, path: Path) -> int:
        hostile = list(hostile_messages(path))
        for data in hostile:
            self._publish(data, "default")
        return len(hostile) + self.publish_raw([*UNDECODABLE, *STRANGE], message("default", {}), "default")

    def _publish(self, body: bytes, queue: str) -> None:
        self.publish(amqp.Message(body, delivery_mode=2, priority=2), queue)
