"""The store against a model that is a plain list, over any sequence of operations that Hypothesis can think of."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from datetime import datetime, timedelta

from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule
from msgspec import Raw
from msgspec.structs import replace

from anyjob.base.clock import Clock
from anyjob.base.envelope import JobEnvelope, JobPriority, read_envelope, write_envelope
from anyjob.seams.outcome import Abandoned, Completed, JobFailure, Retry
from anyjob.seams.source import JobClaim
from anyjob.seams.store import JobStore
from anyjob.seams.stored import JobFilter, JobState
from anyjob.testing.clock import FakeClock

__all__ = ["StoreMachine"]

QUEUES = ["a", "b"]
LEASE = timedelta(seconds=60)


@dataclass
class Model:
    """What the test knows of one job."""

    envelope: JobEnvelope
    order: int
    state: str = "free"  # or running, taken, abandoned
    parked: bool = False
    until: float = 0.0
    token: int = 0

    def due(self) -> datetime:
        return self.envelope.due_at or self.envelope.first_due_at


class StoreMachine(RuleBasedStateMachine):
    """Subclass it, say by `make_store` what it drives, and hand `TheMachine.TestCase` to pytest or unittest."""

    @abstractmethod
    def make_store(self, clock: Clock) -> JobStore:
        """Return an empty store whose time is `clock`'s."""
        raise NotImplementedError

    def __init__(self) -> None:
        super().__init__()
        self.clock = FakeClock()
        self.store = self.make_store(self.clock)
        self.jobs: dict[str, Model] = {}
        self.inserted = 0
        self.tokens: set[int] = set()

    claims = Bundle("claims")

    def lease_end(self) -> float:
        return self.clock.monotonic() + LEASE.total_seconds()

    def waiting(self, queues: list[str] | None) -> list[Model]:
        """The jobs that may be claimed now, in the order in which they must be."""
        free = [
            job
            for job in self.jobs.values()
            if job.state == "free"
            and not job.parked
            and job.due() <= self.clock.now()
            and (queues is None or job.envelope.queue in queues)
        ]
        return sorted(free, key=lambda job: (-job.envelope.priority, job.due(), job.order))

    def put(self, envelope: JobEnvelope) -> None:
        self.inserted += 1
        self.jobs[envelope.id] = Model(envelope, self.inserted)

    def holds(self, claim: JobClaim) -> Model | None:
        job = self.jobs.get(claim.id)
        return job if job and job.state in ("running", "taken") and job.token == claim.token else None

    @rule(
        priority=st.sampled_from(JobPriority),
        queue=st.sampled_from(QUEUES),
        delays=st.lists(st.integers(-3, 3) | st.integers(0, 200), min_size=1, max_size=4),
    )
    def enqueue(self, priority: JobPriority, queue: str, delays: list[int]) -> None:
        now, envelopes = self.clock.now(), []
        for number, delay in enumerate(delays):  # below 0: prepared earlier, or moved here
            due = now + timedelta(seconds=delay)
            job_id = f"job-{self.inserted}-{number}"
            envelope = JobEnvelope(1, job_id, "work", Raw(b"{}"), queue, priority, now, due, due if delay > 0 else None)
            envelopes.append(envelope)
        self.store.insert(envelopes)
        for envelope in envelopes:
            self.put(envelope)

    @rule(target=claims, queues=st.none() | st.lists(st.sampled_from(QUEUES), unique=True), limit=st.integers(1, 3))
    def claim(self, queues: list[str] | None, limit: int) -> object:
        held = self.store.claim(queues=queues, limit=limit, lease=LEASE, worker="w")
        expected = self.waiting(queues)[:limit]
        assert [each.id for each in held] == [job.envelope.id for job in expected]
        self.hold(held, "running")
        return multiple(*held)

    @rule(target=claims, limit=st.integers(1, 3), state=st.none() | st.sampled_from(JobState))
    def take(self, limit: int, state: JobState | None) -> object:
        states = None if state is None else frozenset({state})
        shown = {job.id: job for job in self.store.scan(JobFilter(states=states), limit=10_000).jobs}
        held = self.store.hold(JobFilter(states=states), limit=limit, lease=LEASE, worker="looker")
        free = [job_id for job_id in shown if self.jobs[job_id].state == "free"]
        assert len(held) == min(limit, len(free))
        assert {each.id for each in held} <= set(free)
        self.hold(held, "taken")
        return multiple(*held)

    def hold(self, held: object, state: str) -> None:
        for each in held:  # type: ignore[attr-defined]
            job = self.jobs[each.id]
            assert each.token not in self.tokens
            self.tokens.add(each.token)
            job.state, job.until, job.token = state, self.lease_end(), each.token
            if not job.parked:
                assert read_envelope(each.raw) == job.envelope

    @rule(claim=consumes(claims))
    def complete(self, claim: JobClaim) -> None:
        job = self.holds(claim)
        assert self.store.settle(claim, Completed()) == (job is not None)
        if job:
            del self.jobs[claim.id]

    @rule(claim=consumes(claims), delay=st.integers(0, 100))
    def fail(self, claim: JobClaim, delay: int) -> None:
        known = self.jobs.get(claim.id)
        if known is None:
            return
        due = self.clock.now() + timedelta(seconds=delay)
        envelope = replace(known.envelope, try_count=known.envelope.try_count + 1, due_at=due)
        job = self.holds(claim)
        assert self.store.settle(claim, Retry(envelope)) == (job is not None)
        if job:
            self.put(envelope)

    @rule(claim=consumes(claims))
    def abandon(self, claim: JobClaim) -> None:
        job = self.holds(claim)
        why = JobFailure.of(ValueError(), at=self.clock.now(), worker="w", tries=1)
        raw = write_envelope(job.envelope) if job else b""
        assert self.store.settle(claim, Abandoned(raw, why, None)) == (job is not None)
        if job:
            job.state, job.parked = "free", True

    @rule(claim=consumes(claims))
    def release(self, claim: JobClaim) -> None:
        self.store.release([claim])
        job = self.holds(claim)
        if job:
            job.state = "free"

    @rule(claim=claims)
    def renew(self, claim: JobClaim) -> None:
        job = self.holds(claim)
        assert self.store.renew([claim], LEASE) == ([] if job else [claim])
        if job:
            job.until = self.lease_end()

    @rule(seconds=st.sampled_from([1, 2, 30, 60, 61]))
    def travel(self, seconds: int) -> None:
        self.clock.travel(seconds)

    @rule(seconds=st.sampled_from([1, 3600]))
    def step(self, seconds: int) -> None:
        """Somebody sets the wall clock: jobs are due by it, leases are none of its business.

        Not back: a store that lines up what is due need not look at it again.
        """
        self.clock.step(seconds)

    @rule(seconds=st.sampled_from([0, 59, 60]))
    def crash(self, seconds: int) -> None:
        """Every worker is gone for a while, then the leases that ended are recovered."""
        self.clock.travel(seconds)
        lost = {each.id for each in self.store.recover()}
        expected = set()
        for job in self.jobs.values():
            if job.state in ("running", "taken") and job.until <= self.clock.monotonic():
                if job.state == "running":
                    expected.add(job.envelope.id)
                    job.envelope = replace(job.envelope, lost_count=job.envelope.lost_count + 1)
                job.state = "free"
        assert lost == expected

    @rule(data=st.data())
    def requeue(self, data: st.DataObject) -> None:
        parked = sorted(job.envelope.id for job in self.jobs.values() if job.parked and job.state == "free")
        if not parked:
            return
        job_id = data.draw(st.sampled_from(parked))
        (held,) = self.store.hold(JobFilter(ids=frozenset({job_id})), limit=1, lease=LEASE, worker="looker")
        envelope = replace(self.jobs[job_id].envelope, due_at=None, first_due_at=self.clock.now(), try_count=0)
        assert self.store.settle(held, Retry(envelope))
        self.put(envelope)

    @invariant()
    def nothing_is_lost_or_invented(self) -> None:
        now = self.clock.now()
        shown = {job.id: job.state for job in self.store.scan(JobFilter(), limit=10_000).jobs}
        expected = {}
        for job_id, job in self.jobs.items():
            if job.parked:
                expected[job_id] = JobState.ABANDONED
            elif job.state == "running":
                expected[job_id] = JobState.RUNNING
            else:
                expected[job_id] = JobState.WAITING if job.due() <= now else JobState.SCHEDULED
        assert shown == expected
        states = list(expected.values())
        assert self.store.count() == {state: states.count(state) for state in JobState}

    @invariant()
    def the_next_due_time_is_known(self) -> None:
        free = [job.due() for job in self.jobs.values() if job.state == "free" and not job.parked]
        assert self.store.next_due_at(None) == min(free, default=None)
