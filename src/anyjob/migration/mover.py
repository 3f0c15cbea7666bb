"""Moves jobs from one backend to another: take, send, acknowledge, in that order, so that a crash loses nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from datetime import timedelta
from itertools import islice
from typing import Final, Protocol

from anyjob.base.clock import Clock, deadline_in
from anyjob.base.envelope import JOB_ID, JobEnvelope, JobIds
from anyjob.base.errors import (
    AnyjobError,
    DuplicateJobIdError,
    EnqueueError,
    InvalidOptionError,
    UnsupportedCapabilityError,
)
from anyjob.migration.report import MigrationError, MigrationReport, MovedGroup, Tally
from anyjob.seams.backend import JobBackend
from anyjob.seams.capabilities import Capabilities
from anyjob.seams.inspector import HeldJob, JobInspector
from anyjob.seams.marks import SendMarks
from anyjob.seams.stored import JobFilter, JobState, StoredJob

__all__ = ["JobMigration", "MigrationOptions"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MigrationOptions:
    """What to move, and how. Raises `InvalidOptionError`."""

    states: frozenset[JobState] = frozenset({JobState.WAITING, JobState.SCHEDULED})
    """Of WAITING, SCHEDULED and ABANDONED. Running jobs are never touched."""
    queues: frozenset[str] | None = None
    name: str | None = None
    """A pattern of job names, as `mail.*`."""
    batch: int = 200
    """How many jobs are on the way at a time: so many are in doubt if the mover is killed."""
    rate: float | None = None
    """At most so many jobs a second."""
    verify: bool = False
    """Read each batch back from the destination before the source deletes it; refused if the destination can't list
    jobs.
    """
    resume: str | None = None
    """The run to go on with."""

    def __post_init__(self) -> None:
        if not self.states or JobState.RUNNING in self.states:
            raise InvalidOptionError("states: some of waiting, scheduled and abandoned; what runs is not moved.")
        if not 1 <= self.batch <= _LARGEST_BATCH:
            raise InvalidOptionError(f"batch: {self.batch!r}: from 1 to {_LARGEST_BATCH}.")
        if self.rate is not None and not self.rate > 0:
            raise InvalidOptionError(f"rate: {self.rate!r}: jobs a second, more than 0.")
        if self.resume is not None and not JOB_ID.fullmatch(self.resume):
            raise InvalidOptionError(f"resume: {self.resume!r} is no run's name; who was interrupted told it.")


class MoveSource(Protocol):
    """The source of a migration: a backend, or an inspector of native messages."""

    @property
    def capabilities(self) -> Capabilities: ...
    @property
    def inspector(self) -> JobInspector | None: ...
    @property
    def marks(self) -> SendMarks: ...


class JobMigration:
    """One run that moves jobs from `source` to `destination`, each given with its alias. For one thread, and once.

    Workers may go on on both sides: a job is either run by one or moved. It keeps every field, its due time included,
    and its place among those of its queue and level. Begun anew, a migration moves what is left; after a crash,
    `resume` tells the destination which jobs it may have got already.

    `refuse` raises `AnyjobError` for a job that the destination must not get, beyond what its capabilities say.
    `progress` is called after each batch; its reports have no groups.

    Raises `UnsupportedCapabilityError` if the source can't give away jobs of these states.
    """

    def __init__(
        self,
        source: tuple[str, MoveSource],
        destination: tuple[str, JobBackend],
        options: MigrationOptions,
        *,
        clock: Clock,
        refuse: Callable[[JobEnvelope], None] = lambda _: None,
        progress: Callable[[MigrationReport], None] = lambda _: None,
    ) -> None:
        self._from, self._source = source
        self._to, self._destination = destination
        if self._source is self._destination:
            raise _same_place(self._from, self._to)
        self._source.capabilities.refuse_moving(options.states, self._from)
        self._inspector = _inspector_of(self._from, self._source)
        if options.verify:
            self._destination.capabilities.refuse_listing(_TO_RUN)
        self._options = options
        self._clock = clock
        self._refuse = refuse
        self._progress = progress
        self._tally = Tally(self._reason_to_leave)
        self._chosen = JobFilter(
            states=options.states, queues=options.queues, name=options.name, where=self._tally.may_move
        )
        # A held job goes back by itself after five minutes: no batch may take longer.
        self._batch = min(options.batch, max(1, int(60 * options.rate))) if options.rate else options.batch
        self._next_at = clock.monotonic()
        self._pause = threading.Condition()
        self.is_stopped = False
        """Whether `stop` was called."""
        self._verified = 0
        self._in_doubt: dict[str, None] = {}
        self.run = options.resume or JobIds().new(clock.now())
        """The name of this run, which `resume` takes."""

    def preview(self) -> MigrationReport:
        """Look, and move nothing.

        If a source can't list its waiting jobs, each is held and given back: a worker then sees it as redelivered.
        """
        self._tally.begin_pass()
        with ExitStack() as stack:
            looked = _pages(self._inspector, self._chosen) if self._can_look() else None
            for job in looked or (each.job for each in stack.enter_context(self._drain())):
                self._tally.move(job)
        return self._report(dry_run=True, remaining=self._inspector.count())

    def move(self) -> MigrationReport:
        """Move all chosen jobs, until a pass over the source finds no more to move.

        Raises `MigrationError` when a side is unreachable, or a job reads otherwise at the destination;
        `InvalidOptionError` if both turn out to be one place.
        """
        try:
            self._begin()
            for _ in range(_MOST_PASSES):
                self._inspector.recover()
                if (self._pass() == 0 and self._is_empty()) or self.is_stopped:
                    break
            self._doubt(self._destination.marks.in_doubt(self.run))
            if not self._tally.under_way:  # else jobs are at the destination that the source may give again
                self._destination.marks.forget(self.run)
            return self._report(remaining=self._inspector.count())
        except EnqueueError as error:
            if not self._destination.capabilities.moves_once:
                self._doubt([*self._destination.marks.in_doubt(self.run), *error.in_doubt])
            raise MigrationError(f"Interrupted, nothing is lost: {error}", self._report()) from error

    def _begin(self) -> None:
        self._source.marks.forget(None)
        self._destination.marks.begin(self.run)
        if self._source.marks.knows(self.run):
            self._destination.marks.forget(self.run)
            raise _same_place(self._from, self._to)

    def stop(self) -> None:
        """End `move` after the batch that is on its way. From any thread, or a signal's handler."""
        self.is_stopped = True
        with self._pause:
            self._pause.notify_all()

    def _pass(self) -> int:
        """Go over the whole source once; return how many jobs were moved."""
        self._tally.begin_pass()
        before = self._tally.moved
        with self._drain() as taken:
            while not self.is_stopped and (batch := list(islice(taken, self._batch))):
                self._move(batch)
                self._progress(self._report(groups=()))
                self._keep_the_rate(len(batch))
        return self._tally.moved - before

    def _move(self, batch: Sequence[HeldJob]) -> None:
        self._tally.take(each.job for each in batch)
        jobs: list[tuple[HeldJob, JobEnvelope]] = []
        for each in batch:
            job, envelope = each.job, each.job.envelope
            if job.failure is not None:
                self._destination.park(job.raw, job.failure)
                self._let_go([each])
            elif envelope is not None:
                jobs.append((each, envelope))
        if jobs:
            self._send(jobs)

    def _send(self, jobs: Sequence[tuple[HeldJob, JobEnvelope]]) -> None:
        try:
            self._destination.send([each for _, each in jobs], once=self.run)
        except DuplicateJobIdError:
            if len(jobs) > 1:  # one by one, to tell them apart
                for job in jobs:
                    self._send([job])
            else:
                self._tally.leave(jobs[0][0].job, f"Backend {self._to!r} has a job of that id already.")
            return
        except EnqueueError as error:
            self._let_go([each for each, _ in jobs if each.job.id in error.accepted])
            raise
        sent = [each for each, _ in jobs]
        if self._options.verify:
            self._verify(sent)
        self._let_go(sent)

    def _let_go(self, sent: Sequence[HeldJob]) -> None:
        """Delete from the source the jobs that the destination accepted."""
        held = self._inspector.acknowledge(sent)
        gone = [each.job for each, was_held in zip(sent, held, strict=True) if was_held]
        for job in gone:  # the others are back at the source, and will be read again
            self._tally.move(job)
        self._destination.marks.forget(self.run, [job.id for job in gone])

    def _verify(self, sent: Sequence[HeldJob]) -> None:
        """Compare with the jobs at the destination. If one is missing there, a worker has claimed it meanwhile."""
        wanted = {each.job.id: each.job.envelope for each in sent}
        found = (
            _inspector_of(self._to, self._destination)
            .scan(JobFilter(ids=frozenset(wanted), states=_TO_RUN), limit=2 * len(wanted))
            .jobs
        )
        for job in found:
            if job.envelope != wanted[job.id]:
                raise MigrationError(
                    f"Job {job.id} reads otherwise in {self._to!r} than in {self._from!r}; it is in both now.",
                    self._report(),
                )
        self._verified += len({job.id for job in found})

    def _drain(self) -> AbstractContextManager[Iterator[HeldJob]]:
        return self._inspector.hold(self._chosen, holder=f"move-{self.run}", ahead=self._batch)

    def _can_look(self) -> bool:
        return self._options.states <= self._source.capabilities.listing

    def _is_empty(self) -> bool:
        """Whether the source counts no more jobs than are left there: jobs on their way from one of a broker's queues
        to the next are in no queue.
        """
        if self._options.queues is not None or self._options.name is not None:
            return True
        counts = self._inspector.count()
        if not counts.keys() >= self._options.states:
            return True  # it can't be counted: a pass found nothing
        return sum(counts[state] for state in self._options.states) <= self._tally.left + self._tally.foreign

    def _reason_to_leave(self, envelope: JobEnvelope) -> str | None:
        delay = timedelta() if envelope.due_at is None else envelope.due_at - self._clock.now()
        try:
            self._destination.capabilities.refuse_unsupported(envelope, delay=delay, backend=self._to)
            self._refuse(envelope)
        except AnyjobError as error:
            return str(error)
        return None

    def _doubt(self, ids: Iterable[str]) -> None:
        self._in_doubt.update(dict.fromkeys(ids))

    def _keep_the_rate(self, count: int) -> None:
        if self._options.rate is None:
            return
        ahead = max(self._next_at - self._clock.monotonic(), 0.0)
        self._next_at = deadline_in(self._clock, ahead + count / self._options.rate)
        with self._pause:
            while not self.is_stopped and self._clock.monotonic() < self._next_at:
                self._clock.wait(self._pause, self._next_at)

    def _report(
        self,
        *,
        dry_run: bool = False,
        groups: Sequence[MovedGroup] | None = None,
        remaining: Mapping[JobState, int] | None = None,
    ) -> MigrationReport:
        tally = self._tally
        return MigrationReport(
            run=self.run,
            source=self._from,
            destination=self._to,
            dry_run=dry_run,
            passes=tally.passes,
            read=tally.moved + tally.left + tally.foreign + tally.under_way,
            moved=tally.moved,
            left=tally.left,
            foreign=tally.foreign,
            verified=self._verified,
            in_doubt=list(self._in_doubt),
            groups=tally.groups() if groups is None else groups,
            remaining=remaining or {},
        )


def _same_place(source: str, destination: str) -> InvalidOptionError:
    return InvalidOptionError(f"{source!r} and {destination!r} are one place: there is nothing to move.")


def _pages(inspector: JobInspector, chosen: JobFilter) -> Iterator[StoredJob]:
    page = inspector.scan(chosen, limit=_PAGE)
    yield from page.jobs
    while page.cursor is not None:
        page = inspector.scan(chosen, cursor=page.cursor, limit=_PAGE)
        yield from page.jobs


def _inspector_of(alias: str, backend: MoveSource) -> JobInspector:
    if backend.inspector is None:
        raise UnsupportedCapabilityError(f"Backend {alias!r} keeps no parked jobs, and can't be looked into.")
    return backend.inspector


_LARGEST_BATCH: Final = 1_000
_MOST_PASSES: Final = 10
_PAGE: Final = 500
_TO_RUN: Final = frozenset({JobState.WAITING, JobState.SCHEDULED})
