"""The native message: Dramatiq's JSON around the envelope's bytes. A message that isn't exactly that never runs."""

from __future__ import annotations

from collections.abc import Set
from threading import Lock
from typing import Any, Final, Self

import msgspec
from dramatiq import Message
from msgspec import Raw, Struct

from anyjob.extend import UNREADABLE, JobEnvelope, write_envelope

__all__ = ["UNREADABLE_NAME", "Delivery", "decode", "encode", "faulty", "pack", "unwrap"]

UNREADABLE_NAME: Final = "anyjob.unreadable"
"""The actor's name that middleware and logs see for a message without a job."""


class Delivery(str):
    """The one argument of a message of ours, in the place of the envelope: its bytes, and the state of its delivery.

    As a text it is short, `<job ID>`: Dramatiq logs arguments, error reports encode them, and an envelope's must not be
    in either.
    """

    __slots__ = ("again", "begun", "ended", "fault", "id", "lock", "place", "raw", "redelivered", "released", "settled")

    def __new__(cls, job_id: str, *_: object, **__: object) -> Self:
        return super().__new__(cls, f"<job {job_id}>")

    def __init__(
        self, job_id: str, raw: bytes, *, fault: str | None = None, place: Any = None, redelivered: bool = False
    ) -> None:
        self.id = job_id
        self.raw = raw
        self.fault = fault
        """Why it must not run: how it differs from a message of ours."""
        self.place = place
        """The transport's receipt."""
        self.redelivered = redelivered
        """Whether another worker had it before and did not settle it."""
        self.again = False
        """Whether its try failed, and another follows."""
        self.begun = False
        """Whether its job was called."""
        self.settled = False
        """Whether its outcome was settled: then it is acknowledged, whatever Dramatiq does with it."""
        self.released = False
        """Whether it was given back, or is being acknowledged: then this process no longer deals with it."""
        self.ended = False
        """Whether its thread is free again."""
        self.lock = Lock()
        """Locked while it is settled, and on RabbitMQ while it is given back: both at once would leave two messages."""

    __repr__ = str.__str__


class _Frame(Struct, frozen=True, forbid_unknown_fields=True):
    """The fields of `dramatiq.Message`, in its order."""

    queue_name: str
    actor_name: str
    args: tuple[Raw]
    kwargs: dict[str, Any]
    options: dict[str, Any]
    message_id: str
    message_timestamp: int


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(_Frame)


def pack(envelope: JobEnvelope, options: dict[str, Any]) -> Message[Any]:
    """Return the message of a job, for middleware to see and to add options to."""
    return Message(
        queue_name=envelope.queue,
        actor_name=envelope.name,
        args=(Delivery(envelope.id, write_envelope(envelope)),),
        kwargs={},
        options=options,
        message_id=envelope.id,
        message_timestamp=int(envelope.created_at.timestamp() * 1000),
    )


def encode(message: Message[Any]) -> bytes:
    """Return a message of ours as it travels. Raises TypeError for a middleware's option that is not JSON."""
    frame = _Frame(
        message.queue_name,
        message.actor_name,
        (Raw(message.args[0].raw),),
        message.kwargs,
        message.options,
        message.message_id,
        message.message_timestamp,
    )
    return _encoder.encode(frame)


def decode(
    data: bytes, *, queue: str, forbidden: Set[str], native_id: str, place: Any, redelivered: bool
) -> Message[Any]:
    """Return the delivery of any message from `queue`: the envelope to the byte, or all of `data` with its fault.

    `forbidden` are the options that would make a message do anything other than to run its job.
    """
    try:
        frame = _decoder.decode(data)
    except UNREADABLE as error:
        fault = f"It is no message of Dramatiq's with one envelope: {error}"
        return faulty(data, fault, queue=queue, native_id=native_id, place=place)
    wrong = _find_fault(frame, forbidden)
    if wrong is not None:
        return faulty(data, wrong, queue=queue, native_id=native_id, place=place)
    raw = bytes(frame.args[0])
    return Message(
        queue_name=queue,
        actor_name=frame.actor_name,
        args=(Delivery(frame.message_id, raw, place=place, redelivered=redelivered),),
        kwargs={},
        options=frame.options,
        message_id=frame.message_id,
        message_timestamp=frame.message_timestamp,
    )


def unwrap(data: bytes) -> bytes:
    """Return the envelope's bytes in a message, or the whole message if there is none."""
    try:
        return bytes(_decoder.decode(data).args[0])
    except UNREADABLE:
        return data


def _find_fault(frame: _Frame, forbidden: Set[str]) -> str | None:
    if frame.kwargs:
        return "It has keyword arguments: a job has its envelope and nothing else."
    for option in frame.options.keys() & forbidden:
        return f"Its option {option!r} is none that a job of ours has."
    return None


def faulty(data: bytes, fault: str, *, queue: str, native_id: str, place: Any) -> Message[Any]:
    """Return a message that only carries an undecodable one to the code that parks it."""
    return Message(queue, UNREADABLE_NAME, (Delivery(native_id, data, fault=fault, place=place),), {}, {}, native_id, 0)
