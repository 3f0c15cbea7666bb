"""A pika connection that survives messages which it can't decode, and whose end is seen at once. It relies on what pika
keeps to itself:

`BlockingConnection(_impl_class=...)`; `Connection._read_frame`, which takes the next frame off `_frame_buffer` by
`pika.frame.decode_frame`; and the socket, `BlockingConnection._impl._transport._sock`. There is no public way in.
"""

from __future__ import annotations

import select
import struct
from typing import Any, Final

from pika import BlockingConnection, ConnectionParameters, SelectConnection
from pika.exceptions import InvalidFrameError
from pika.frame import decode_frame
from pika.spec import FRAME_END, FRAME_END_SIZE, FRAME_HEADER_SIZE

from anyjob_amqp import FRAME_HEADER, telling_header

__all__ = ["is_cut", "open_connection"]


def open_connection(parameters: ConnectionParameters) -> BlockingConnection:
    """Return a connection that reads a message with undecodable properties as one that says so (`fault_in`)."""
    return BlockingConnection(parameters, _impl_class=_Connection)


def is_cut(connection: BlockingConnection) -> bool:
    """Whether the other side has closed the connection, asked of the system: pika hears of it when it reads next, and
    a process that was paused may go on before it does. Thread-safe.
    """
    transport = connection._impl._transport  # noqa: SLF001
    socket = None if transport is None else transport._sock  # noqa: SLF001
    if socket is None or socket.fileno() < 0:  # closed by this side
        return True
    poll = select.poll()
    poll.register(socket, _CLOSED)
    return bool(poll.poll(0))


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


# RDHUP, which Linux has, also where something is left to be read before the end.
_CLOSED: Final = getattr(select, "POLLRDHUP", 0) | select.POLLHUP | select.POLLERR
_FRAME: Final = struct.Struct(">BHL")
