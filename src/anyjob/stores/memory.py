"""The built-in store: jobs in this process's memory, for tests and for work that may end with the process."""

from __future__ import annotations

import heapq
import itertools
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from operator import attrgetter

from msgspec import Struct
from msgspec.structs import replace

from anyjob.base.clock import Clock, SystemClock
from anyjob.base.envelope import JobEnvelope, JobIds, copy_id, count_loss_in, id_in, own_id, write_envelope_tightly
from anyjob.base.errors import DuplicateJobIdError, InvalidOptionError
from anyjob.base.forks import in_each_process
from anyjob.seams.marks import SendMarks
from anyjob.seams.outcome import Abandoned, Completed, JobFailure, Outcome
from anyjob.seams.source import JobClaim, Listeners, LostJob
from anyjob.seams.store import JobStore
from anyjob.seams.stored import JobFilter, JobPage, JobState, StoredJob
from anyjob.stores.lanes import JobLane, JobRow

__all__ = ["InMemoryJobStore"]


class _Lease(Struct, frozen=True, gc=False):
    """A row out of its lane: claimed by a worker, or held by an operator."""

    row: JobRow
    token: int
    worker: str
    until: float  # on the clock's `monotonic`
    running: bool

    def is_over(self, now: float) -> bool:
        return (
            round(self.until, 6) <= now
        )  # as in `deadline_in`, but here, because each claim would pay for the rounding


class _Marks(SendMarks):
    def __init__(self) -> None:
        self._keys: dict[str, set[str]] = {}

    def keys(self, mark: str) -> set[str]:
        """Return the keys of the jobs that were inserted under a mark."""
        return self._keys.setdefault(mark, set())

    def begin(self, mark: str) -> None:
        self.keys(mark)

    def knows(self, mark: str) -> bool:
        return mark in self._keys

    def forget(self, mark: str | None, ids: Collection[str] | None = None) -> None:
        if ids is not None:
            return  # a mark of a job lasts until its move is over
        if mark is None:
            self._keys.clear()
        else:
            self._keys.pop(mark, None)


