"""Messages that an application sent past anyjob, into the native queue that jobs of ours are in as well."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import amqp
from celery_worlds import CeleryAmqpWorld, CeleryRedisWorld
from dramatiq_worlds import DramatiqAmqpWorld, DramatiqRedisWorld, message
from harnesses import RQWorld
from rabbit import RabbitWorld
from redis import Redis
from rq import Queue
from rq.serializers import JSONSerializer

from anyjob.testing.conformance import ServerWorld

__all__ = ["natives_of"]


class Natives(ABC):
    """Native messages, numbered."""

    @abstractmethod
    def put(self, numbers: Iterable[int]) -> None: ...

    @abstractmethod
    def read(self) -> Sequence[int]:
        """Return the numbers that are there, in their order."""


class _OnRQ(Natives):
    def __init__(self, world: RQWorld) -> None:
        self._prefix = f"{world.namespace}-native-"
        client = Redis.from_url(world.url.removeprefix("rq+"))
        self._queue = Queue(f"{world.namespace}:default:normal", connection=client, serializer=JSONSerializer)

    def put(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            self._queue.enqueue("os.getpid", job_id=f"{self._prefix}{number}")

    def read(self) -> Sequence[int]:
        return [int(each.removeprefix(self._prefix)) for each in self._queue.job_ids if each.startswith(self._prefix)]


class _OnCeleryRedis(Natives):
    def __init__(self, world: CeleryRedisWorld) -> None:
        self._client = world.client()
        self._key = f"{world.namespace}:celery:default\x06\x162"

    def put(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            headers, properties = _celery_message(number)
            body = json.dumps([[number], {}, {}])
            item = {"headers": headers, "body": body, "content-type": "application/json", "content-encoding": "utf-8"}
            self._client.lpush(self._key, json.dumps({**item, "properties": properties}))

    def read(self) -> Sequence[int]:
        items = map(json.loads, reversed(self._client.lrange(self._key, 0, -1)))
        return [int(each["headers"]["number"]) for each in items if "number" in each["headers"]]


class _OnDramatiqRedis(Natives):
    def __init__(self, world: DramatiqRedisWorld) -> None:
        self._world = world

    def put(self, numbers: Iterable[int]) -> None:
        with self._world.client() as client:
            for number in numbers:
                self._world.push(client, "default", message("default", number, actor="native"))

    def read(self) -> Sequence[int]:
        key = self._world.names.key("default.normal")
        with self._world.client() as client:
            ids = client.lrange(key, 0, -1)
            found = client.hmget(f"{key}.msgs", ids) if ids else []
        return [_number_of(data) for data in found if data is not None and b'"native"' in data]


class _OnAmqp(Natives):
    """Reading takes all messages of the queue and puts them back."""

    def __init__(self, world: RabbitWorld) -> None:
        self._world = world

    def put(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            self._world.publish(self._message(number), "default")

    def read(self) -> Sequence[int]:
        found = []
        with self._world.connect() as connection, connection.channel() as channel:
            while (got := channel.basic_get(self._world.names.queue("default"))) is not None:
                if (number := self._number(got)) is not None:
                    found.append(number)
        return found

    def _message(self, number: int) -> amqp.Message:
        headers, _ = _celery_message(number)
        json_ = {"content_type": "application/json", "content_encoding": "utf-8", "delivery_mode": 2, "priority": 2}
        return amqp.Message(json.dumps([[number], {}, {}]), application_headers=headers, **json_)

    def _number(self, got: amqp.Message) -> int | None:
        headers = got.headers or {}
        return int(headers["number"]) if "number" in headers else None


class _OnDramatiqAmqp(_OnAmqp):
    def _message(self, number: int) -> amqp.Message:
        return amqp.Message(message("default", number, actor="native"), delivery_mode=2, priority=2)

    def _number(self, got: amqp.Message) -> int | None:
        return _number_of(got.body) if b'"native"' in bytes(got.body) else None


def natives_of(world: ServerWorld) -> Natives:
    """Return the native messages in the queue `default` of a world, at the level of the jobs of no priority."""
    made: Natives = _NATIVES[type(world)](world)
    return made


def _celery_message(number: int) -> tuple[Mapping[str, object], Mapping[str, object]]:
    headers = {"task": "app.native", "id": f"native-{number}", "lang": "py", "number": number}
    properties = {"delivery_tag": f"native-{number}", "delivery_info": {}, "priority": 2, "delivery_mode": 2}
    return headers, properties


def _number_of(data: bytes) -> int:
    return int(json.loads(data)["args"][0])


_NATIVES: Final[Mapping[type[ServerWorld], type]] = {
    RQWorld: _OnRQ,
    CeleryRedisWorld: _OnCeleryRedis,
    CeleryAmqpWorld: _OnAmqp,
    DramatiqRedisWorld: _OnDramatiqRedis,
    DramatiqAmqpWorld: _OnDramatiqAmqp,
}
