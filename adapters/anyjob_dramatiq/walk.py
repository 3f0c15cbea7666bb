"""A way past all jobs of a namespace, section by section, that can be left and taken up again while they move."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Final

import msgspec
from msgspec import Struct

from anyjob.envelope import UNREADABLE
from anyjob.errors import InvalidOptionError
from anyjob.store import JobFilter, JobPage, JobState, StoredJob

__all__ = ["Section", "matching", "page_of"]

_CHUNK: Final = 500


class Section(ABC):
    """A kind of place where jobs are; they are come past in the order in which a job passes them."""

    name: str
    states: frozenset[JobState]

    @abstractmethod
    def page(self, after: str, limit: int) -> Sequence[tuple[str, StoredJob]]:
        """Return up to `limit` jobs, each with its position, that follow a position ("" is the beginning); if there is
        none, that is the end.
        """

    @abstractmethod
    def find(self, ids: Sequence[str]) -> Sequence[StoredJob]:
        """Return those of the ids that are here."""


class _Cursor(Struct, frozen=True, array_like=True):
    """How far a walk has come: past the job at this position of this section."""

    section: str = ""
    position: str = ""


Seen = tuple[_Cursor, Section, StoredJob]


def matching(sections: Iterable[Section], chosen: JobFilter, after: _Cursor = _Cursor()) -> Iterator[Seen]:  # noqa: B008
    """Come past the chosen jobs that follow `after`.

    A job that stays where it is is seen once, whatever happens to others; one that moves may be seen twice.
    """
    reached = not after.section
    for section in sections:
        reached = reached or section.name == after.section
        if reached and (chosen.states is None or chosen.states & section.states):
            position = after.position if section.name == after.section else ""
            for cursor, job in _through(section, chosen, position):
                if chosen.matches(job):
                    yield cursor, section, job


def page_of(sections: Iterable[Section], chosen: JobFilter, cursor: str | None, limit: int) -> JobPage:
    """Return a page of the chosen jobs; raise `InvalidOptionError` for a cursor that no page gave out."""
    try:
        after = _Cursor() if cursor is None else msgspec.json.decode(cursor, type=_Cursor)
    except UNREADABLE:
        after = None
    if limit < 1 or after is None:
        raise InvalidOptionError(f"scan(cursor={cursor!r}, limit={limit!r}): a cursor of a page, and at least 1.")
    found = list(islice(matching(sections, chosen, after), limit + 1))
    page = found[:limit]
    last = msgspec.json.encode(page[-1][0]).decode() if len(found) > limit else None
    return JobPage([job for _, _, job in page], last)


def _through(section: Section, chosen: JobFilter, after: str) -> Iterator[tuple[_Cursor, StoredJob]]:
    if chosen.ids is not None:
        wanted = sorted(each for each in chosen.ids if each > after)
        for job in section.find(wanted) if wanted else ():
            yield _Cursor(section.name, job.id), job
        return
    while page := section.page(after, _CHUNK):
        for position, job in page:
            yield _Cursor(section.name, position), job
        after = page[-1][0]
