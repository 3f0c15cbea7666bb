"""AMQP messages whose properties are given as bytes: what no client would write, and the broker passes on unread."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

import amqp
from amqp.spec import Basic

__all__ = ["BROKEN", "NO_TEXT", "STRANGE", "UNDECODABLE", "header_of", "publish_raw"]

_CONTENT_TYPE, _CONTENT_ENCODING, _HEADERS, _PRIORITY = 1 << 15, 1 << 14, 1 << 13, 1 << 11
_CORRELATION_ID, _MESSAGE_ID = 1 << 10, 1 << 7


def _table(entries: bytes) -> bytes:
    return struct.pack(">I", len(entries)) + entries


def _headers(entries: bytes) -> bytes:
    return struct.pack(">H", _HEADERS) + _table(entries)


def _deep(depth: int) -> bytes:
    """Return a table in a table in a table."""
    entries = b""
    for _ in range(depth):
        entries = b"\x01nF" + _table(entries)
    return entries


UNDECODABLE: Final[Sequence[bytes]] = [
    _headers(b"\x07sent_atT" + struct.pack(">Q", 1_764_000_000_000)),  # in milliseconds, as other languages write it
    _headers(b"\x07sent_atT" + b"\xff" * 8),
    _headers(b"\x04listA" + _table(b"T" + b"\xff" * 8)),
    _headers(_deep(3_000)),
]
"""Properties that the broker passes on, and neither py-amqp nor pika can decode."""

BROKEN: Final[Sequence[bytes]] = [
    _headers(b"\x01k?what"),  # no type of a field
    struct.pack(">HI", _HEADERS, 2**32 - 1) + b"\x01kV",  # breaks off
    struct.pack(">HI", _HEADERS, 40) + b"\x01kV",
    _headers(b"\xffkV"),
    _headers(b"\x04listA" + _table(b"?")),
    struct.pack(">H", _HEADERS),
]
"""Such as the broker minds, too: RabbitMQ 3.10 reads the properties of what is published over AMQP 0-9-1."""

NO_TEXT: Final[Sequence[bytes]] = [
    struct.pack(">H", flag) + b"\x04\xff\xfe\x00\x80" for flag in (_CORRELATION_ID, _MESSAGE_ID, _CONTENT_TYPE)
]
"""Properties that the broker passes on, and py-amqp alone can't decode."""

STRANGE: Final[Sequence[bytes]] = [
    _headers(b"\x02\xff\xfeS" + _table(b"a")),  # the name of a header is no text
    _headers(b"\x01nF" + _table(b"\x02\xff\xfeS" + _table(b"a"))),
    _headers(b"\x01D" + b"D\xff\x7f\xff\xff\xff"),
    _headers(b"\x04blobx" + _table(b"\xff\xfe")),
    _headers(_deep(300)),
    struct.pack(">H", _CONTENT_ENCODING | _PRIORITY) + b"\x05utf-7\xff",
]
"""Properties that can be decoded, or not, and hold what nobody expects."""


def header_of(properties: bytes, size: int) -> bytes:
    """Return the payload of a content header."""
    return struct.pack(">HHQ", Basic.CLASS_ID, 0, size) + properties


def publish_raw(channel: amqp.Channel, properties: bytes, body: bytes, key: bytes, *, exchange: bytes = b"") -> None:
    """Publish a message without a word of its being there: the caller waits for that."""
    method = (
        struct.pack(">HHH", *Basic.Publish, 0) + bytes([len(exchange)]) + exchange + bytes([len(key)]) + key + b"\0"
    )
    frames = [(1, method), (2, header_of(properties, len(body))), *([(3, body)] if body else [])]
    channel.connection.transport.write(
        b"".join(struct.pack(">BHI", kind, channel.channel_id, len(each)) + each + b"\xce" for kind, each in frames)
    )
