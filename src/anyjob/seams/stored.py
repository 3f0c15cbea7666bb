"""Jobs seen from outside, as they are kept: their states, pages of them, and how they are chosen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import Any, Self

import msgspec
from msgspec import Struct

from anyjob.base.envelope import UNREADABLE, JobEnvelope, read_envelope
from anyjob.base.errors import EnvelopeError, InvalidOptionError, did_you_mean, shown
from anyjob.base.plain import plain_text, plain_texts
from anyjob.seams.outcome import JobFailure

__all__ = ["JobFilter", "JobPage", "JobState", "PageCursor", "StoredJob"]


class JobState(StrEnum):
    """Where a job is in its life. A completed job is in no state: it is gone."""

    WAITING = "waiting"
    """Due, and free to be claimed."""
    SCHEDULED = "scheduled"
    """Due later."""
    RUNNING = "running"
    """Claimed by a worker."""
    ABANDONED = "abandoned"
    """Given up; parked with its failure until somebody retries or discards it."""


class StoredJob(Struct, frozen=True):
    """A job seen from outside, as it is kept. Looking at it imports no job code and decodes no arguments."""

    id: str
    """The job's own, which `enqueue` returned; see `JobStore.park` for those that can't have it."""
    state: JobState
    raw: bytes
    failure: JobFailure | None = None
    worker: str | None = None
    """The worker that runs it, or holds it (see `JobStore.hold`)."""

    @property
    def envelope(self) -> JobEnvelope | None:
        """The envelope in `raw`, or None if it can't be read."""
        try:
            return read_envelope(self.raw)
        except EnvelopeError:
            return None


class JobPage(Struct, frozen=True):
    """One page of a scan. `cursor` leads to the next; None: there is none."""

    jobs: Sequence[StoredJob]
    cursor: str | None


class PageCursor(Struct, frozen=True, array_like=True):
    """Base of an inspector's cursors that are more than a number: their fields, with defaults, as text."""

    @classmethod
    def parse(cls, text: str | None) -> Self | None:
        """Return the cursor of a page's `text`; for None the first cursor; None if no page returned such a text."""
        try:
            return cls() if text is None else msgspec.json.decode(text, type=cls)
        except UNREADABLE:
            return None

    def text(self) -> str:
        """Return the cursor for a page."""
        return msgspec.json.encode(self).decode()


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFilter:
    """Chooses jobs; a field that is None chooses all. `name` is a pattern (`mail.*`, case matters).

    Raises `InvalidOptionError` for a filter that can't choose any job: an unknown state, a text in place of a set.
    """

    ids: frozenset[str] | None = None
    """A parked copy is chosen by its job's own id, and shown under that, once no other job has it."""
    states: frozenset[JobState] | None = None
    queues: frozenset[str] | None = None
    name: str | None = None
    where: Callable[[StoredJob], bool] | None = None
    """Called last, with each job that fits otherwise."""

    def __post_init__(self) -> None:
        for attribute in ("ids", "states", "queues"):
            values: Any = plain_texts(getattr(self, attribute))
            if values is not None:
                if not isinstance(values, tuple) or not all(isinstance(each, str) for each in values):
                    raise InvalidOptionError(f"JobFilter({attribute}={shown(values)}): it is a set of strings.")
                object.__setattr__(self, attribute, frozenset(values))
        if self.states is not None:
            object.__setattr__(self, "states", frozenset(map(_state, self.states)))
        name: Any = plain_text(self.name)
        if not isinstance(name, str | None):
            raise InvalidOptionError(f"JobFilter(name={shown(name)}): it is a pattern, as 'mail.*'.")
        object.__setattr__(self, "name", name)

    def matches(self, job: StoredJob) -> bool:
        """Whether the job is chosen. A job that can't be read has no queue and no name, and is chosen by neither."""
        if self.ids is not None and job.id not in self.ids:
            return False
        if self.states is not None and job.state not in self.states:
            return False
        return self._fits(job) and (self.where is None or self.where(job))

    def _fits(self, job: StoredJob) -> bool:
        if self.queues is None and self.name is None:
            return True
        envelope = job.envelope
        return (
            envelope is not None
            and (self.queues is None or envelope.queue in self.queues)
            and (self.name is None or fnmatchcase(envelope.name, self.name))
        )


def _state(name: str) -> JobState:
    try:
        return JobState(name)
    except ValueError:
        known = [state.value for state in JobState]
        raise InvalidOptionError(
            f"JobFilter: there is no state {name!r}.{did_you_mean(name, known)} States: {', '.join(known)}."
        ) from None
