"""A backend over a folder of files, for one machine: jobs survive, and several processes may share them.

A job is a file. Its name gives its place in line, so that a claim only has to list a folder:

    free/<95 - priority>.<due>.<number>.<queue>.<id>      waits; the content is the envelope, to the byte
    held/<the same name>                                  run by a worker, or held; the content names the holder
    parked/<number>.<id>                                  given up; the content has the failure, too

One lock file makes every operation atomic. Leases end by the machine's monotonic clock, which all its processes share
and which nobody sets. It is an example: no index, no fsync.
"""

from __future__ import annotations

import fcntl
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import quote

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from anyjob.extend import (
    Abandoned,
    BackendConfig,
    BulkAtomicity,
    Capabilities,
    Clock,
    Completed,
    DuplicateJobIdError,
    EnqueueError,
    JobClaim,
    JobEnvelope,
    JobFailure,
    JobFilter,
    JobIds,
    JobPage,
    JobState,
    JobStore,
    LostJob,
    Outcome,
    Quality,
    SendMarks,
    StoreBackend,
    StoredJob,
    SystemClock,
    copy_id,
    count_loss_in,
    deadline_in,
    id_in,
    log_parked,
    own_id,
    write_envelope,
)


class Record(Struct, frozen=True):
    """The content of a held or parked file."""

    raw: bytes
    home: str
    """The file it goes back to, as `free/...`."""
    failure: JobFailure | None = None
    token: int = 0
    worker: str = ""
    lease: float = 0.0
    until: float = 0.0
    running: bool = False

    def is_over(self, now: float) -> bool:
        """Whether the lease ended. If more than its length is left, it began before the machine's last boot."""
        return not 0 < self.until - now < self.lease + 1


