"""The report of a migration, which counts jobs while it goes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from msgspec import Struct, field

from anyjob.base.envelope import JobEnvelope
from anyjob.base.errors import AnyjobError
from anyjob.seams.natives import NativeJob
from anyjob.seams.stored import JobState, StoredJob

__all__ = ["MigrationError", "MigrationReport", "MovedGroup", "Tally"]


class MovedGroup(Struct, frozen=True):
    """The jobs of one queue, state and name, as they were at the source; foreign messages have neither queue nor name,
    except native messages that are adopted: theirs are the library's own queue and task.
    """

    queue: str
    state: JobState
    job: str
    moved: int
    left: int
    """Left there, foreign ones too."""
    why: Sequence[str] = ()
    """Why, in up to five ways."""


class MigrationReport(Struct, frozen=True, kw_only=True):
    """How far a migration has come."""

    run: str
    """What `resume` takes."""
    source: str
    destination: str
    dry_run: bool = False
    passes: int = 0
    read: int = 0
    """How many different jobs it read."""
    moved: int = 0
    """Accepted by the destination, and deleted from the source; in a dry run: that would be."""
    left: int = 0
    """Left where they were; `groups` say why."""
    foreign: int = 0
    """No jobs of ours, or of a newer version: left untouched."""
    verified: int = 0
    """Of the moved: read back from the destination and found equal."""
    in_doubt: Sequence[str] = ()
    """Jobs that may be at the destination twice: a mover was killed, or a server unreachable, when they were on the
    way.
    """
    groups: Sequence[MovedGroup] = ()
    remaining: Mapping[JobState, int] = field(default_factory=dict)
    """The jobs that the source still counts, chosen or not."""

    @property
    def is_balanced(self) -> bool:
        """Whether `read` = `moved` + `left` + `foreign`; missing jobs went back to the source while under way."""
        return self.read == self.moved + self.left + self.foreign


class MigrationError(AnyjobError):
    """A migration was interrupted, and nothing is lost; `report` says how far it came, and its `run` how to go on."""

    def __init__(self, message: str, report: MigrationReport) -> None:
        super().__init__(message)
        self.report = report


class _Group(Struct, frozen=True, order=True):
    queue: str
    state: JobState
    job: str

    @classmethod
    def of(cls, job: StoredJob) -> _Group:
        if isinstance(job, NativeJob):
            return cls(job.queue, job.state, job.task)
        envelope = job.envelope
        return cls("", job.state, "") if envelope is None else cls(envelope.queue, job.state, envelope.name)


class Tally:
    """Decides which jobs are left where they are, and counts. The last pass counts those that are left, by id."""

    def __init__(self, reason: Callable[[JobEnvelope], str | None]) -> None:
        self.passes = 0
        self._reason = reason
        self._moved: Counter[_Group] = Counter()
        self._left: dict[str, _Group] = {}
        self._foreign: dict[str, _Group] = {}
        self._why: dict[_Group, dict[str, None]] = {}
        self._under_way: set[str] = set()

    def begin_pass(self) -> None:
        self.passes += 1
        for each in (self._left, self._foreign, self._why):
            each.clear()

    def may_move(self, job: StoredJob) -> bool:
        if isinstance(job, NativeJob) and job.obstacle is not None:
            self._leave(self._left if job.is_chosen else self._foreign, job, job.obstacle)
            return False
        envelope = job.envelope
        if job.state is JobState.ABANDONED and job.failure is not None:
            return True  # as it is, whether or not it can be read
        if job.state is JobState.ABANDONED or envelope is None:
            self._leave(self._foreign, job, "It is no job of ours, or of a newer version.")
            return False
        reason = self._reason(envelope)
        if reason is not None:
            self.leave(job, reason)
        return reason is None

    def take(self, jobs: Iterable[StoredJob]) -> None:
        self._under_way.update(job.id for job in jobs)

    def move(self, job: StoredJob) -> None:
        self._under_way.discard(job.id)
        self._moved[_Group.of(job)] += 1

    def leave(self, job: StoredJob, reason: str) -> None:
        self._under_way.discard(job.id)
        self._leave(self._left, job, reason)

    @property
    def moved(self) -> int:
        return self._moved.total()

    @property
    def left(self) -> int:
        return len(self._left)

    @property
    def foreign(self) -> int:
        return len(self._foreign)

    @property
    def under_way(self) -> int:
        return len(self._under_way)

    def groups(self) -> Sequence[MovedGroup]:
        left = Counter(self._left.values()) + Counter(self._foreign.values())
        return [
            MovedGroup(each.queue, each.state, each.job, self._moved[each], left[each], list(self._why.get(each, ())))
            for each in sorted({*self._moved, *left})
        ]

    def _leave(self, where: dict[str, _Group], job: StoredJob, reason: str) -> None:
        group = where[job.id] = _Group.of(job)
        why = self._why.setdefault(group, {})
        if len(why) < _MOST_REASONS:
            why[reason] = None


_MOST_REASONS: Final = 5
