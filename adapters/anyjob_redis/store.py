"""Jobs in Redis as a store: whatever the layout, one protocol. `store_scripts` does what is said here."""

from __future__ import annotations

import heapq
import itertools
import secrets
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import msgspec
from msgspec import Struct
from redis import Redis
from redis.commands.core import Script
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from anyjob.base.clock import Clock
from anyjob.base.envelope import JobEnvelope, JobIds, copy_id, id_in, own_id
from anyjob.base.errors import DuplicateJobIdError, EnqueueError, InvalidOptionError
from anyjob.base.forks import in_each_process
from anyjob.seams.backend import log_parked
from anyjob.seams.outcome import Abandoned, Completed, JobFailure, Outcome
from anyjob.seams.source import DEFAULT_LEASE, JobClaim, LostJob
from anyjob.seams.store import JobStore
from anyjob.seams.stored import JobFilter, JobPage, JobState, StoredJob
from anyjob_redis import store_scripts as scripts
from anyjob_redis.connection import translated
from anyjob_redis.layout import Layout, SortedLayout
from anyjob_redis.levels import LEVELS, KnownQueues
from anyjob_redis.moved import RedisMarks
from anyjob_redis.parked import read_failure
from anyjob_redis.places import CHUNK
from anyjob_redis.scripts import SLICE, register
from anyjob_redis.sending import send_in_batches
from anyjob_redis.skew import is_of_a_machine
from anyjob_redis.wake import WakeListener

__all__ = ["RedisJobStore"]


