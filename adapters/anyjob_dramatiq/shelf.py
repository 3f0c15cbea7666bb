"""What waits on Redis, runs or is parked, seen from outside. Looking writes nothing."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import islice

from anyjob.backend import JobShelf, TakenJob
from anyjob.capabilities import Capabilities
from anyjob.envelope import JobEnvelope
from anyjob.outcome import JobFailure
from anyjob.store import JobFilter, JobPage, JobState, StoredJob
from anyjob_dramatiq.messages import Messages
from anyjob_dramatiq.sections import HeldSection, LevelSection
from anyjob_redis.connection import translated
from anyjob_redis.held import LONGEST_HOLD, HeldJob
from anyjob_redis.parked import ParkedJobs
from anyjob_redis.walk import Section, matching, page_of

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
        later, due = self._messages.scheduled.count()
        with translated():
            waiting, running = self._messages.count()
        return {
            JobState.WAITING: waiting + due,
            JobState.SCHEDULED: later,
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
        with ExitStack() as stack:
            yield [
                *stack.enter_context(
                    self._messages.scheduled.take(_ids(found, self._messages.scheduled), self._send_again)
                ),
                *stack.enter_context(
                    self._take_off([(s.name, job) for s, job in found if isinstance(s, LevelSection)])
                ),
                *stack.enter_context(self._parked.take(_ids(found, self._parked), self._send_again)),
            ]

    def park(self, raw: bytes, failure: JobFailure) -> str:
        return self._parked.park(raw, failure)

    def _sections(self, chosen: JobFilter) -> Iterator[Section]:
        yield self._messages.scheduled
        for queue in self._messages.known_queues():
            if chosen.queues is None or queue in chosen.queues:
                for level in self._messages.names.levels(queue):
                    yield LevelSection(self._messages, level)
        yield HeldSection(self._messages)
        yield self._parked

    @contextmanager
    def _take_off(self, waiting: Sequence[tuple[str, StoredJob]]) -> Iterator[Sequence[TakenJob]]:
        if not waiting:
            yield ()
            return
        holder = f"shelf-{uuid.uuid4().hex}"
        try:
            with translated():
                entries = self._messages.take_off(holder, LONGEST_HOLD, [(level, job.id) for level, job in waiting])
            jobs = [job for _, job in waiting if job.id in entries]
            yield [HeldJob(_Holds(self._messages, holder, entries), job, "", self._send_again) for job in jobs]
        finally:
            with translated():
                self._messages.give_back(holder)


class _Holds:
    """What a holder holds off the shelf, by the ids of the jobs."""

    def __init__(self, messages: Messages, holder: str, entries: Mapping[str, str]) -> None:
        self._messages = messages
        self._holder = holder
        self._entries = entries

    def holds(self, job_id: str, _token: str) -> bool:
        with translated():
            return self._messages.holds(self._holder, self._entries[job_id])

    def end_hold(self, job_id: str, _token: str, *, discard: bool) -> bool:
        with translated():
            if discard:
                return self._messages.acknowledge(self._holder, self._entries[job_id])
            return bool(self._messages.give_back(self._holder, self._entries[job_id]))


def _ids(found: Sequence[tuple[Section, StoredJob]], section: Section) -> list[str]:
    return [job.id for each, job in found if each is section]
