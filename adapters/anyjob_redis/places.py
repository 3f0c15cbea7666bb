"""Where jobs are: an adapter describes its own layout here, so that `RedisInspector` can show and hold the jobs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from msgspec import Struct

from anyjob.extend import JobFilter, JobState, StoredJob

__all__ = ["CHUNK", "COUNTED", "LONGEST_HOLD", "Places", "Section", "Seen", "section_by_id", "section_of_held"]

CHUNK: Final = 500
"""How many jobs a walk reads at a time."""

LONGEST_HOLD: Final = 300.0
"""Seconds after which held jobs go back by themselves."""


COUNTED: Final = (JobState.WAITING, JobState.SCHEDULED, JobState.RUNNING)
"""The states of jobs that are not parked, in the order in which the scripts count them."""


class Seen(Struct, frozen=True):
    """A job that a walk found."""

    position: str
    """Its position in its section; a later walk goes on behind it."""
    job: StoredJob
    place: Any = None
    """The place from which `Places` can hold it; None: it is held, or not ours."""


class Section(Struct, frozen=True):
    """A kind of place: a list, a set, the jobs of a holder."""

    name: str
    states: frozenset[JobState]
    walk: Callable[[str], Iterable[Seen]]
    """Yields the jobs that follow a position ("" is the beginning). A job that stays in its place is yielded once,
    whatever happens to others; one that moves may be yielded twice.
    """


def section_by_id(
    name: str,
    states: Collection[JobState],
    ids: Iterable[str],
    find: Callable[[Sequence[str]], Iterable[tuple[StoredJob, Any]]],
) -> Section:
    """Return a section of nothing but these ids; `find` returns those that are there, each with its place."""

    def walk(after: str) -> Iterator[Seen]:
        wanted = sorted(each for each in ids if each > after)
        for job, place in find(wanted) if wanted else ():
            yield Seen(job.id, job, place)

    return Section(name, frozenset(states), walk)


def section_of_held(read: Callable[[], Iterable[tuple[str, StoredJob]]]) -> Section:
    """Return the section of running and held jobs; `read` returns all of them, in any order."""

    def walk(after: str) -> Iterator[Seen]:
        for position, job in sorted(read(), key=lambda held: held[0]):
            if position > after:
                yield Seen(position, job)

    return Section("held", frozenset(COUNTED), walk)


class Places(ABC):
    """The places of one namespace. Thread-safe; raises what redis raises. Looking writes nothing.

    A holder holds a job as an entry, which tells it from any other. A holder whose time is up holds it no longer, and
    changes nothing.
    """

    @abstractmethod
    def count(self) -> Mapping[JobState, int]:
        """Return how many jobs are in each state."""

    @abstractmethod
    def sections(self, chosen: JobFilter) -> Iterable[Section]:
        """Return the sections where chosen jobs may be, in the order in which a job passes: so a scan misses few that
        move.
        """

    @abstractmethod
    def take_off(self, holder: str, found: Sequence[Seen]) -> Sequence[tuple[Any, StoredJob]]:
        """Hold the jobs that are still there, for `LONGEST_HOLD` at most; return each with its entry."""

    @abstractmethod
    def holds(self, holder: str, entry: Any) -> bool:
        """Whether the entry's job is still held."""

    @abstractmethod
    def acknowledge(self, holder: str, entries: Sequence[Any]) -> Sequence[bool]:
        """Remove jobs for good, except those that were sent again; return of each whether it was still held."""

    @abstractmethod
    def give_back(self, holder: str) -> object:
        """Put all jobs that the holder still holds back to their very places."""

    def recover(self) -> None:
        """Give back the jobs of crashed workers, as a worker would."""
        return
