"""What waits in RQ, runs or is parked, seen from outside. Looking writes nothing, and asks none of RQ's registries."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Final

from anyjob.backend import JobShelf, TakenJob
from anyjob.capabilities import Capabilities
from anyjob.clock import Clock
from anyjob.envelope import JobEnvelope
from anyjob.errors import InvalidOptionError
from anyjob.outcome import JobFailure
from anyjob.store import JobFilter, JobPage, JobState, StoredJob
from anyjob_redis.connection import translated
from anyjob_redis.parked import ParkedJobs
from anyjob_rq.messages import Messages, Place
from anyjob_rq.walk import Cursor, Seen, Walk

__all__ = ["RQShelf"]


class RQShelf(JobShelf):
    """Jobs by where they are: scheduled, waiting, held, parked. That way a job moves, so that a scan misses few."""

    def __init__(self, messages: Messages, parked: ParkedJobs, clock: Clock, capabilities: Capabilities) -> None:
        self.clock = clock
        self.capabilities = capabilities
        self._messages = messages
        self._parked = parked
        self._walk = Walk(messages, parked, clock)

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
        try:
            after = Cursor.parse(cursor)
        except ValueError:
            after = None
        if limit < 1 or after is None:
            raise InvalidOptionError(f"scan(cursor={cursor!r}, limit={limit!r}): a cursor of a page, and at least 1.")
        with translated():
            found = list(islice(self._matching(chosen, after), limit + 1))
        page = found[:limit]
        return JobPage([seen.job for seen in page], page[-1].cursor.text() if len(found) > limit else None)

    @contextmanager
    def take(self, chosen: JobFilter, *, limit: int) -> Iterator[Sequence[TakenJob]]:
        with translated():
            free = (seen for seen in self._matching(chosen, Cursor()) if seen.can_be_taken)
            found = list(islice(free, limit))
        parked = [seen.job.id for seen in found if seen.place is None]
        places = [seen.place for seen in found if seen.place is not None]
        with self._parked.take(parked, self._send_again) as taken_parked, self._take_off(places) as taken:
            yield [*taken, *taken_parked]

    def park(self, raw: bytes, failure: JobFailure) -> str:
        return self._parked.park(raw, failure)

    def _matching(self, chosen: JobFilter, after: Cursor) -> Iterator[Seen]:
        return (seen for seen in self._walk.through(chosen, after) if chosen.matches(seen.job))

    @contextmanager
    def _take_off(self, places: Sequence[Place]) -> Iterator[Sequence[TakenJob]]:
        if not places:
            yield ()
            return
        holder = f"shelf-{uuid.uuid4().hex}"
        try:
            with translated():
                entries = self._messages.take_off(holder, _LONGEST_HOLD, places)
                jobs = [self._walk.read_entry(entry) for entry in entries]
            held = zip(entries, jobs, strict=True)
            yield [_TakenMessage(self._messages, holder, entry, job) for entry, job in held if job is not None]
        finally:
            with translated():
                self._messages.give_back(holder, lost=False)

    def _send_again(self, envelope: JobEnvelope) -> None:
        self._messages.send([envelope], again=True)


class _TakenMessage(TakenJob):
    def __init__(self, messages: Messages, holder: str, entry: bytes, job: StoredJob) -> None:
        self._messages = messages
        self._holder = holder
        self._entry = entry
        self.job = job

    def acknowledge(self) -> bool:
        with translated():
            return self._messages.acknowledge(self._holder, self._entry)

    def replace(self, envelope: JobEnvelope) -> bool:
        with translated():
            if not self._messages.holds(self._holder, self._entry):
                return False
        self._messages.send([envelope], again=True)
        return self.acknowledge()


_LONGEST_HOLD: Final = 300.0
