"""The jobs on Redis that wait, run or are parked, seen from outside. To look writes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace as replaced
from itertools import groupby, islice
from typing import Any, Final

from redis.exceptions import ResponseError

from anyjob.extend import (
    ALL_STATES,
    Capabilities,
    Clock,
    HeldJob,
    InvalidOptionError,
    JobEnvelope,
    JobFailure,
    JobFilter,
    JobInspector,
    JobLogger,
    JobPage,
    JobState,
    PageCursor,
    Quality,
    StoredJob,
)
from anyjob_redis.connection import translated
from anyjob_redis.parked import ParkedJobs
from anyjob_redis.places import CHUNK, Places, Section, Seen

__all__ = ["ON_REDIS", "RedisInspector"]

logger = JobLogger("anyjob.worker")

ON_REDIS: Final = Capabilities(
    priority=Quality.EXACT,
    delay=Quality.EXACT,
    listing=ALL_STATES,
    removal=ALL_STATES - {JobState.RUNNING},
    moving=ALL_STATES - {JobState.RUNNING},
    moves_once=True,
    counts=dict.fromkeys(JobState, Quality.EXACT),
    durable=True,
)
"""The capabilities of our own queues and schedule, with their `Places`; an adapter adds those of its workers."""


class RedisInspector(JobInspector):
    """Shows the jobs in an adapter's places, and the parked ones; without `places` only these. Thread-safe."""

    def __init__(
        self,
        parked: ParkedJobs,
        places: Places | None = None,
        *,
        resend: Callable[[JobEnvelope], None],
        clock: Clock,
        capabilities: Capabilities,
    ) -> None:
        self.clock = clock
        self.capabilities = capabilities
        self._parked = parked
        self._all: Sequence[Places] = (parked,) if places is None else (places, parked)
        self._send_again = resend

    def count(self) -> Mapping[JobState, int]:
        with translated():
            counted = [pair for places in self._all for pair in places.count().items()]
        return {state: number for state, number in counted if state in self.capabilities.counts}

    def scan(self, chosen: JobFilter, *, cursor: str | None = None, limit: int = 100) -> JobPage:
        self.capabilities.refuse_listing(chosen.states)
        after = _Cursor.parse(cursor)
        if limit < 1 or after is None:
            raise InvalidOptionError(f"scan(cursor={cursor!r}, limit={limit!r}): a cursor of a page, and at least 1.")
        chosen = replaced(chosen, states=self.capabilities.listing & (chosen.states or ALL_STATES))
        with translated():
            found = list(islice(_matching(self._all, chosen, after), limit + 1))
        page = found[:limit]
        return JobPage([seen.job for _, seen in page], page[-1][0].text() if len(found) > limit else None)

    @contextmanager
    def hold(self, chosen: JobFilter, *, holder: str, ahead: int) -> Iterator[Iterator[HeldJob]]:
        self._give_back(holder)
        can = self.capabilities.moving | self.capabilities.removal
        chosen = replaced(chosen, states=can & (chosen.states or ALL_STATES))
        try:
            yield self._come_past(chosen, holder, ahead)
        finally:
            self._give_back(holder)

    def acknowledge(self, taken: Sequence[HeldJob]) -> Sequence[bool]:
        ours = [each for each in taken if isinstance(each, _TakenJob)]
        with translated():
            return [
                held
                for (places, holder), jobs in groupby(ours, lambda each: (each.places, each.holder))
                for held in places.acknowledge(holder, [each.entry for each in jobs])
            ]

    def park(self, raw: bytes, failure: JobFailure) -> str:
        return self._parked.park(raw, failure)

    def recover(self) -> None:
        with translated():
            for places in self._all:
                places.recover()

    def _come_past(self, chosen: JobFilter, holder: str, ahead: int) -> Iterator[HeldJob]:
        for places in self._all:
            free = (seen for _, seen in _matching([places], chosen, _Cursor()) if seen.place is not None)
            while True:
                with translated():
                    found = list(islice(free, min(ahead, CHUNK)))
                    held = places.take_off(holder, found) if found else ()
                if not found:
                    break
                for entry, job in held:
                    yield _TakenJob(places, holder, entry, job, self._send_again)

    def _give_back(self, holder: str) -> None:
        with translated():
            for places in self._all:
                places.give_back(holder)


class _TakenJob(HeldJob):
    def __init__(
        self,
        places: Places,
        holder: str,
        entry: Any,
        job: StoredJob,
        resend: Callable[[JobEnvelope], None],
    ) -> None:
        self.job = job
        self.places = places
        self.holder = holder
        self.entry = entry
        self._resend = resend

    def acknowledge(self) -> bool:
        with translated():
            return self.places.acknowledge(self.holder, [self.entry]) == [True]

    def replace(self, envelope: JobEnvelope) -> bool:
        with translated():
            if not self.places.holds(self.holder, self.entry):
                return False
        self._resend(envelope)
        return self.acknowledge()


class _Cursor(PageCursor, frozen=True):
    """The progress of a walk: behind the job at this position of this section."""

    section: str = ""
    position: str = ""


def _matching(every: Iterable[Places], chosen: JobFilter, after: _Cursor) -> Iterator[tuple[_Cursor, Seen]]:
    """Yield the chosen jobs that follow `after`."""
    reached = not after.section
    for section in (section for places in every for section in places.sections(chosen)):
        is_here = section.name == after.section
        reached = reached or is_here
        if reached and (chosen.states is None or chosen.states & section.states):
            for seen in _walk(section, after.position if is_here else ""):
                if chosen.matches(seen.job):
                    yield _Cursor(section.name, seen.position), seen


def _walk(section: Section, after: str) -> Iterator[Seen]:
    """Yield the jobs of a section: none if its key has another type, so that the other sections are still seen."""
    try:
        yield from section.walk(after)
    except ResponseError as error:
        if "WRONGTYPE" not in str(error):
            raise
        logger.warning("not looked at: %s: %s", section.name, error)
