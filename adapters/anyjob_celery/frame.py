"""A job as a Celery message (protocol 2), and back. Only what is exactly ours is opened; the job stays undecoded."""

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
"""The task that every message is for; `shadow` carries the job's name. A worker runs it as the task of that name, if it
has one."""


class ForeignMessageError(Exception):
    """A message is none of ours, or not as we send them."""


class Frame(Struct, frozen=True):
    """An opened message."""

    raw: bytes
    """The envelope, to the byte."""
    headers: Mapping[str, Any]
    """Those that a worker may believe: what Celery would act on is as we would have said it."""


class _Headers(Struct, frozen=True):
    """What is taken over from a message. The rest that Celery acts on (expiry, limits, groups, stamps) is not."""

    task: Literal["anyjob.run"]
    id: str
    shadow: str | None = None
    argsrepr: str = ""
    eta: str | None = None


class _Nothing(Struct, forbid_unknown_fields=True):
    pass


class _Embedded(Struct):
    """What would make Celery start further tasks."""

    callbacks: None = None
    errbacks: None = None
    chain: None = None
    chord: None = None


_decoder: Final = msgspec.json.Decoder(tuple[tuple[Raw], _Nothing, _Embedded])


def headers_of(envelope: JobEnvelope) -> dict[str, Any]:
    """Return the headers of the job's message: as Celery's own, without the arguments, and without what is at its
    default. That is most, and half of the time that it takes to publish one; `open_frame` puts it back.
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
    """Return what the message holds; raise `ForeignMessageError`, saying why, if it is not as we send them."""
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
