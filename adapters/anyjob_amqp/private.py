"""Private parts of py-amqp, in one place.

tests/test_private_parts.py says when an upgrade changes any of it.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

from amqp import method_framing
from amqp.serialization import decode_properties_basic

__all__ = ["Frame", "decode_properties", "frame_reader", "socket_of"]

Frame = tuple[int, int, bytes]
"""Type, channel, payload."""


def frame_reader(connection: Any, callback: Callable[..., Any]) -> Callable[[Frame], Any]:
    """Return py-amqp's own reader of frames, for `Connection(frame_handler=...)` to surround."""
    reader: Callable[[Frame], Any] = method_framing.frame_handler(connection, callback)
    return reader


def decode_properties(payload: bytes, offset: int) -> None:
    """Decode a message's properties as py-amqp does, and raise its errors."""
    decode_properties_basic(payload, offset)


def socket_of(connection: Any) -> socket.socket:
    """Return the socket of an open connection, to ask the system about it and to wait for it."""
    found: socket.socket = connection.transport.sock
    return found
