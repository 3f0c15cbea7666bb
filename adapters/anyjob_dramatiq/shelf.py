"""What waits on Redis, runs or is parked, seen from outside. Looking writes nothing."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Final

from anyjob.backend import JobShelf, TakenJob
from anyjob.capabilities import Capabilities
from anyjob.envelope import JobEnvelope
from anyjob.outcome import JobFailure
from anyjob.store import JobFilter, JobPage, JobState, StoredJob
from anyjob_dramatiq.messages import Messages
from anyjob_dramatiq.sections import HeldSection, LevelSection, ParkedSection, ScheduledSection
from anyjob_dramatiq.walk import Section, matching, page_of
from anyjob_redis.connection import translated
from anyjob_redis.parked import ParkedJobs

__all__ = ["RedisShelf"]


class RedisShelf(JobShelf):
    """Jobs by where they are: scheduled, waiting, held, parked. That way a job moves, so that a scan misses few."""

    def __init__(
        self,
        messages: Messages,
        parked: ParkedJobs,
        capabilities: Capabilities,
        resend: Callable[[JobEnvelope], None],
    ) -> None:
        self.clock = messages.clock
        self.capabilities = capabilities
        self._messages = messages
        self._parked = parked
        self._send_again = resend

    def count(self) -> Mapping[JobState, int]:
        with translated():
            waiting, scheduled, running = self._messages.count()
        return {
            JobState.WAITING: waiting,
            JobState.SCHEDULED: scheduled,
            JobState.RUNNING: running,
            JobState.ABANDONED: self._parked.count(),
        }

    def scan(self, chosen: JobFilter, *, cursor: str | None = None, limit: int = 100) -> JobPage:
        with translated():
            return page_of(self._sections(chosen), chosen, cursor, limit)

    @contextmanager
    def take(self, chosen: JobFilter, *, limit: int) -> Iterator[Sequence[TakenJob]]:
        with translated():
            free = ((s, job) for _, s, job in matching(self._sections(chosen), chosen) if job.worker is None)
            found = list(islice(free, limit))
        parked = [job.id for _, job in found if job.state is JobState.ABANDONED]
        others = [(section.name, job) for section, job in found if job.state is not JobState.ABANDONED]
        with self._parked.take(parked, self._send_again) as taken_parked, self._take_off(others) as taken:
            yield [*taken, *taken_parked]

    def park(self, raw: bytes, failure: JobFailure) -> str:
        return self._parked.park(raw, failure)

    def _sections(self, chosen: JobFilter) -> Iterator[Section]:
        yield ScheduledSection(self._messages)
        for queue in self._messages.known_queues():
            if chosen.queues is None or queue in chosen.queues:
                for level in self._messages.names.levels(queue):
                    yield LevelSection(self._messages, level)
        yield HeldSection(self._messages)
        yield ParkedSection(self._parked)

    @contextmanager
    def _take_off(self, found: Sequence[tuple[str, StoredJob]]) -> Iterator[Sequence[TakenJob]]:
        if not found:
            yield ()
            return
        holder = f"shelf-{uuid.uuid4().hex}"
        try:
            with translated():
                entries = self._messages.take_off(holder, _LONGEST_HOLD, [(place, job.id) for place, job in found])
            held = [(job, entries[job.id]) for _, job in found if job.id in entries]
            yield [_TakenMessage(self._messages, holder, entry, job, self._send_again) for job, entry in held]
        finally:
            with translated():
                self._messages.give_back(holder)


class _TakenMessage(TakenJob):
    def __init__(
        self, messages: Messages, holder: str, entry: str, job: StoredJob, resend: Callable[[JobEnvelope], None]
    ) -> None:
        self._messages = messages
        self._holder = holder
        self._entry = entry
        self._resend = resend
        self.job = job

    def acknowledge(self) -> bool:
        with translated():
            return self._messages.acknowledge(self._holder, self._entry)

    def replace(self, envelope: JobEnvelope) -> bool:
        with translated():
            if not self._messages.holds(self._holder, self._entry):
                return False
        self._resend(envelope)
        return self.acknowledge()


_LONGEST_HOLD: Final = 300.0
