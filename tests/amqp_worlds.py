"""The conformance kit's worlds on RabbitMQ alone."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import amqp
import msgspec
from rabbit import RabbitHarness, RabbitWorld
from raw_amqp import STRANGE, UNDECODABLE

from anyjob_amqp import AmqpNames
from anyjob_amqp.backend import names_of

__all__ = ["AmqpWorld", "amqp_harness"]


def amqp_harness(folder: Path | None = None, conf: str = "") -> RabbitHarness:
    """Return the harness of plain RabbitMQ: given a folder, on a node of its own, else on the shared one."""
    return RabbitHarness(None, AmqpWorld, folder, conf)


class AmqpWorld(RabbitWorld):
    """A namespace on RabbitMQ."""

    @property
    def names(self) -> AmqpNames:
        return names_of(self.namespace)

    def put(self, raw: bytes, *, queue: str = "default") -> None:
        self.publish(amqp.Message(raw, delivery_mode=2, priority=2), queue)

    def put_hostile(self, path: Path) -> int:
        hostile = list(_hostile(path))
        for message in hostile:
            self.publish(message, "default")
        return len(hostile) + self.publish_raw([*UNDECODABLE], b"{}", "default") + self._put_strange()

    def _put_strange(self) -> int:
        return self.publish_raw([*STRANGE], b"{}", "default")


class _RunsCode:
    """Pickled, it makes the file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def _hostile(path: Path) -> Iterator[amqp.Message]:
    """Yield messages that a careless worker dies of, or obeys."""
    bodies = [b"", b"no JSON", b"\xff\xfe\x00", b"[" * 100_000, b"{}", b"[]", b"7", pickle.dumps(_RunsCode(path))]
    bodies.append(msgspec.json.encode({"task": "os.system", "args": [f"touch {path}"], "kwargs": {}}))
    for body in bodies:
        yield amqp.Message(body, delivery_mode=2, priority=2)
    pickled = pickle.dumps(_RunsCode(path))
    yield amqp.Message(pickled, content_type="application/x-python-serialize", content_encoding="binary")
    yield amqp.Message(b"{}", content_encoding="no-such-encoding", application_headers={"task": "os.system"})
    yield amqp.Message(b"{}", application_headers={"compression": "application/x-bz2"}, priority=255)
    yield amqp.Message(b"{}", message_id="x" * 255, correlation_id="\x00", expiration=None, reply_to="../x")
