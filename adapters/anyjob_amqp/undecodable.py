"""Reads messages whose frames a client can't decode, instead of ending the connection.

The broker passes on a producer's frames unread: a timestamp in milliseconds, a text that is no UTF-8, a table that
breaks off. A client that raises at such a frame drops its connection, the message is redelivered, and so on for ever.
So the frame is replaced, before it is decoded, by one that says what was wrong, and the message can be parked.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import Any, Final

from amqp import spec

from anyjob_amqp.private import Frame, decode_properties, frame_reader

__all__ = ["FRAME_HEADER", "fault_in", "frame_handler", "telling_header"]

FRAME_HEADER: Final = 2
"""The type of the frame that holds a message's properties."""

_FAULT: Final = "anyjob-undecodable"


def fault_in(headers: object) -> str | None:
    """Return why a message's properties could not be decoded, None if they could."""
    fault = headers.get(_FAULT) if isinstance(headers, Mapping) else None
    return None if fault is None else f"its properties can't be decoded: {fault}"


def telling_header(payload: bytes, error: Exception) -> bytes:
    """Return the payload of a decodable content header, which says why the given one can't be decoded."""
    fault = f"{type(error).__name__}: {error}".encode(errors="replace")[:_LONGEST_FAULT]
    name = _FAULT.encode()
    table = bytes([len(name)]) + name + b"S" + struct.pack(">I", len(fault)) + fault
    return payload[:_SIZES] + struct.pack(">HI", _HAS_HEADERS, len(table)) + table


def frame_handler(connection: Any, callback: Callable[..., Any]) -> Callable[[Frame], Any]:
    """Be py-amqp's reader of frames, as `Connection(frame_handler=...)`."""
    read = frame_reader(connection, callback)

    def on_frame(frame: Frame) -> Any:
        kind, channel, payload = frame
        if kind == _FRAME_METHOD:
            names_at = _NAMES_AT.get(payload[:4])
            return read(frame if names_at is None else (kind, channel, _readable(payload, names_at(payload))))
        if kind != FRAME_HEADER:
            return read(frame)
        try:
            return read(frame)
        except Exception as error:
            if _can_be_decoded(payload):
                raise  # in the caller that got the message
            return read((kind, channel, telling_header(payload, error)))

    return on_frame


def _can_be_decoded(payload: bytes) -> bool:
    try:
        decode_properties(payload, _SIZES)
    except Exception:  # noqa: BLE001  # whatever bytes can make it raise
        return False
    return True


def _readable(payload: bytes, at: int) -> bytes:
    """Return a delivery whose exchange and routing key, from `at` on, are texts: both may be any bytes."""
    if payload[at:].isascii():
        return payload
    readable = bytearray(payload)
    for _ in range(2):
        begin, at = at + 1, at + 1 + payload[at]
        readable[begin:at] = payload[begin:at].decode("ascii", "replace").replace("\ufffd", "?").encode()
    return bytes(readable)


_LONGEST_FAULT: Final = 300
_SIZES: Final = 12
"""The bytes before the properties: class, weight and size of the body."""
_HAS_HEADERS: Final = 1 << 13
_FRAME_METHOD: Final = 1
_NAMES_AT: Final[Mapping[bytes, Callable[[bytes], int]]] = {
    struct.pack(">HH", *spec.Basic.Deliver): lambda payload: 4 + 1 + payload[4] + 9,
    struct.pack(">HH", *spec.Basic.GetOk): lambda _: 4 + 9,
}
