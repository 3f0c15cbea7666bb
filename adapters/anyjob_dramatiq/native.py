"""Dramatiq messages in queues that an application and we share: which are its, which are ours, and where they are."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
from amqp import Message
from dramatiq import get_encoder
from dramatiq.common import dq_name, q_name
from msgspec import Struct
from redis import Redis

from anyjob.extend import (
    UNREADABLE,
    EnvelopeError,
    JobEnvelope,
    JobState,
    NativeMessage,
    ReadNative,
    StoredJob,
    read_envelope,
)
from anyjob_amqp import ReadMessage, body_of, fault_in
from anyjob_redis import NativeKey, NativeLayout

__all__ = ["DramatiqKeys", "Frame", "Read", "envelope_in", "on_amqp", "reader_of_natives"]

Read = Callable[[str, str, bytes], StoredJob | None]
"""Returns the job in a queue's message, by the message's name there; None: it is not to be shown."""


class Frame(Struct, frozen=True):
    """The fields of a message, as Dramatiq's JSON has them."""

    queue_name: str
    actor_name: str
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    options: Mapping[str, Any]
    message_id: str
    message_timestamp: float


class DramatiqKeys(NativeLayout):
    """The queues of a `RedisBroker`. Messages that its workers hold, delayed ones too, are in other keys, and stay."""

    def __init__(self, client: Redis, namespace: str, queues: Iterable[str], read: Read, *, begun: str) -> None:
        self._client: Any = client
        self._namespace = namespace
        self._queues = queues
        self._read = read
        self.forget = f"""
        local function forget(key, item)
            if fits('hash', key .. '.msgs') then redis.call('HDEL', key .. '.msgs', item) end
            redis.call('DEL', '{begun}' .. item)
        end
        """

    def waiting(self) -> Iterable[NativeKey]:
        queues = list(self._queues)
        for name_of in (dq_name, q_name):  # delayed messages reach their queue in the end
            for queue in queues:
                yield NativeKey(f"{self._namespace}:{name_of(queue)}", "left", queue)

    def read(self, place: NativeKey, items: Sequence[bytes]) -> Sequence[StoredJob | None]:
        found = self._client.hmget(f"{place.key}.msgs", items)
        return [
            None if data is None else self._read(place.queue, item.decode("utf-8", "replace"), data)
            for item, data in zip(items, found, strict=True)
        ]


def on_amqp(read: Read, tell: ReadNative | None = None) -> ReadMessage:
    """Return a reader of the queues of a `RabbitmqBroker`; `tell` is called with an undecodable message."""

    def read_message(message: Message, _state: JobState, queue: str) -> StoredJob | None:
        name, fault = f"unnamed-{message.delivery_tag}", fault_in(message.headers)
        if not fault:
            return read(q_name(queue), name, body_of(message))
        if tell is None:
            return None
        return tell(NativeMessage(id=name, task="", queue=q_name(queue), obstacle=f"It can't be read: {fault}."))

    return read_message


def envelope_in(data: bytes, *, forbidden: Collection[str]) -> tuple[Frame, JobEnvelope] | None:
    """Return the job in a message that has a job and nothing else. The caller checks whether it is named as ours."""
    try:
        frame = _decoder.decode(data)
        (text,) = frame.args
        envelope = read_envelope(text.encode())
    except (*UNREADABLE, EnvelopeError, ValueError, AttributeError):
        return None
    is_plain = not frame.kwargs and not frame.options.keys() & forbidden and frame.message_id == envelope.id
    return (frame, envelope) if is_plain else None


def reader_of_natives(read: ReadNative, is_ours: Callable[[str, bytes], bool]) -> Read:
    """Return a reader that shows the application's own messages."""

    def read_message(queue: str, name: str, data: bytes) -> StoredJob | None:
        return None if is_ours(queue, data) else read(_native(queue, name, data))

    return read_message


def _native(queue: str, name: str, data: bytes) -> NativeMessage:
    try:
        frame = _decoder.decode(data)
    except UNREADABLE:
        why = f"It is no JSON of Dramatiq's, and nothing else is read (the encoder is {type(get_encoder()).__name__})."
        return NativeMessage(id=name, task="", queue=queue, obstacle=why)
    unfit = next((why for option, why in _OBSTACLES.items() if frame.options.get(option) is not None), None)
    due_at = created_at = None
    try:
        due_at, created_at = _moment(frame.options.get("eta")), _moment(frame.message_timestamp)
    except (TypeError, ValueError, OverflowError, OSError):
        unfit = "Its eta or its timestamp is no time."
    retries = frame.options.get("retries")
    return NativeMessage(
        id=frame.message_id,
        task=frame.actor_name,
        queue=queue,
        args=() if unfit else frame.args,
        kwargs={} if unfit else frame.kwargs,
        created_at=created_at,
        due_at=due_at,
        tries=retries if isinstance(retries, int) and retries > 0 else 0,
        obstacle=unfit,
    )


def _moment(milliseconds: Any) -> datetime | None:
    return None if milliseconds is None else datetime.fromtimestamp(milliseconds / 1000, UTC)


_decoder: Final = msgspec.json.Decoder(Frame)
_OBSTACLES: Final[Mapping[str, str]] = {
    "pipe_target": "Another message follows it: it is part of a pipeline.",
    "group_completion_uuid": "It is one of a group.",
    "group_completion_callbacks": "It is one of a group.",
    "on_success": "It has a callback, on_success.",
    "on_failure": "It has a callback, on_failure.",
    "on_retry_exhausted": "It has a callback, on_retry_exhausted.",
    "max_age": "It has a max_age of its own: Dramatiq drops it when it has waited for so long, and a job waits.",
    "time_limit": "It has a time_limit of its own, and a job has that of its class.",
}
"""The options of a message that make it more than a call. Its retries are not among them: a job has its own."""
