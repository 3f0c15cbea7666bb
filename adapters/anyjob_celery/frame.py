"""A job as a Celery message (protocol 2), and back. It opens only messages that are exactly ours, and no job."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final, Literal

import msgspec
from msgspec import Raw, Struct

from anyjob.extend import UNREADABLE, JobEnvelope

__all__ = ["TASK", "ForeignMessageError", "Frame", "body_of", "headers_of", "open_frame"]

TASK: Final = "anyjob.run"
"""The task of every message; `shadow` carries the job's name. A worker runs it as the task of that name, if it has one.
"""


class ForeignMessageError(Exception):
    """A message is not ours, or not as we send it."""


class Frame(Struct, frozen=True):
    """An opened message."""

    raw: bytes
    """The envelope, to the byte."""
    headers: Mapping[str, Any]
    """The headers that a worker may trust: those on which Celery would act are as we write them."""


class _Headers(Struct, frozen=True):
    """The headers taken over from a message. Others on which Celery acts (expiry, limits, groups, stamps) are not."""

    task: Literal["anyjob.run"]
    id: str
    shadow: str | None = None
    argsrepr: str = ""
    eta: str | None = None


class _Nothing(Struct, forbid_unknown_fields=True):
    pass


class _Embedded(Struct):
    """The headers that would make Celery start further tasks."""

    callbacks: None = None
    errbacks: None = None
    chain: None = None
    chord: None = None


_decoder: Final = msgspec.json.Decoder(tuple[tuple[Raw], _Nothing, _Embedded])


def headers_of(envelope: JobEnvelope) -> dict[str, Any]:
    """Return the headers of the job's message: as Celery's own, without the arguments, and without those that have
    their defaults. Most have, and would take half of the time to publish a message; `open_frame` restores them.
    """
    job_id = envelope.id
    return {
        "lang": "py",
        "task": TASK,
        "id": job_id,
        "root_id": job_id,
        "parent_id": None,
        "group": None,
        "shadow": envelope.name,
        "argsrepr": f"<{job_id}>",
        "origin": _origin(os.getpid()),
    }


def body_of(raw: bytes) -> bytes:
    """Return the body that holds the envelope's JSON as the one argument."""
    return b"[[%b], {}, %b]" % (raw, _EMBED)


def open_frame(headers: Any, body: bytes | memoryview | str) -> Frame:
    """Return the message, opened; raise `ForeignMessageError`, with the reason, if it is not as we send it."""
    try:
        known = msgspec.convert(headers, _Headers)
        (raw,), _, _ = _decoder.decode(body)
    except (*UNREADABLE, msgspec.ValidationError, TypeError) as error:
        raise ForeignMessageError(f"not a message of anyjob: {error}") from error
    believed = {**headers, **_FIXED, "root_id": known.id, **msgspec.to_builtins(known)}
    return Frame(bytes(raw), believed)


@lru_cache(1)
def _origin(pid: int) -> str:
    return f"gen{pid}@{socket.gethostname()}"


_FIXED: Final[Mapping[str, Any]] = {
    "expires": None,
    "group": None,
    "group_index": None,
    "retries": 0,
    "timelimit": [None, None],
    "parent_id": None,
    "kwargsrepr": "{}",
    "ignore_result": True,
    "replaced_task_nesting": 0,
    "stamped_headers": None,
    "stamps": {},
}

_EMBED: Final = b'{"callbacks": null, "errbacks": null, "chain": null, "chord": null}'
