"""A pika connection that survives messages which it can't decode. It relies on what pika keeps to itself:

`BlockingConnection(_impl_class=...)`, and `Connection._read_frame`, which takes the next frame off `_frame_buffer` by
`pika.frame.decode_frame`. There is no public way in.
"""

from __future__ import annotations

import struct
from typing import Any, Final

from pika import BlockingConnection, ConnectionParameters, SelectConnection
from pika.exceptions import InvalidFrameError
from pika.frame import decode_frame
from pika.spec import FRAME_END, FRAME_END_SIZE, FRAME_HEADER_SIZE

from anyjob_amqp import FRAME_HEADER, telling_header

__all__ = ["open_connection"]


def open_connection(parameters: ConnectionParameters) -> BlockingConnection:
    """Return a connection that reads a message with undecodable properties as one that says so (`fault_in`)."""
    return BlockingConnection(parameters, _impl_class=_Connection)


class _Connection(SelectConnection):  # type: ignore[misc]  # pika is untyped
    def _read_frame(self) -> tuple[int, Any]:
        try:
            return decode_frame(self._frame_buffer)  # type: ignore[no-any-return]
        except InvalidFrameError:
            raise  # this is no frame at all
        except Exception as error:
            kind, channel, size = _FRAME.unpack_from(self._frame_buffer)
            if kind != FRAME_HEADER:
                raise
            told = telling_header(self._frame_buffer[FRAME_HEADER_SIZE : FRAME_HEADER_SIZE + size], error)
            _, frame = decode_frame(_FRAME.pack(kind, channel, len(told)) + told + bytes([FRAME_END]))
            return FRAME_HEADER_SIZE + size + FRAME_END_SIZE, frame


_FRAME: Final = struct.Struct(">BHL")
