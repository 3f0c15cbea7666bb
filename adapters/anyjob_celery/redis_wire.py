"""A Celery message as kombu keeps it in a list of Redis: one JSON object, its body as text for whoever looks."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any, Final

import msgspec
from msgspec import Struct, field

from anyjob.extend import UNREADABLE, JobEnvelope, JobPriority, write_envelope
from anyjob_celery.frame import ForeignMessageError, body_of, open_frame

__all__ = ["LEVELS", "Wire", "envelope_in", "item_of", "read_item"]

LEVELS: Final[Mapping[JobPriority, int]] = {
    level: number for number, level in enumerate(sorted(JobPriority, reverse=True))
}
"""Each priority as kombu numbers its lists on Redis: 0 is sooner, the reverse of RabbitMQ."""


class Wire(Struct, frozen=True, kw_only=True, gc=False):
    """What a list holds. `redelivered` stands first, for the scripts to find."""

    redelivered: bool = False
    body: str
    content_encoding: str | None = field(name="content-encoding")
    content_type: str | None = field(name="content-type")
    headers: Mapping[str, Any]
    properties: Mapping[str, Any]

    def body_bytes(self) -> bytes:
        """Return the body; raise `ForeignMessageError` if it isn't coded as it says."""
        coding = self.properties.get("body_encoding")
        if coding != "base64":
            return self.body.encode()
        try:
            return base64.b64decode(self.body, validate=True)
        except (binascii.Error, ValueError) as error:
            raise ForeignMessageError(f"its body is no base64: {error}") from error


def item_of(envelope: JobEnvelope, headers: Mapping[str, Any], tag: str) -> bytes:
    """Return the message of a job; `tag` makes it unlike any other."""
    return _encoder.encode(
        Wire(
            redelivered=False,
            body=body_of(write_envelope(envelope)).decode(),
            content_encoding="utf-8",
            content_type="application/json",
            headers=headers,
            properties={
                "correlation_id": envelope.id,
                "reply_to": "",
                "delivery_mode": 2,
                "delivery_info": {"exchange": "", "routing_key": envelope.queue},
                "priority": LEVELS[envelope.priority],
                "delivery_tag": tag,
            },
        )
    )


def read_item(item: bytes) -> Wire:
    """Return what a list held; raise `ForeignMessageError` if it is no message at all."""
    try:
        return _decoder.decode(item)
    except UNREADABLE as error:
        raise ForeignMessageError(f"no Celery message: {error}") from error


def envelope_in(item: bytes) -> bytes:
    """Return the raw envelope in a message; raise `ForeignMessageError` if there is none."""
    wire = read_item(item)
    return open_frame(wire.headers, wire.body_bytes()).raw


_encoder: Final = msgspec.json.Encoder()
_decoder: Final = msgspec.json.Decoder(Wire)
