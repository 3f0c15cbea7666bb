"""Messages that an application sent by its job library alone, past anyjob, and the jobs that they can become."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from msgspec import Struct

from anyjob.base.envelope import RESERVED_HEADER_PREFIX
from anyjob.seams.stored import StoredJob

__all__ = ["ADOPTED_HEADER", "NativeJob", "NativeMessage", "ReadNative"]

ADOPTED_HEADER: Final = f"{RESERVED_HEADER_PREFIX}adopted"
"""Header of a job that was a native message: its task. Such a job's creation time may be unknown; its id is the
message's.
"""


class NativeMessage(Struct, frozen=True, kw_only=True):
    """A call of a task that waits in a job library's own queue."""

    id: str
    """The library's own."""
    task: str
    queue: str
    """The library's own name of it."""
    args: Sequence[Any] = ()
    kwargs: Mapping[str, Any] = {}
    created_at: datetime | None = None
    due_at: datetime | None = None
    """Not before this, with its zone; None is at once."""
    tries: int = 0
    """How many tries have failed."""
    headers: Mapping[str, str] = {}
    """The application's own."""
    obstacle: str | None = None
    """Why no job can replace it (it is more than a call: a chain follows it; or it can't be read), as a sentence;
    `args` and `kwargs` are empty then."""


class NativeJob(StoredJob, frozen=True, kw_only=True):
    """A native message as an inspector shows it: `raw` is the envelope of the job that it becomes, if it can."""

    queue: str
    task: str
    is_chosen: bool = True
    """Whether its task was asked for."""
    obstacle: str | None = None
    """Why it stays where it is."""


ReadNative = Callable[[NativeMessage], StoredJob]
"""Turns a native message into the job that the inspector shows. Never raises."""