class RedisJobStore(JobStore):
    """The jobs under `root`, which all keys begin with. Thread-safe and fork-safe.

    `insert` is atomic for each 500 jobs, and succeeds or fails `within` so many seconds. Jobs are due by `clock`'s
    `now`, and by the server's if that is earlier; leases end by the server's. A clock that a test moves stands for the
    server's as well. `lease` is what workers here claim for, in seconds: after an absence of the server, when all
    are over, nobody's is lost before a third of that: who lives renews in that time.
    """

    poll = 1.0

    def __init__(
        self,
        client: Redis,
        root: str,
        clock: Clock,
        *,
        layout: Layout | None = None,
        lease: float = DEFAULT_LEASE,
        within: float | None = None,
    ) -> None:
        self.clock = clock
        self.root = root
        self.layout = layout or SortedLayout()
        self.marks: RedisMarks = RedisMarks(client, root)
        self._client: Any = client  # redis-py's types can't tell that nothing is decoded
        self._lease = lease
        self._within = within
        self._ids = JobIds()
        self._queues = KnownQueues(client, f"{root}:queues")
        self._keys = _Keys(root)
        prelude = scripts.prelude(root, self.layout.lua)
        self._insert = register(client, prelude + scripts.INSERT)
        self._scripts: Mapping[str, Script] = {
            text: register(client, prelude + text, drains=root) for text in _DRAINING
        }
        self._is_of_a_machine = is_of_a_machine(clock)
        self._listener = WakeListener(client, f"{root}:wake")
        in_each_process(self._begin)

    def _begin(self) -> None:
        self._calls = itertools.count()
        self._process = secrets.token_hex(6)
        self._lock = threading.Lock()
        self._unanswered: dict[str, float] = {}

    # Senders

    def insert(self, envelopes: Sequence[JobEnvelope], *, once: str | None = None) -> None:
        ids = [envelope.id for envelope in envelopes]
        if len(set(ids)) < len(ids):
            raise DuplicateJobIdError("Already enqueued: an id that occurs twice. Nothing was sent.", rejected=ids)
        jobs = [
            (envelope.id, (envelope.id, self.marks.key(envelope), *self._written(envelope))) for envelope in envelopes
        ]
        send_in_batches(
            self._client, self._insert, [*self._times(), self.marks.key_of(once)], jobs, within=self._within
        )

    # Workers

    def claim(self, *, queues: Sequence[str] | None, limit: int, lease: timedelta, worker: str) -> Sequence[JobClaim]:
        return self.settle_and_claim((), queues=queues, limit=limit, lease=lease, worker=worker)[1]

    def settle(self, claim: JobClaim, outcome: Outcome) -> bool:
        with translated():
            (told,) = self._run(scripts.CLAIM, 1, *self._ended(claim, outcome), 0)
        if told == _TAKEN:
            raise DuplicateJobIdError("Already enqueued, or parked: the id of what is to go back.")
        _log_unreadable(claim, outcome, held=bool(told))
        return bool(told)

    def settle_and_claim(
        self,
        ended: Sequence[tuple[JobClaim, Outcome]],
        *,
        queues: Sequence[str] | None,
        limit: int,
        lease: timedelta,
        worker: str,
    ) -> tuple[Sequence[bool], Sequence[JobClaim]]:
        if any(_may_be_taken(*each) for each in ended):  # which is to be told of that one alone
            return super().settle_and_claim(ended, queues=queues, limit=limit, lease=lease, worker=worker)
        if self._unanswered:
            self._release_unanswered()
        call = self._new_call()
        settled = [part for each in ended for part in self._ended(*each)]
        try:
            with translated():
                told = self._run(
                    scripts.CLAIM,
                    len(ended),
                    *settled,
                    *(limit, _microseconds(lease), worker, call),
                    *(("*",) if queues is None else queues),
                )
        except EnqueueError as error:
            if isinstance(error.__cause__, RedisConnectionError | RedisTimeoutError):
                with self._lock:
                    self._unanswered[call] = self.clock.monotonic() + lease.total_seconds()
            raise
        were_held = [bool(each) for each in told[: len(ended)]]
        for (claim, outcome), held in zip(ended, were_held, strict=True):
            _log_unreadable(claim, outcome, held=held)
        return were_held, self._claims(told[len(ended) :])

    def release(self, claims: Sequence[JobClaim]) -> None:
        for some in _in_slices(claims):
            with translated():
                self._run(scripts.RELEASE, *(part for each in some for part in (each.id, each.token)))

    def renew(self, claims: Sequence[JobClaim], lease: timedelta) -> Sequence[JobClaim]:
        lost: list[JobClaim] = []
        for some in _in_slices(claims):
            with translated():
                pairs = (part for each in some for part in (each.id, each.token))
                told = self._run(scripts.RENEW, _microseconds(lease), *pairs)
            lost += [claim for claim, held in zip(some, told, strict=True) if not held]
        return lost

    def recover(self) -> Sequence[LostJob]:
        lost: list[LostJob] = []
        if self._unanswered:
            self._release_unanswered()
        look = int(self._lease / 3 * 1_000_000) if self._is_of_a_machine else 0
        with translated():
            while told := self._run(scripts.EXPIRED, SLICE, look):
                found = [_Expired(*told[first : first + 4]) for first in range(0, len(told), 4)]
                messages = [self.layout.count_loss(each.message) for each in found]
                pairs = zip([each.member for each in found], messages, strict=True)
                were_over = self._run(scripts.RECOVER, *(part for pair in pairs for part in pair))
                lost += [
                    LostJob(
                        _text(each.member.split(b" ", 2)[2]),
                        _text(each.worker),
                        int(each.over) / 1e6,
                        self.layout.unwrap(message),
                    )
                    for each, message, was_over in zip(found, messages, were_over, strict=True)
                    if was_over
                ]
        return lost

    def next_due_at(self, queues: Sequence[str] | None) -> datetime | None:
        before = self.clock.now()
        with translated():
            found = self._run(scripts.NEXT_DUE, *(("*",) if queues is None else queues))
        if not found:
            return None
        due = _moment(int(found[0]))
        if self._is_of_a_machine:  # it is claimed when the server's clock has come so far, too
            ahead = before - _moment(int(found[1]))
            return due + max(ahead, timedelta())
        return due

    def listen(self, wake: Callable[[], None]) -> None:
        self._listener.add(wake)

    def close(self) -> None:
        self._listener.close()
        self._client.close()

    # Operators

    def hold(self, chosen: JobFilter, *, limit: int, lease: timedelta, worker: str) -> Sequence[JobClaim]:
        claims: list[JobClaim] = []
        call = self._new_call()
        with translated():
            found = self._free(chosen)
            while len(claims) < limit and (ids := list(itertools.islice(found, min(limit - len(claims), SLICE)))):
                told = self._run(scripts.HOLD, _microseconds(lease), worker, call, *ids)
                claims += self._claims(told)
        return claims

    def release_held(self, worker: str) -> None:
        with translated():
            self._run(scripts.RELEASE_HELD, worker)

    def park(self, raw: bytes, failure: JobFailure) -> str:
        new = self._ids.new(self.clock.now())
        own = id_in(raw) or new
        with translated():
            return _text(self._run(scripts.PARK, own, copy_id(own, new), raw, msgspec.json.encode(failure)))

    def scan(self, chosen: JobFilter, *, cursor: str | None = None, limit: int = 100) -> JobPage:
        if limit < 1 or not (cursor or "0").isdecimal():
            raise InvalidOptionError(f"scan(cursor={cursor!r}, limit={limit!r}): a cursor of a page, and at least 1.")
        with translated():
            rows = self._by_id(chosen) if chosen.ids is not None else self._in_order(int(cursor or 0))
            found = (pair for pair in rows if pair[0].seq > int(cursor or 0) and chosen.matches(pair[1]))
            page = list(itertools.islice(found, limit + 1))
        more = str(page[limit - 1][0].seq) if len(page) > limit else None
        return JobPage([job for _, job in page[:limit]], more)

    def count(self) -> Mapping[JobState, int]:
        with translated():
            return dict(zip(_COUNTED, self._run(scripts.COUNT), strict=True))

    # What they have in common

    def _run(self, text: str, *args: Any) -> Any:
        return self._scripts[text](args=[*self._times(), *args])

    def _times(self) -> tuple[int, int | str]:
        """Return the time by which jobs are due, and what stands for the server's."""
        return _score(self.clock.now()), "" if self._is_of_a_machine else round(self.clock.monotonic() * 1e6)

    def _new_call(self) -> str:
        return f"{self._process}-{next(self._calls)}"

    def _written(self, envelope: JobEnvelope) -> tuple[Any, ...]:
        due = envelope.due_at or envelope.first_due_at
        return envelope.queue, LEVELS[envelope.priority], _score(due), self.layout.wrap(envelope)

    def _ended(self, claim: JobClaim, outcome: Outcome) -> tuple[Any, ...]:
        if isinstance(outcome, Completed):
            return claim.id, claim.token, "done"
        if isinstance(outcome, Abandoned):
            return claim.id, claim.token, "park", outcome.raw, msgspec.json.encode(outcome.failure)
        return claim.id, claim.token, "put", outcome.envelope.id, *self._written(outcome.envelope)

    def _claims(self, told: Sequence[bytes]) -> list[JobClaim]:
        unwrap, parts = self.layout.unwrap, iter(told)
        return [
            JobClaim(job_id.decode(), unwrap(raw), int(token))
            for job_id, token, raw in zip(parts, parts, parts, strict=True)
        ]

    def _release_unanswered(self) -> None:
        """Release what calls claimed whose answers never came, uncharged. One may be done late: so they are kept for
        as long as their claims would last.
        """
        calls = list(self._unanswered)
        with translated():
            self._run(scripts.UNANSWERED, *calls)
        with self._lock:
            for call in calls:
                if self._unanswered.get(call, 0) <= self.clock.monotonic():
                    self._unanswered.pop(call, None)

    def _free(self, chosen: JobFilter) -> Iterator[bytes | str]:
        """Come past the ids of what nobody runs or holds, in the order in which it would run, and then the parked."""
        states = chosen.states
        if chosen.ids is not None:
            rows = [(row, job) for row, job in self._by_id(chosen) if row.state in _FREE and chosen.matches(job)]
            rows.sort(key=lambda pair: (pair[0].state == "p", -_RANKS.get(pair[0].level, 0), pair[0].due, pair[0].seq))
            yield from (row.id for row, _ in rows)
            return
        if states is None or states & {JobState.WAITING, JobState.SCHEDULED}:
            queues = [each for each in self._queues.names() if chosen.queues is None or each in chosen.queues]
            for level in LEVELS.values():
                walks = (self._walk(queue, level, chosen) for queue in queues)
                yield from (row.id for row in heapq.merge(*walks, key=lambda row: (row.due, row.seq)))
        if states is None or JobState.ABANDONED in states:
            for ids in self._ids_after(self._keys.parked, 0):
                yield from (row.id for row, job in self._read(ids) if row.state == "p" and chosen.matches(job))

    def _walk(self, queue: str, level: str, chosen: JobFilter) -> Iterator[_Row]:
        # All of it, for it is about to change: of a set that shrinks meanwhile some would be passed over.
        ids = list(self.layout.walk(self._client, self.root, queue, level))
        for first in range(0, len(ids), CHUNK):
            for row, job in self._read([each.encode() for each in ids[first : first + CHUNK]]):
                if row.state == "w" and chosen.matches(job):
                    yield row

    def _in_order(self, after: int) -> Iterator[tuple[_Row, StoredJob]]:
        for ids in self._ids_after(self._keys.order, after):
            yield from self._read(ids)

    def _ids_after(self, key: str, after: int) -> Iterator[Sequence[bytes]]:
        last = f"({after}"
        while found := self._client.zrangebyscore(key, last, "+inf", start=0, num=CHUNK, withscores=True):
            yield [each for each, _ in found]
            last = f"({int(found[-1][1])}"

    def _by_id(self, chosen: JobFilter) -> Sequence[tuple[_Row, StoredJob]]:
        """Return the chosen ids' jobs, in the order of their insertion: a copy for what is not there itself."""
        wanted = [each.encode() for each in chosen.ids or ()]
        found = self._read(wanted)
        missing = {each.decode() for each in wanted} - {job.id for _, job in found}
        copies = [copy for each in sorted(missing) for copy in self._first_copy(each)]
        found += [(row, _renamed(job, own_id(job.id))) for row, job in self._read(copies)]
        return sorted(found, key=lambda pair: pair[0].seq)

    def _first_copy(self, job_id: str) -> Sequence[bytes]:
        first, last = f"[{copy_id(job_id, '')}", f"({copy_id(job_id, _BEHIND_ALL)}"
        copies: Sequence[bytes] = self._client.zrangebylex(self._keys.copies, first, last, start=0, num=1)
        return copies

    def _messages(self, waiting: Sequence[tuple[bytes, str, str]]) -> Sequence[bytes | None]:
        return self.layout.messages(self._client, self.root, waiting) if waiting else ()

    def _read(self, ids: Sequence[bytes]) -> list[tuple[_Row, StoredJob]]:
        if not ids:
            return []
        records: Sequence[bytes | None] = self._client.hmget(self._keys.jobs, ids)
        rows = [_Row.parse(job_id, record) for job_id, record in zip(ids, records, strict=True) if record is not None]
        elsewhere = [(row.id, row.queue, row.level) for row in rows if row.state == "w" and not row.body]
        kept = dict(zip((each for each, *_ in elsewhere), self._messages(elsewhere), strict=True))
        parked = [row.id for row in rows if row.state in _PARKED]
        failures = dict(zip(parked, self._client.hmget(self._keys.failures, parked), strict=True)) if parked else {}
        now = _score(self.clock.now())
        return [
            (row, row.shown(self.layout.unwrap(kept.get(row.id) or row.body), now, failures.get(row.id)))
            for row in rows
        ]