class InMemoryJobStore(JobStore):
    """Keeps jobs in memory, as the bytes that any other backend would carry; they end with the process.

    They belong to the process that enqueued them: a forked child begins with none, else it would run its parent's
    again.
    """

    def __init__(self, clock: Clock | None = None) -> None:
        self.clock = clock or SystemClock()
        self._ids = JobIds()  # for parked messages without an id
        self._tokens = itertools.count(1)
        self.marks: _Marks = _Marks()
        self._listeners = Listeners()
        in_each_process(self._begin)

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self.marks.forget(None)
        self._buffer = bytearray(1024)
        self._sequence = itertools.count(1)
        self._rows: dict[str, JobRow] = {}
        self._leases: dict[str, _Lease] = {}
        self._failures: dict[str, JobFailure] = {}
        self._copies: dict[str, dict[str, None]] = {}  # `copy_id`s of parked jobs, by the id of the job
        self._lanes: dict[int, dict[str, JobLane]] = {}  # by priority, highest first, then by queue

    def insert(self, envelopes: Sequence[JobEnvelope], *, once: str | None = None) -> None:
        with self._lock:
            if once is not None:
                came = self.marks.keys(once)
                envelopes = [each for each in envelopes if SendMarks.key(each) not in came]
            rows = []
            for envelope in envelopes:
                self._refuse_taken(envelope.id, envelopes)
                rows.append((self._row(envelope), envelope))
            if len(rows) > 1 and len({row.id for row, _ in rows}) < len(rows):
                raise _duplicate("an id that occurs twice", envelopes)
            for row, envelope in rows:
                self._add(row, envelope)
            if once is not None:
                self.marks.keys(once).update(map(SendMarks.key, envelopes))
        self._listeners.tell()

    def claim(self, *, queues: Sequence[str] | None, limit: int, lease: timedelta, worker: str) -> Sequence[JobClaim]:
        now = self.clock.now
        until = self.clock.monotonic() + lease.total_seconds()
        claims: list[JobClaim] = []
        with self._lock:
            for level in self._lanes.values():
                while len(claims) < limit:
                    lane = _first(level, queues)
                    row = lane.pop_due(now) if lane is not None else None
                    if row is None:
                        break
                    claims.append(self._lease(row, worker, until, True))
        return claims

    def settle(self, claim: JobClaim, outcome: Outcome) -> bool:
        with self._lock:
            row = self._held(claim)
            if row is None:
                return False
            if isinstance(outcome, Completed):
                self._drop(row)
            elif isinstance(outcome, Abandoned):
                del self._leases[row.id]
                self._failures[row.id], row.raw = outcome.failure, outcome.raw
            else:
                job_id = outcome.envelope.id  # differs from the row's if this was parked as a copy, or as unreadable
                if job_id != row.id:
                    self._refuse_taken(job_id, [outcome.envelope])
                again = self._row(outcome.envelope)  # first, because it may not be encodable
                self._drop(row)
                self._add(again, outcome.envelope)
        if not isinstance(outcome, Completed):
            self._listeners.tell()
        return True

    def release(self, claims: Sequence[JobClaim]) -> None:
        with self._lock:
            for claim in claims:
                row = self._held(claim)
                if row is not None:
                    self._put_back(row)
        self._listeners.tell()

    def listen(self, wake: Callable[[], None]) -> None:
        self._listeners.add(wake)

    def renew(self, claims: Sequence[JobClaim], lease: timedelta) -> Sequence[JobClaim]:
        until = self.clock.monotonic() + lease.total_seconds()
        lost = []
        with self._lock:
            for claim in claims:
                if self._held(claim) is None:
                    lost.append(claim)
                else:
                    self._leases[claim.id] = replace(self._leases[claim.id], until=until)
        return lost

    def recover(self) -> Sequence[LostJob]:
        now = self.clock.monotonic()
        lost = []
        with self._lock:
            for held in [held for held in self._leases.values() if held.is_over(now)]:
                row = held.row
                if held.running:
                    row.raw = count_loss_in(row.raw)
                    lost.append(LostJob(row.id, held.worker, now - held.until, row.raw))
                self._put_back(row)
        return lost

    def next_due_at(self, queues: Sequence[str] | None) -> datetime | None:
        with self._lock:
            lanes = [lane for level in self._lanes.values() if (lane := _first(level, queues)) is not None]
            firsts = [row for lane in lanes if (row := lane.first()) is not None]
        return min(firsts).due if firsts else None

    def hold(self, chosen: JobFilter, *, limit: int, lease: timedelta, worker: str) -> Sequence[JobClaim]:
        until = self.clock.monotonic() + lease.total_seconds()
        claims: list[JobClaim] = []
        with self._lock:
            free = (row for row in self._chosen(chosen) if row.id not in self._leases)
            for row in heapq.nsmallest(limit, free, key=lambda row: (-row.priority, row)):
                held = row if row.id in self._failures else self._out_of_its_lane(row)
                claims.append(self._lease(held, worker, until, False))
        return claims

    def park(self, raw: bytes, failure: JobFailure) -> str:
        now = self.clock.now()
        new = self._ids.new(now)
        own = job_id = id_in(raw) or new
        with self._lock:
            if own in self._rows:
                job_id = copy_id(own, new)
                self._copies.setdefault(own, {})[job_id] = None
            self._rows[job_id] = JobRow(now, next(self._sequence), job_id, "", 0, raw)
            self._failures[job_id] = failure
        return job_id

    def scan(self, chosen: JobFilter, *, cursor: str | None = None, limit: int = 100) -> JobPage:
        if limit < 1 or not (cursor or "0").isdecimal():
            raise InvalidOptionError(f"scan(cursor={cursor!r}, limit={limit!r}): a cursor of a page, and at least 1.")
        after, now = int(cursor or 0), self.clock.now()
        with self._lock:
            found = [row for row in self._chosen(chosen) if row.seq > after]
            page = heapq.nsmallest(limit, found, key=attrgetter("seq"))
            jobs = [self._show(row, now, chosen) for row in page]
        return JobPage(jobs, str(page[-1].seq) if len(found) > len(page) else None)

    def count(self) -> Mapping[JobState, int]:
        now = self.clock.now()
        counts = dict.fromkeys(JobState, 0)
        with self._lock:
            for row in self._rows.values():
                counts[self._state(row, now)] += 1
        return counts

    def _refuse_taken(self, job_id: str, envelopes: Sequence[JobEnvelope]) -> None:
        if job_id in self._rows:
            raise _duplicate(job_id, envelopes)

    def _row(self, envelope: JobEnvelope) -> JobRow:
        raw = write_envelope_tightly(envelope, self._buffer)
        due = envelope.due_at or envelope.first_due_at
        return JobRow(due, next(self._sequence), envelope.id, envelope.queue, envelope.priority, raw)

    def _add(self, row: JobRow, envelope: JobEnvelope) -> None:
        self._rows[row.id] = row
        try:
            lane = self._lanes[row.priority][row.queue]
        except KeyError:
            lane = self._new_lane(row.priority, row.queue)
        if envelope.due_at is None:
            lane.append(row)
        else:
            lane.push(row)

    def _new_lane(self, priority: int, queue: str) -> JobLane:
        if priority not in self._lanes:
            self._lanes = dict(sorted([*self._lanes.items(), (priority, {})], reverse=True))
        lane = self._lanes[priority][queue] = JobLane(self._rows)
        return lane

    def _drop(self, row: JobRow) -> None:
        del self._leases[row.id], self._rows[row.id]
        if self._failures and self._failures.pop(row.id, None) is not None:
            self._forget_copy(row.id)

    def _out_of_its_lane(self, row: JobRow) -> JobRow:
        """Return a copy that replaces a row in the middle of a lane."""
        another = self._rows[row.id] = replace(row)
        self._lanes[row.priority][row.queue].leave_stale()  # only now, because it compares rows with `rows`
        return another

    def _copy_of(self, job_id: str) -> str | None:
        return next(iter(self._copies.get(job_id, ())), None)

    def _forget_copy(self, job_id: str) -> None:
        of = own_id(job_id)
        if copies := self._copies.get(of):
            copies.pop(job_id, None)
            if not copies:
                del self._copies[of]

    def _lease(self, row: JobRow, worker: str, until: float, running: bool) -> JobClaim:
        token = next(self._tokens)
        self._leases[row.id] = _Lease(row, token, worker, until, running)
        return JobClaim(row.id, row.raw, token)

    def _held(self, claim: JobClaim) -> JobRow | None:
        """Return the row that the claim holds, if it does."""
        held = self._leases.get(claim.id)
        return held.row if held is not None and held.token == claim.token else None

    def _put_back(self, row: JobRow) -> None:
        del self._leases[row.id]
        if row.id not in self._failures:
            self._lanes[row.priority][row.queue].push(row)

    def _chosen(self, chosen: JobFilter) -> Iterator[JobRow]:
        rows: Iterable[JobRow] = self._rows.values()
        if chosen.ids is not None:
            found = (job_id if job_id in self._rows else self._copy_of(job_id) for job_id in chosen.ids)
            rows = [self._rows[each] for each in found if each is not None]
        now = self.clock.now()
        return (row for row in rows if chosen.matches(self._show(row, now, chosen)))

    def _show(self, row: JobRow, now: datetime, chosen: JobFilter) -> StoredJob:
        held = self._leases.get(row.id)
        state = self._state(row, now)
        job_id = row.id if chosen.ids is None or row.id in chosen.ids else own_id(row.id)
        return StoredJob(job_id, state, row.raw, self._failures.get(row.id), held.worker if held else None)

    def _state(self, row: JobRow, now: datetime) -> JobState:
        if row.id in self._failures:
            return JobState.ABANDONED
        held = self._leases.get(row.id)
        if held is not None and held.running:
            return JobState.RUNNING
        return JobState.SCHEDULED if row.due > now else JobState.WAITING


def _duplicate(what: str, envelopes: Sequence[JobEnvelope]) -> DuplicateJobIdError:
    ids = [envelope.id for envelope in envelopes]
    return DuplicateJobIdError(f"Already enqueued: {what}. Nothing was sent.", rejected=ids)


def _first(level: Mapping[str, JobLane], queues: Sequence[str] | None) -> JobLane | None:
    """Return the lane of a level whose first row is due first."""
    if queues is None and len(level) == 1:  # nearly always
        return next(iter(level.values()))
    lanes = [*level.values()] if queues is None else [level[queue] for queue in queues if queue in level]
    firsts = [(row, lane) for lane in lanes if (row := lane.first()) is not None]
    return min(firsts)[1] if firsts else None
