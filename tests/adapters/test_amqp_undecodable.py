"""What comes over AMQP and can't be decoded: it ends no connection, it is parked, and everything else goes on."""

from __future__ import annotations

import bz2
import random
import secrets
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import amqp
import pytest
from amqp.spec import Basic
from amqp_worlds import amqp_harness
from celery_worlds import celery_amqp_harness
from dramatiq_worlds import dramatiq_amqp_harness
from rabbit import RabbitHarness, RabbitWorld, amqp_url
from raw_amqp import BROKEN, NO_TEXT, STRANGE, UNDECODABLE, header_of, publish_raw

from anyjob.seams.stored import JobState
from anyjob.testing.conformance.fixtures import move
from anyjob.testing.probes.journal import wait_until
from anyjob_amqp import AmqpNames, Links, fault_in, frame_handler, read_url
from anyjob_celery.frame import TASK, body_of

pytestmark = pytest.mark.timeout(90)

ALL = [*UNDECODABLE, *BROKEN, *NO_TEXT, *STRANGE]
READABLE = struct.pack(">H", 1 << 7) + b"\x02id"


def delivery(routing_key: bytes = b"key") -> bytes:
    """Return the payload of a method frame that announces a message."""
    return struct.pack(">HH", *Basic.Deliver) + b"\x03tag" + b"\xff" * 8 + b"\0" + b"\0" + _short(routing_key)


def _short(text: bytes) -> bytes:
    return bytes([len(text)]) + text


def read_by_py_amqp(*properties: bytes) -> list[amqp.Message]:
    """Return the messages that py-amqp makes of such headers, one after the other."""
    got: list[amqp.Message] = []
    on_frame = frame_handler(
        SimpleNamespace(bytes_recv=0), lambda _channel, _method, _args, message: got.append(message)
    )
    for each in properties:
        on_frame((1, 1, delivery()))
        on_frame((2, 1, header_of(each, 4)))
        on_frame((3, 1, b"body"))
    return got


def test_a_header_that_cant_be_decoded_says_so() -> None:
    for each in (*UNDECODABLE, *BROKEN):
        (told,) = read_by_py_amqp(each)
        assert (fault_in(told.headers) or "").startswith("its properties can't be decoded: ")
    for each in READABLE, b"\0\0":
        (told,) = read_by_py_amqp(each)
        assert fault_in(told.headers) is None


def test_no_bytes_stop_a_reader() -> None:
    random_ = random.Random(12)
    for _ in range(3_000):
        damaged = bytearray(random_.choice(ALL)[:200])
        for _ in range(random_.randint(1, 6)):
            damaged[random_.randrange(len(damaged))] = random_.randrange(256)
        _, neighbour = read_by_py_amqp(bytes(damaged[: random_.randint(2, len(damaged))]), READABLE)
        assert getattr(neighbour, "message_id", None) == "id"


def test_what_the_receiver_of_a_message_raises_is_raised() -> None:
    def raising(*_: object) -> None:
        raise UnicodeError("from the receiver")

    on_frame = frame_handler(SimpleNamespace(bytes_recv=0), raising)
    on_frame((1, 1, delivery()))
    with pytest.raises(UnicodeError, match="from the receiver"):
        on_frame((2, 1, header_of(READABLE, 0)))


def test_a_routing_key_may_be_any_bytes() -> None:
    names, exchange = AmqpNames(f"shared{secrets.token_hex(4)}"), f"x{secrets.token_hex(4)}"
    links = Links(read_url(amqp_url(), "tests"), 5.0, {})
    with closing(links), links.link() as link, link.connection.channel() as channel:
        channel.queue_declare(names.queue("mail"), exclusive=True)
        channel.exchange_declare(exchange, "topic", auto_delete=True)
        channel.queue_bind(names.queue("mail"), exchange, "#.mail")
        publish_raw(channel, READABLE, b"", b"\xff\xfe.mail", exchange=exchange.encode())
        message = wait_until(lambda: channel.basic_get(names.queue("mail")), what="the message")
        assert message.delivery_info["routing_key"] == "??.mail"


@pytest.fixture(scope="module", params=["plain", "celery", "dramatiq"])
def harness(request: pytest.FixtureRequest) -> Iterator[RabbitHarness]:
    makers = {"plain": amqp_harness, "celery": celery_amqp_harness, "dramatiq": dramatiq_amqp_harness}
    harness = makers[request.param]()
    yield harness
    harness.close()


@pytest.fixture
def worlds(harness: RabbitHarness, tmp_path: Path) -> Iterator[Callable[[], RabbitWorld]]:
    with ExitStack() as stack:

        def open_() -> RabbitWorld:
            world = stack.enter_context(harness.open(_new(tmp_path)))
            assert isinstance(world, RabbitWorld)
            return world

        yield open_


def _new(folder: Path) -> Path:
    made = folder / secrets.token_hex(4)
    made.mkdir()
    return made


def test_a_move_goes_past_it(worlds: Callable[[], RabbitWorld]) -> None:
    source, destination = worlds(), worlds()
    source.enqueue("before")
    count = source.publish_raw([*UNDECODABLE, *NO_TEXT, *STRANGE], b"\xff no job", "default")
    source.enqueue("after")
    report = move(("from", source.manager.backend()), ("to", destination.manager.backend()))
    assert (report.moved, report.foreign) == (2, count)
    assert destination.manager.inspect().count()[JobState.WAITING] == 2


def test_a_parked_one_is_kept_to_the_byte(worlds: Callable[[], RabbitWorld]) -> None:
    world = worlds()
    body = b"\xff\x00 its body"
    world.publish_raw(UNDECODABLE[:1], body, "default")
    world.start_worker()
    (parked,) = world.wait_parked()
    assert parked.raw == body
    assert parked.failure is not None
    assert "can't be decoded" in parked.failure.message


# Celery alone


@pytest.fixture
def celery_world(tmp_path: Path) -> Iterator[Any]:
    harness = celery_amqp_harness()
    with harness.open(tmp_path) as world:
        yield world
    harness.close()


def test_what_says_that_it_is_compressed_is_not_unpacked(celery_world: Any) -> None:
    bomb = bz2.compress(bytes(300 << 20))
    headers = {"task": TASK, "id": "bomb", "compression": "application/x-bz2"}
    celery_world.publish(amqp.Message(bomb, application_headers=headers, content_type="application/json"), "default")
    celery_world.enqueue("after")
    celery_world.start_worker()
    (parked,) = celery_world.wait_parked()
    celery_world.journal.wait(1)
    assert "it is compressed" in parked.failure.message


def test_strange_headers_beside_ours_stop_no_worker(celery_world: Any) -> None:
    deep: dict[str, Any] = {}
    for _ in range(300):
        deep = {"n": deep}
    headers = {"task": TASK, "id": "deep", "lang": "py", "more": deep}
    celery_world.publish(amqp.Message(body_of(b"{}"), application_headers=headers), "default")
    celery_world.enqueue("after")
    celery_world.start_worker()
    celery_world.wait_parked()
    celery_world.journal.wait(1)
