"""Reads the answers of a prefork pool's children about their jobs, before Celery discards these at a stop."""

from __future__ import annotations

import select
from time import monotonic
from types import GeneratorType
from typing import Any, Final

from anyjob.extend import JobLogger
from anyjob_celery.private import ChildParts

__all__ = ["hear_children"]

logger = JobLogger("anyjob.worker")


def hear_children(pool: Any, hub: Any) -> None:
    """Read the answers of a prefork pool's children, until each has said that it begins the job that was written to it.

    Celery discards, at a stop too, every job whose begin no child has reported: a job that its child takes all the same
    would run, never be acknowledged, hold up the stop to its limit, and repeat as if it had crashed. A job is written
    to an idle child only, which begins it at once; a child that doesn't within 5 s is stuck.
    """
    children = ChildParts(pool)
    if hub is None or not children:  # threads, or none
        return
    deadline = monotonic() + _LONGEST
    while True:
        unheard = children.to_begin
        is_late = monotonic() > deadline
        pipes = set(children.pipes) & set(hub.readers)
        readable, _, _ = select.select(pipes, (), (), _PAUSE if unheard and not is_late else 0)
        for pipe in readable:
            _read(hub, pipe)
        if unheard and is_late:
            logger.warning("%d children don't say that they begin what they were given: it may run twice", len(unheard))
        if is_late or not (unheard or readable):
            return


def _read(hub: Any, pipe: int) -> None:
    """Read a readable pipe as the event loop does, which may have read half of a message before."""
    read, arguments = hub.readers.get(pipe, (None, ()))
    try:
        if isinstance(read, GeneratorType):
            next(read, None)
        elif read is not None:
            read(*arguments)
    except (OSError, EOFError):  # its child crashed in the middle
        hub.remove_reader(pipe)


_LONGEST: Final = 5.0
_PAUSE: Final = 0.05
