"""The native message: an RQ job around the envelope's bytes. A message that isn't exactly that never runs."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any, Final, NoReturn

import msgspec
from msgspec import Raw

from anyjob.extend import UNREADABLE, ConfigurationError

__all__ = ["ENTRY", "LONGEST_DATA", "EnvelopeSerializer", "execute", "find_fault", "unpack"]

ENTRY: Final = "anyjob_rq.frame.execute"
"""The only function that a job of ours ever names. Our workers know it and import nothing."""

LONGEST_DATA: Final = 64 * 1024 * 1024
"""Bytes of the unpacked message at most; a small message could unpack into more than there is memory."""


def execute(_envelope: object) -> NoReturn:
    """Say what is wrong: RQ's own worker class took the job and imported this."""
    raise ConfigurationError("This is a job of anyjob's: run it by `rq worker -w anyjob_rq.RQJobWorker`.")


class EnvelopeSerializer:
    """RQ's serializer of our jobs: JSON in which the envelope's bytes stand as they are, behind a label for monitors.

    Monitors unpickle the data that they show, rq-dashboard even if it is told to read JSON, and fail if they can't. So
    the label is a pickle, of a call of `ENTRY` with the job's name; an unpickler does not read the bytes behind it.
    This serializer unpickles and imports nothing.
    """

    @staticmethod
    def dumps(value: Any, /) -> bytes:
        call = msgspec.json.encode(value)
        return _label_of(call) + call

    @staticmethod
    def loads(data: bytes, /) -> Any:
        return msgspec.json.decode(_call_in(data))


class _Named(msgspec.Struct):
    name: str


_name_in: Final = msgspec.json.Decoder(tuple[Any, None, tuple[_Named], dict[str, Any]])


def _label_of(call: bytes) -> bytes:
    try:
        name = _name_in.decode(call)[2][0].name.encode()
    except UNREADABLE:
        name = b""
    return b"".join((_LABEL, len(name).to_bytes(4, "little"), name, _LABEL_END))


def _call_in(message: bytes) -> bytes:
    """Return the bytes behind the label; the whole message if it has none."""
    begin = len(_LABEL) + 4
    end = begin + int.from_bytes(message[len(_LABEL) : begin], "little")
    if message.startswith(_LABEL) and message.startswith(_LABEL_END, end):
        return message[end + len(_LABEL_END) :]
    return message


def _pickled(text: str) -> bytes:
    return b"X" + len(text).to_bytes(4, "little") + text.encode()


_LABEL: Final = b"\x80\x02(" + _pickled(ENTRY) + b"NX"
_LABEL_END: Final = b"\x85}t."
_PREFIX, _SUFFIX = msgspec.json.encode((ENTRY, None, [Raw(b"0")], {})).split(b"0")


def unpack(data: bytes) -> tuple[bytes, str | None]:
    """Return the envelope's bytes in a job's `data`; or, if that is no message of ours, `data` itself and why not.

    Nothing is decoded: the frame is the same for every job, and its contents are returned as they are, JSON or not.
    """
    unpacker = zlib.decompressobj()
    try:
        message = unpacker.decompress(data, LONGEST_DATA)
    except zlib.error:
        return data, "Its data is not what RQ's compression makes."
    if unpacker.unconsumed_tail:
        return data, f"Its data unpacks into more than {LONGEST_DATA:,} bytes."
    call = _call_in(message)
    if call is message or not (call.startswith(_PREFIX) and call.endswith(_SUFFIX)):
        return message, f"It is no call of {ENTRY} with one envelope, and nothing else is run here."
    return call[len(_PREFIX) : len(call) - len(_SUFFIX)], None


def find_fault(fields: Mapping[bytes, bytes]) -> str | None:
    """Return how a job's fields differ from those that we write and RQ maintains; None if they don't."""
    for name, value in fields.items():
        if name in _FREE or _FIXED.get(name) == value:
            continue
        if name in _FIXED:
            return f"Its field {name.decode()} is not {_FIXED[name]!r}."
        return f"Its field {name[:40]!r} is none that a job of ours has."
    missing = _FIXED.keys() - fields.keys()
    return f"Its field {min(missing).decode()} is missing." if missing else None


_FIXED: Final[Mapping[bytes, bytes]] = {
    b"success_callback_name": b"",
    b"failure_callback_name": b"",
    b"stopped_callback_name": b"",
    b"group_id": b"",
    b"timeout": b"-1",
    b"result_ttl": b"0",
}
_FREE: Final = {
    *(b"data", b"description", b"origin", b"status", b"created_at", b"enqueued_at", b"started_at", b"ended_at"),
    *(b"last_heartbeat", b"worker_name", b"anyjob_holder", b"anyjob_redelivered"),
}
