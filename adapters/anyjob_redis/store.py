"""Jobs in Redis as a store: whatever the layout, one protocol. `store_scripts` does what is said here."""

from __future__ import annotations

import itertools
import secrets
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec
from msgspec import Struct
from redis import Redis
from redis.commands.core import Script
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from anyjob.extend import (
    DEFAULT_LEASE,
    Abandoned,
    Clock,
    Completed,
    DuplicateJobIdError,
    EnqueueError,
    InvalidOptionError,
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
    copy_id,
    id_in,
    in_each_process,
    log_parked,
)
from anyjob_redis import store_scripts as scripts
from anyjob_redis.connection import translated
from anyjob_redis.layout import Layout, SortedLayout
from anyjob_redis.levels import LEVELS
from anyjob_redis.moved import RedisMarks
from anyjob_redis.records import RecordReader, microseconds, moment_of, score_of_due, text_of
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
        self._reader = RecordReader(client, root, self.layout, clock)
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
                    *(limit, microseconds(lease), worker, call),
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
                told = self._run(scripts.RENEW, microseconds(lease), *pairs)
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
                        text_of(each.member.split(b" ", 2)[2]),
                        text_of(each.worker),
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
        due = moment_of(int(found[0]))
        if self._is_of_a_machine:  # it is claimed when the server's clock has come so far, too
            ahead = before - moment_of(int(found[1]))
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
            found = self._reader.free(chosen)
            while len(claims) < limit and (ids := list(itertools.islice(found, min(limit - len(claims), SLICE)))):
                told = self._run(scripts.HOLD, microseconds(lease), worker, call, *ids)
                claims += self._claims(told)
        return claims

    def release_held(self, worker: str) -> None:
        with translated():
            self._run(scripts.RELEASE_HELD, worker)

    def park(self, raw: bytes, failure: JobFailure) -> str:
        new = self._ids.new(self.clock.now())
        own = id_in(raw) or new
        with translated():
            return text_of(self._run(scripts.PARK, own, copy_id(own, new), raw, msgspec.json.encode(failure)))

    def scan(self, chosen: JobFilter, *, cursor: str | None = None, limit: int = 100) -> JobPage:
        if limit < 1 or not (cursor or "0").isdecimal():
            raise InvalidOptionError(f"scan(cursor={cursor!r}, limit={limit!r}): a cursor of a page, and at least 1.")
        with translated():
            rows = self._reader.by_id(chosen) if chosen.ids is not None else self._reader.in_order(int(cursor or 0))
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
        return score_of_due(self.clock.now()), "" if self._is_of_a_machine else round(self.clock.monotonic() * 1e6)

    def _new_call(self) -> str:
        return f"{self._process}-{next(self._calls)}"

    def _written(self, envelope: JobEnvelope) -> tuple[Any, ...]:
        due = envelope.due_at or envelope.first_due_at
        return envelope.queue, LEVELS[envelope.priority], score_of_due(due), self.layout.wrap(envelope)

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


class _Expired(Struct, frozen=True):
    member: bytes
    message: bytes
    worker: bytes
    over: bytes


def _may_be_taken(claim: JobClaim, outcome: Outcome) -> bool:
    return not isinstance(outcome, Completed | Abandoned) and outcome.envelope.id != claim.id


def _log_unreadable(claim: JobClaim, outcome: Outcome, *, held: bool) -> None:
    if held and isinstance(outcome, Abandoned) and outcome.envelope is None:
        log_parked(claim.id, outcome.failure)


def _in_slices(claims: Iterable[JobClaim]) -> Iterator[Sequence[JobClaim]]:
    every = list(claims)
    return (every[first : first + SLICE] for first in range(0, len(every), SLICE))


_TAKEN: Final = 2
_COUNTED: Final = (JobState.WAITING, JobState.SCHEDULED, JobState.RUNNING, JobState.ABANDONED)
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