class _Keys:
    def __init__(self, root: str) -> None:
        self.jobs = f"{root}:jobs"
        self.order = f"{root}:order"
        self.parked = f"{root}:parked"
        self.failures = f"{root}:failures"
        self.copies = f"{root}:copies"


class _Expired(Struct, frozen=True):
    member: bytes
    message: bytes
    worker: bytes
    over: bytes


class _Row(Struct, frozen=True):
    """A job's record."""

    id: bytes
    state: str
    queue: str
    level: str
    due: int
    seq: int
    worker: str
    body: bytes

    @classmethod
    def parse(cls, job_id: bytes, record: bytes) -> _Row:
        """Return what a record says; what is none of ours waits, and is parked when it is claimed."""
        head, _, rest = record.partition(b"\n")
        try:
            state, queue, level, due, seq, _, length = head.decode().split(" ")
            size = int(length)
            return cls(job_id, state, queue, level, int(due), int(seq), _text(rest[:size]), rest[size:])
        except ValueError:
            return cls(job_id, "w", "default", "normal", 0, 0, "", record)

    def shown(self, raw: bytes, now: int, failure: bytes | None) -> StoredJob:
        why: JobFailure | None = None
        if self.state in _PARKED:
            state, why = JobState.ABANDONED, None if failure is None else read_failure(failure)
        elif self.state == "r":
            state = JobState.RUNNING
        else:
            state = JobState.SCHEDULED if self.due > now else JobState.WAITING
        return StoredJob(_text(self.id), state, raw, why, self.worker or None)


