"""Reads a Celery message (protocol 2) of the application's own as a call. It opens only plain JSON, and builds no
object that a message names.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Final
from uuid import UUID

import msgspec
from msgspec import Meta, Struct

from anyjob.extend import UNREADABLE, NativeMessage

__all__ = ["CarriedMessage", "call_in"]


class CarriedMessage(Struct, frozen=True, kw_only=True):
    """A message as a transport carries it, unchecked."""

    queue: str
    """The application's name of the queue."""
    other_id: str
    """The inspector's id for a message without one."""
    headers: Mapping[str, Any]
    body: bytes = b""
    content_type: Any = None
    content_encoding: Any = None
    expiration: Any = None
    fault: str | None = None
    """Why it can't be read."""

    @property
    def task(self) -> Any:
        return self.headers.get("task")


def call_in(message: CarriedMessage) -> NativeMessage:
    """Return the call, with the obstacle if the message is more than a call or can't be read. Never raises."""
    who = _who(message)
    due_at = None
    try:
        headers = _headers_of(message)
        due_at = _due_at(headers.eta)
        args, kwargs = _arguments_in(message)
    except _ObstacleError as obstacle:
        return NativeMessage(
            id=who.id or message.other_id,
            task=who.task,
            queue=message.queue,
            due_at=due_at,
            obstacle=str(obstacle),
        )
    return NativeMessage(
        id=who.id,
        task=who.task,
        queue=message.queue,
        args=args,
        kwargs=kwargs,
        due_at=due_at,
        tries=headers.retries or 0,
        headers={key: value for key, value in message.headers.items() if _is_their_own(key, value)},
    )


class _ObstacleError(Exception):
    """Says, in a sentence, why a message can't become a job."""


class _Who(Struct, frozen=True):
    """The task and the id of a message; protocol 1 has them in the body."""

    task: str = ""
    id: str = ""


class _Headers(Struct, frozen=True):
    """The headers on which Celery acts."""

    task: str
    id: Annotated[str, Meta(min_length=1)]
    eta: str | None = None
    retries: Annotated[int, Meta(ge=0)] | None = 0
    expires: Any = None
    group: Any = None
    timelimit: Any = None
    stamped_headers: Any = None
    compression: Any = None


def _who(message: CarriedMessage) -> _Who:
    try:
        return (
            msgspec.convert(message.headers, _Who) if "task" in message.headers else _who_decoder.decode(message.body)
        )
    except UNREADABLE:
        return _Who()


def _headers_of(message: CarriedMessage) -> _Headers:
    if message.fault is not None:
        raise _ObstacleError(f"It can't be read: {message.fault}.")
    if "task" not in message.headers:
        raise _ObstacleError("It is no message of Celery's protocol 2: its headers name no task.")
    try:
        headers = msgspec.convert(message.headers, _Headers)
    except msgspec.ValidationError as error:
        raise _ObstacleError(f"Its headers are not as Celery writes them: {error}.") from error
    for name, obstacle in _IN_HEADERS.items():
        if getattr(headers, name):
            raise _ObstacleError(obstacle)
    if message.expiration is not None:
        raise _ObstacleError(_EXPIRES)
    limits = headers.timelimit or ()
    if not isinstance(limits, Sequence) or any(each is not None for each in limits):
        raise _ObstacleError("It has a time limit of its own; a job's is said by its code.")
    return headers


def _due_at(eta: str | None) -> datetime | None:
    if not eta:
        return None
    try:
        moment = datetime.fromisoformat(eta)
        # Celery's worker takes a naive one for UTC, whatever the application's `timezone`.
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise _ObstacleError(f"Its eta is no time: {error}.") from error


def _arguments_in(message: CarriedMessage) -> tuple[Sequence[Any], Mapping[str, Any]]:
    coding = str(message.content_encoding or "utf-8").lower()
    if message.content_type != "application/json" or coding not in _UTF8:
        raise _ObstacleError(f"Its body is {message.content_type} in {coding}; only JSON in utf-8 is opened.")
    try:
        args, kwargs, embedded = _body_decoder.decode(message.body)
        for name, obstacle in _EMBEDDED.items():
            if (embedded or {}).get(name):
                raise _ObstacleError(obstacle)
        return [_plain(each) for each in args], {name: _plain(value) for name, value in kwargs.items()}
    except UNREADABLE as error:
        raise _ObstacleError(f"Its body is not as Celery writes it: {error}.") from error


def _plain(value: Any) -> Any:
    """Return our JSON form of a value, in which kombu marks the types that JSON lacks."""
    if isinstance(value, list):
        return [_plain(each) for each in value]
    if not isinstance(value, dict):
        return value
    if value.keys() != {"__type__", "__value__"}:
        return {key: _plain(each) for key, each in value.items()}
    kind, marked = value["__type__"], value["__value__"]
    read = _MARKED.get(kind) if isinstance(kind, str) else None
    if read is None:
        raise _ObstacleError(f"It has an argument of the type {str(kind)[:100]!r}, which only the application knows.")
    try:
        return read(marked)
    except (TypeError, ValueError, KeyError, AttributeError, binascii.Error) as error:
        raise _ObstacleError(f"It has an argument that is no {kind}: {error!r}.") from error


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{type(value).__name__} is no text")
    return value


def _is_their_own(key: Any, value: Any) -> bool:
    return isinstance(key, str) and isinstance(value, str) and key not in _CELERYS and not key.startswith(_BROKERS)


_MARKED: Final[Mapping[str, Callable[[Any], str]]] = {
    **dict.fromkeys(("datetime", "date", "time", "decimal"), _text),
    "uuid": lambda value: str(UUID(hex=_text(value["hex"]))),
    "bytes": lambda value: base64.b64encode(_text(value).encode()).decode(),
    "base64": lambda value: base64.b64encode(base64.b64decode(_text(value), validate=True)).decode(),
}

_EXPIRES: Final = "It expires; a job does not."
_IN_HEADERS: Final[Mapping[str, str]] = {
    "expires": _EXPIRES,
    "group": "It is one of a group, whose results somebody may wait for.",
    "stamped_headers": "It is stamped: who revokes by stamps would not find the job.",
    "compression": "Its body is compressed; only plain JSON is opened.",
}
_EMBEDDED: Final[Mapping[str, str]] = {
    "chain": "It is part of a chain: another task follows it.",
    "chord": "It is one of a chord, whose body waits for it.",
    "callbacks": "Another task follows its success (link).",
    "errbacks": "Another task follows its failure (link_error).",
}

_CELERYS: Final = frozenset(
    {"lang", "meth", "utc", "task", "id", "shadow", "eta", "expires", "retries", "timelimit", "compression"}
    | {"group", "group_index", "root_id", "parent_id", "argsrepr", "kwargsrepr", "origin", "ignore_result"}
    | {"replaced_task_nesting", "stamped_headers", "stamps", "redelivered"}
)
_BROKERS: Final = (
    "x-first-death-",
    "x-last-death-",
)  # RabbitMQ adds these when it dead-letters, as after a native delay

_UTF8: Final = frozenset({"utf-8", "utf8", "us-ascii", "ascii"})
_body_decoder: Final = msgspec.json.Decoder(tuple[list[Any], dict[str, Any], dict[str, Any] | None])
_who_decoder: Final = msgspec.json.Decoder(_Who)
