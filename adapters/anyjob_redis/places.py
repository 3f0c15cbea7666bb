"""Where jobs are: what an adapter tells of its own layout, so that `RedisInspector` can show and hold the jobs."""

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
"""Seconds after which what was taken off goes back by itself."""


COUNTED: Final = (JobState.WAITING, JobState.SCHEDULED, JobState.RUNNING)
"""The states of what is not parked, in the order in which the scripts count them."""


class Seen(Struct, frozen=True):
    """A job that a walk came past."""

    position: str
    """Where in its section it is; a later walk goes on after it."""
    job: StoredJob
    place: Any = None
    """Where it can be taken off, as its `Places` know it; None: it is held, or not ours."""


class Section(Struct, frozen=True):
    """A kind of place: a list, a set, what somebody holds."""

    name: str
    states: frozenset[JobState]
    walk: Callable[[str], Iterable[Seen]]
    """Comes past the jobs that follow a position ("" is the beginning). A job that stays where it is is seen once,
    whatever happens to others; one that moves may be seen twice.
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
    """Return the section of what workers run, or somebody took off; `read` returns all of it, in any order."""

    def walk(after: str) -> Iterator[Seen]:
        for position, job in sorted(read(), key=lambda held: held[0]):
            if position > after:
                yield Seen(position, job)

    return Section("held", frozenset(COUNTED), walk)


class Places(ABC):
    """The places of one namespace. Thread-safe; raises what redis raises. Looking writes nothing.

    What is taken off is held by a holder, as an entry that tells it from any other; who holds it no longer, for the
    time was up, changes nothing.
    """

    @abstractmethod
    def count(self) -> Mapping[JobState, int]:
        """Return how many jobs are in each state."""

    @abstractmethod
    def sections(self, chosen: JobFilter) -> Iterable[Section]:
        """Return where chosen jobs may be, in the order in which a job passes: so a scan misses few that move."""

    @abstractmethod
    def take_off(self, holder: str, found: Sequence[Seen]) -> Sequence[tuple[Any, StoredJob]]:
        """Hold what is still there, for `LONGEST_HOLD` at most; return each job with its entry."""

    @abstractmethod
    def holds(self, holder: str, entry: Any) -> bool:
        """Whether that is still held."""

    @abstractmethod
    def acknowledge(self, holder: str, entries: Sequence[Any]) -> Sequence[bool]:
        """Remove jobs for good, but for those that were sent again; return of each whether it was still held."""

    @abstractmethod
    def give_back(self, holder: str) -> object:
        """Put all that the holder still holds back to its very place."""

    def recover(self) -> None:
        """Give back what workers died with, as a worker would."""
        return