def _renamed(job: StoredJob, job_id: str) -> StoredJob:
    """Return a job as it is shown under another id."""
    return msgspec.structs.replace(job, id=job_id)


def _may_be_taken(claim: JobClaim, outcome: Outcome) -> bool:
    return not isinstance(outcome, Completed | Abandoned) and outcome.envelope.id != claim.id


def _log_unreadable(claim: JobClaim, outcome: Outcome, *, held: bool) -> None:
    if held and isinstance(outcome, Abandoned) and outcome.envelope is None:
        log_parked(claim.id, outcome.failure)


def _in_slices(claims: Iterable[JobClaim]) -> Iterator[Sequence[JobClaim]]:
    every = list(claims)
    return (every[first : first + SLICE] for first in range(0, len(every), SLICE))


def _score(when: datetime) -> int:
    return (when - _EPOCH) // _MICROSECOND


def _moment(score: int) -> datetime:
    return _EPOCH + score * _MICROSECOND


def _microseconds(duration: timedelta) -> int:
    return duration // _MICROSECOND


def _text(value: bytes) -> str:
    return value.decode("utf-8", "replace")


_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_TAKEN: Final = 2
_FREE: Final = frozenset("wp")
_PARKED: Final = frozenset("pq")
_RANKS: Final = {level: int(priority) for priority, level in LEVELS.items()}
_COUNTED: Final = (JobState.WAITING, JobState.SCHEDULED, JobState.RUNNING, JobState.ABANDONED)
_BEHIND_ALL: Final = "\x7f"
_DRAINING: Final = (
    scripts.CLAIM,
    scripts.COUNT,
    scripts.EXPIRED,
    scripts.HOLD,
    scripts.NEXT_DUE,
    scripts.PARK,
    scripts.RECOVER,
    scripts.RELEASE,
    scripts.RELEASE_HELD,
    scripts.RENEW,
    scripts.UNANSWERED,
)
