"""kombu's AMQP transport, except that it refuses undecodable and compressed messages."""

from __future__ import annotations

from typing import Any

import msgspec
from kombu.transport import pyamqp

from anyjob_amqp import fault_in, frame_handler
from anyjob_celery.frame import ForeignMessageError

__all__ = ["JobTransport", "SSLJobTransport"]


class _Message(pyamqp.Message):
    """A message as it was delivered. One with a fault gets to its consumer's `on_decode_error`."""

    def __init__(self, message: Any, **options: Any) -> None:
        fault = _fault_of(message.headers)
        if fault is not None:  # kombu unpacks a compressed message, to any size, unless it has an error
            self.errors = [(ForeignMessageError, ForeignMessageError(fault), None)]
        super().__init__(message, **options)

    @property
    def item(self) -> bytes | None:
        """The body of a message that can't be decoded otherwise."""
        try:
            msgspec.json.encode(self.headers, enc_hook=repr)
        except (TypeError, ValueError, RecursionError):  # the names in a table may be bytes
            return bytes(self.body or b"")
        return bytes(self.body or b"") if fault_in(self.headers) else None


def _fault_of(headers: Any) -> str | None:
    if headers and headers.get("compression"):
        return "it is compressed, which no message of anyjob is"
    return fault_in(headers)


class _Channel(pyamqp.Channel):
    Message = _Message

    def __init__(self, *args: Any, **options: Any) -> None:
        # A body is bytes, whatever its message says.
        super().__init__(*args, **{**options, "auto_decode": False})


class _Connection(pyamqp.Connection):
    Channel = _Channel

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{**options, "frame_handler": frame_handler})


class JobTransport(pyamqp.Transport):
    """For `amqp:`."""

    Connection = _Connection


class SSLJobTransport(pyamqp.SSLTransport):
    """For `amqps:`."""

    Connection = _Connection