class FolderMarks(SendMarks):
    """A file for each mark, with a line for each job that was sent under it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def keys(self, mark: str) -> set[str]:
        """Return the keys of the jobs that were sent under a mark."""
        return set(self._file(mark).read_text().splitlines()) if self.knows(mark) else set()

    def note(self, mark: str, envelopes: Sequence[JobEnvelope]) -> None:
        """Remember that these were sent."""
        with self._file(mark).open("a") as file:
            file.writelines(f"{SendMarks.key(envelope)}\n" for envelope in envelopes)

    def begin(self, mark: str) -> None:
        self._file(mark).touch()

    def knows(self, mark: str) -> bool:
        return self._file(mark).exists()

    def forget(self, mark: str | None, ids: Collection[str] | None = None) -> None:
        if ids is None:  # notes of single jobs go with their mark
            for file in self._folder.iterdir() if mark is None else [self._file(mark)]:
                file.unlink(missing_ok=True)

    def _file(self, mark: str) -> Path:
        return self._folder / quote(mark, safe="")


class FolderStore(JobStore):
    """Keeps jobs in a folder."""

    poll = 0.1  # another process's file wakes no worker here, and a look costs little

    def __init__(self, folder: Path, clock: Clock | None = None) -> None:
        self.clock = clock or SystemClock()
        self.marks: FolderMarks = FolderMarks(folder / "marks")
        self._ids = JobIds()
        self._folder = folder
        for name in ("free", "held", "parked", "marks"):
            (folder / name).mkdir(parents=True, exist_ok=True)

    # Enqueue

    def insert(self, envelopes: Sequence[JobEnvelope], *, once: str | None = None) -> None:
        with self._lock():
            if once is not None:
                came = self.marks.keys(once)
                envelopes = [envelope for envelope in envelopes if SendMarks.key(envelope) not in came]
            ids = [envelope.id for envelope in envelopes]
            taken = {_id(name) for name in self._names("free", "held", "parked")}.intersection(ids)
            if taken or len(set(ids)) < len(ids):
                what = ", ".join(taken) or "an id that occurs twice"
                raise DuplicateJobIdError(f"Already enqueued: {what}. Nothing was sent.", rejected=ids)
            try:
                for envelope in envelopes:
                    self._free(envelope)
            except OSError as error:
                raise EnqueueError(f"The folder takes no jobs: {error}", in_doubt=ids) from error
            if once is not None:
                self.marks.note(once, envelopes)

    # Work

    def claim(self, *, queues: Sequence[str] | None, limit: int, lease: timedelta, worker: str) -> Sequence[JobClaim]:
        now = self.clock.now()
        with self._lock():
            due = [name for name in self._in_line(queues) if _due(name) <= now][:limit]
            return [self._hold(f"free/{name}", worker, lease, running=True) for name in due]

    def settle(self, claim: JobClaim, outcome: Outcome) -> bool:
        with self._lock():
            file = self._held(claim)
            if file is None:
                return False
            if isinstance(outcome, Abandoned):
                self._park(outcome.raw, outcome.failure, claim.id)
                if outcome.envelope is None:
                    log_parked(claim.id, outcome.failure)
            elif not isinstance(outcome, Completed):
                others = {_id(name) for name in self._names("free", "held", "parked")} - {claim.id}
                if outcome.envelope.id in others:  # the parked, once unreadable job has the id of one that is here
                    raise DuplicateJobIdError(
                        f"Already enqueued: {outcome.envelope.id}", rejected=[outcome.envelope.id]
                    )
                self._free(outcome.envelope)
            file.unlink()
            return True

    def release(self, claims: Sequence[JobClaim]) -> None:
        with self._lock():
            for claim in claims:
                file = self._held(claim)
                if file is not None:
                    self._put_back(file, _read(file))

    def renew(self, claims: Sequence[JobClaim], lease: timedelta) -> Sequence[JobClaim]:
        lost = []
        with self._lock():
            for claim in claims:
                file = self._held(claim)
                if file is None:
                    lost.append(claim)
                else:
                    self._write(file, replace(_read(file), **self._from_now(lease)))
        return lost

    def recover(self) -> Sequence[LostJob]:
        lost = []
        with self._lock():
            now = self.clock.monotonic()
            for file in (self._folder / "held").iterdir():
                record = _read(file)
                if not record.is_over(now):
                    continue
                if record.running:
                    record = replace(record, raw=count_loss_in(record.raw))
                    lost.append(LostJob(_id(file.name), record.worker, max(now - record.until, 0.0), record.raw))
                self._put_back(file, record)
        return lost

    def next_due_at(self, queues: Sequence[str] | None) -> datetime | None:
        with self._lock():
            return min(map(_due, self._in_line(queues)), default=None)

    # Look

    def hold(self, chosen: JobFilter, *, limit: int, lease: timedelta, worker: str) -> Sequence[JobClaim]:
        with self._lock():
            free = [path for path, _ in self._shown(chosen) if not path.startswith("held/")]
            return [self._hold(path, worker, lease, running=False) for path in sorted(free)[:limit]]

    def park(self, raw: bytes, failure: JobFailure) -> str:
        new = self._ids.new(self.clock.now())
        job_id = id_in(raw) or new
        with self._lock():
            if job_id in {_id(name) for name in self._names("free", "held", "parked")}:
                job_id = copy_id(job_id, new)
            self._park(raw, failure, job_id)
        return job_id

    def scan(self, chosen: JobFilter, *, cursor: str | None = None, limit: int = 100) -> JobPage:
        with self._lock():
            shown = [(_number(path), job) for path, job in self._shown(chosen)]
        rest = [(number, job) for number, job in shown if number > int(cursor or 0)]
        page = rest[:limit]
        return JobPage([job for _, job in page], str(page[-1][0]) if len(rest) > limit else None)

    def count(self) -> Mapping[JobState, int]:
        counts = dict.fromkeys(JobState, 0)
        with self._lock():
            for _, job in self._shown(JobFilter()):
                counts[job.state] += 1
        return counts

    # Files

    @contextmanager
    def _lock(self) -> Iterator[None]:
        with (self._folder / "lock").open("a") as file:  # opened anew each time: so it excludes threads, too
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _from_now(self, lease: timedelta) -> Mapping[str, float]:
        seconds = lease.total_seconds()
        return {"lease": seconds, "until": deadline_in(self.clock, seconds)}

    def _next_number(self) -> int:
        counter = self._folder / "number"
        number = int(counter.read_text()) + 1 if counter.exists() else 1
        self._replace(counter, str(number).encode())
        return number

    def _names(self, *folders: str) -> Iterable[str]:
        return (file.name for folder in folders for file in (self._folder / folder).iterdir())

    def _in_line(self, queues: Sequence[str] | None) -> list[str]:
        return sorted(name for name in self._names("free") if queues is None or name.split(".")[3] in queues)

    def _free(self, envelope: JobEnvelope) -> None:
        due = envelope.due_at or envelope.first_due_at
        place = f"{95 - envelope.priority}.{_microseconds(due):020}.{self._next_number():012}"
        file = self._folder / "free" / f"{place}.{envelope.queue}.{envelope.id}"
        self._replace(file, write_envelope(envelope))

    def _park(self, raw: bytes, failure: JobFailure, job_id: str) -> None:
        home = f"parked/{self._next_number():012}.{job_id}"
        self._write(self._folder / home, Record(raw, home, failure))

    def _hold(self, path: str, worker: str, lease: timedelta, *, running: bool) -> JobClaim:
        held = replace(self._record(path), token=self._next_number(), worker=worker, running=running)
        record = replace(held, **self._from_now(lease))
        self._write(self._folder / "held" / Path(path).name, record)
        (self._folder / path).unlink()
        return JobClaim(_id(path), record.raw, record.token)

    def _held(self, claim: JobClaim) -> Path | None:
        """Return the file that the claim holds, if it still does."""
        files = (self._folder / "held").glob(f"*.{claim.id}")
        return next((file for file in files if _read(file).token == claim.token), None)

    def _put_back(self, file: Path, record: Record) -> None:
        home = self._folder / record.home
        if record.home.startswith("parked/"):
            self._write(home, Record(record.raw, record.home, record.failure))
        else:
            self._replace(home, record.raw)
        file.unlink()

    def _write(self, file: Path, record: Record) -> None:
        self._replace(file, msgspec.json.encode(record))

    def _replace(self, file: Path, content: bytes) -> None:
        new = self._folder / "new"  # whole or not at all, though the process be killed; under the lock, nobody else's
        new.write_bytes(content)
        new.rename(file)

    def _record(self, path: str) -> Record:
        file = self._folder / path
        return Record(file.read_bytes(), path) if path.startswith("free/") else _read(file)

    def _shown(self, chosen: JobFilter) -> Iterator[tuple[str, StoredJob]]:
        """Yield the chosen files with the jobs that they show, in the order in which they were written."""
        paths = [f"{folder}/{name}" for folder in ("free", "held", "parked") for name in self._names(folder)]
        taken = {*map(_id, paths)}
        for path in sorted(paths, key=_number):
            job = self._show(path)
            own = own_id(job.id)
            if own in (chosen.ids or ()) and own not in taken:  # a parked copy, and no other job has its id
                taken.add(own)
                job = replace(job, id=own)
            if chosen.matches(job):
                yield path, job

    def _show(self, path: str) -> StoredJob:
        record = self._record(path)
        if record.failure is not None:
            state = JobState.ABANDONED
        elif record.running:
            state = JobState.RUNNING
        else:
            state = JobState.SCHEDULED if _due(Path(path).name) > self.clock.now() else JobState.WAITING
        return StoredJob(_id(path), state, record.raw, record.failure, record.worker or None)


def folder_backend(config: BackendConfig) -> StoreBackend:
    """Make the backend of a URL such as `folder:/var/spool/jobs`: the entry point `anyjob.backends`."""
    capabilities = Capabilities(
        priority=Quality.EXACT,
        delay=Quality.EXACT,
        bulk=BulkAtomicity.BATCH,
        unique_ids=True,
        moves_once=True,
        durable=True,
        redelivery_bound=timedelta(seconds=config.lease * 4 / 3),
        exact_loss_count=True,
    )
    store = FolderStore(Path(config.url.partition(":")[2]), config.clock)
    return StoreBackend(store, capabilities, lease=config.lease)


def _microseconds(when: datetime) -> int:
    return (when - _EPOCH) // timedelta(microseconds=1)


def _due(name: str) -> datetime:
    return _EPOCH + timedelta(microseconds=int(name.split(".")[1]))


def _number(path: str) -> int:
    """Return the number under which a file was first written."""
    parts = Path(path).name.split(".")
    return int(parts[0] if len(parts) == 2 else parts[2])


def _id(path: str) -> str:
    return path.rpartition(".")[2]


def _read(file: Path) -> Record:
    return _decoder.decode(file.read_bytes())


_decoder = msgspec.json.Decoder(Record)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
