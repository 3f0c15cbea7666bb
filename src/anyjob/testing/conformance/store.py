"""The promises of seam 2, as tests for any `JobStore`, on a clock that they move."""

from __future__ import annotations

import itertools
import random
import threading
from abc import abstractmethod
from datetime import datetime, timedelta
from typing import Any

import pytest
from msgspec import Raw
from msgspec.structs import replace

from anyjob.base.clock import Clock
from anyjob.base.envelope import JobEnvelope, JobPriority, read_envelope, write_envelope
from anyjob.base.errors import DuplicateJobIdError
from anyjob.seams.outcome import Abandoned, Completed, Deferred, JobFailure, Retry
from anyjob.seams.source import JobClaim
from anyjob.seams.store import JobStore
from anyjob.seams.stored import JobFilter, JobState
from anyjob.testing.clock import FakeClock

__all__ = ["StoreConformance"]

LEASE = timedelta(seconds=60)
NUMBERS = itertools.count()


def envelope(clock: FakeClock, *, delay: float = 0, **changes: Any) -> JobEnvelope:
    now = clock.now()
    due = now + timedelta(seconds=delay)
    plain = JobEnvelope(1, f"job-{next(NUMBERS)}", "work", Raw(b"{}"), "default", JobPriority.NORMAL, now, due)
    return replace(plain, **{"due_at": due if delay else None, **changes})


def failure(at: datetime) -> JobFailure:
    return JobFailure.of(ValueError("kaputt"), at=at, worker="w", tries=1)


def claim(store: JobStore, limit: int = 1, queues: list[str] | None = None) -> list[JobClaim]:
    return list(store.claim(queues=queues, limit=limit, lease=LEASE, worker="w"))


def claimed_ids(store: JobStore, limit: int = 100, queues: list[str] | None = None) -> list[str]:
    return [each.id for each in claim(store, limit, queues)]


def counts(store: JobStore) -> dict[str, int]:
    return {state.value: number for state, number in store.count().items() if number}


class StoreConformance:
    """Subclass it and give a new, empty store by `make_store`."""

    @abstractmethod
    def make_store(self, clock: Clock) -> JobStore:
        """Return an empty store whose time is `clock`'s."""
        raise NotImplementedError

    @pytest.fixture
    def clock(self) -> FakeClock:
        """Give a clock that stands still until a test moves it."""
        return FakeClock()

    @pytest.fixture
    def store(self, clock: FakeClock) -> JobStore:
        """Give the store."""
        return self.make_store(clock)

    # Order

    def test_higher_priorities_first_then_first_in_first_out(self, store: JobStore, clock: FakeClock) -> None:
        low = [envelope(clock, priority=JobPriority.LOW) for _ in range(100)]
        high = [envelope(clock, priority=JobPriority.HIGH) for _ in range(5)]
        store.insert(low)
        store.insert(high)
        assert claimed_ids(store, 200) == [each.id for each in [*high, *low]]

    def test_all_five_levels(self, store: JobStore, clock: FakeClock) -> None:
        jobs = [envelope(clock, priority=priority) for priority in JobPriority for _ in range(3)]
        shuffled = random.Random(1).sample(jobs, len(jobs))
        store.insert(shuffled)
        expected = sorted(shuffled, key=lambda each: -each.priority)
        assert claimed_ids(store) == [each.id for each in expected]

    def test_within_a_level_who_became_due_first_runs_first(self, store: JobStore, clock: FakeClock) -> None:
        late, early = envelope(clock, delay=20), envelope(clock, delay=10)
        store.insert([late, early])
        clock.travel(15)
        between = envelope(clock)
        store.insert([between])
        clock.travel(10)
        after = envelope(clock)
        store.insert([after])
        assert claimed_ids(store) == [early.id, between.id, late.id, after.id]

    def test_across_queues_the_level_counts_first(self, store: JobStore, clock: FakeClock) -> None:
        first = envelope(clock, queue="a")
        clock.travel(1)
        urgent = envelope(clock, queue="b", priority=JobPriority.HIGH)
        clock.travel(1)
        last = envelope(clock, queue="a")
        store.insert([first, urgent, last])
        assert claimed_ids(store, queues=["a", "b"]) == [urgent.id, first.id, last.id]

    def test_queues_are_apart(self, store: JobStore, clock: FakeClock) -> None:
        a, b = envelope(clock, queue="a"), envelope(clock, queue="b")
        store.insert([a, b])
        assert claimed_ids(store, queues=["b"]) == [b.id]
        assert claimed_ids(store, queues=["c"]) == []
        assert claimed_ids(store) == [a.id]

    def test_a_delayed_job_is_never_early(self, store: JobStore, clock: FakeClock) -> None:
        job = envelope(clock, delay=10)
        store.insert([job])
        clock.travel(9.999999)
        assert claimed_ids(store) == []
        assert counts(store) == {"scheduled": 1}
        clock.travel(0.000001)
        assert counts(store) == {"waiting": 1}
        assert claimed_ids(store) == [job.id]

    def test_priority_still_counts_at_due_time(self, store: JobStore, clock: FakeClock) -> None:
        low, high = (
            envelope(clock, delay=5, priority=JobPriority.LOW),
            envelope(clock, delay=10, priority=JobPriority.HIGH),
        )
        store.insert([low, high])
        clock.travel(10)
        assert claimed_ids(store) == [high.id, low.id]

    def test_next_due_at(self, store: JobStore, clock: FakeClock) -> None:
        assert store.next_due_at(None) is None
        store.insert(
            [envelope(clock, delay=10, queue="a"), envelope(clock, delay=5, queue="b", priority=JobPriority.LOW)]
        )
        assert store.next_due_at(None) == clock.now() + timedelta(seconds=5)
        assert store.next_due_at(["a"]) == clock.now() + timedelta(seconds=10)
        assert store.next_due_at(["c"]) is None

    # Insert

    def test_a_taken_id_is_refused_in_every_state_and_nothing_is_kept(self, store: JobStore, clock: FakeClock) -> None:
        job, other = envelope(clock), envelope(clock)
        store.insert([job])
        for settle in (None, lambda held: store.settle(held, Abandoned(held.raw, failure(clock.now()), None))):
            with pytest.raises(DuplicateJobIdError, match=job.id) as refused:
                store.insert([other, job])
            assert refused.value.rejected == (other.id, job.id)
            held = claim(store)
            with pytest.raises(DuplicateJobIdError):
                store.insert([job])
            if settle is None:
                store.release(held)
            else:
                settle(held[0])
        with pytest.raises(DuplicateJobIdError):
            store.insert([job])
        with pytest.raises(DuplicateJobIdError, match="twice"):
            store.insert([other, other])
        assert counts(store) == {"abandoned": 1}

    def test_a_completed_jobs_id_is_free_again(self, store: JobStore, clock: FakeClock) -> None:
        job = envelope(clock)
        store.insert([job])
        assert store.settle(claim(store)[0], Completed())
        store.insert([job])
        assert claimed_ids(store) == [job.id]

    # Settle

    def test_completed_is_gone(self, store: JobStore, clock: FakeClock) -> None:
        store.insert([envelope(clock)])
        assert store.settle(claim(store)[0], Completed())
        assert counts(store) == {}

    @pytest.mark.parametrize("outcome", [Retry, Deferred])
    def test_a_put_back_job_has_its_new_envelope(self, store: JobStore, clock: FakeClock, outcome: Any) -> None:
        job = envelope(clock)
        store.insert([job])
        again = replace(
            job, try_count=1, due_at=clock.now() + timedelta(seconds=60), priority=JobPriority.HIGH, queue="x"
        )
        assert store.settle(claim(store)[0], outcome(again))
        assert claimed_ids(store) == []
        clock.travel(60)
        (held,) = claim(store, queues=["x"])
        assert read_envelope(held.raw).try_count == 1

    def test_an_abandoned_job_is_kept_with_its_failure_and_not_claimed(self, store: JobStore, clock: FakeClock) -> None:
        job = envelope(clock)
        store.insert([job])
        why = failure(clock.now())
        assert store.settle(claim(store)[0], Abandoned(b"what is left", why, None))
        clock.travel(days=365)
        assert claimed_ids(store) == []
        (kept,) = store.scan(JobFilter()).jobs
        assert (kept.id, kept.state, kept.raw, kept.failure) == (job.id, JobState.ABANDONED, b"what is left", why)
        assert kept.envelope is None

    # Leases

    def test_a_claimed_job_is_nobody_elses(self, store: JobStore, clock: FakeClock) -> None:
        store.insert([envelope(clock)])
        assert len(claim(store)) == 1
        assert claim(store) == []
        assert counts(store) == {"running": 1}

    def test_release_gives_it_back_at_its_place_for_nothing(self, store: JobStore, clock: FakeClock) -> None:
        jobs = [envelope(clock) for _ in range(3)]
        store.insert(jobs)
        held = claim(store, 2)
        clock.travel(1)
        late = envelope(clock)
        store.insert([late])
        store.release(reversed(held))  # type: ignore[arg-type]
        again = claim(store, 10)
        assert [each.id for each in again] == [*(job.id for job in jobs), late.id]
        assert [read_envelope(each.raw).lost_count for each in again] == [0, 0, 0, 0]

    def test_an_expired_lease_counts_as_lost_once_recovered(self, store: JobStore, clock: FakeClock) -> None:
        job = envelope(clock)
        store.insert([job])
        claim(store)
        clock.travel(59)
        assert store.recover() == []
        clock.travel(1)
        assert claim(store) == []  # not before somebody recovered it
        (lost,) = store.recover()
        assert (lost.id, lost.worker, lost.expired_for) == (job.id, "w", 0)
        assert store.recover() == []
        (held,) = claim(store)
        assert read_envelope(held.raw) == read_envelope(lost.raw) == replace(job, lost_count=1)

    @pytest.mark.parametrize("step", [-3600, 3600])
    def test_a_step_of_the_wall_clock_neither_ends_a_lease_nor_makes_it_longer(
        self, store: JobStore, clock: FakeClock, step: float
    ) -> None:
        store.insert([envelope(clock)])
        held = claim(store)
        clock.travel(30)
        clock.step(step)
        assert store.recover() == []
        assert store.renew(held, LEASE) == []
        clock.travel(59)
        clock.step(step)
        assert store.recover() == []
        clock.travel(1)
        assert [lost.id for lost in store.recover()] == [held[0].id]

    def test_jobs_are_due_by_the_wall_clock(self, store: JobStore, clock: FakeClock) -> None:
        job = replace(envelope(clock), due_at=clock.now() + timedelta(hours=1))
        store.insert([job])
        clock.step(3599)
        assert claim(store) == []
        clock.step(1)
        clock.step(-2)
        assert claim(store) == []
        clock.travel(2)
        assert [each.id for each in claim(store)] == [job.id]

    def test_renewing_keeps_a_job(self, store: JobStore, clock: FakeClock) -> None:
        store.insert([envelope(clock)])
        held = claim(store)
        for _ in range(5):
            clock.travel(50)
            assert store.renew(held, LEASE) == []
            assert store.recover() == []
        assert store.settle(held[0], Completed())

    def test_a_lost_claim_is_fenced(self, store: JobStore, clock: FakeClock) -> None:
        store.insert([envelope(clock)])
        old = claim(store)
        clock.travel(60)
        store.recover()
        assert store.renew(old, LEASE) == old
        assert not store.settle(old[0], Completed())
        (new,) = claim(store)
        store.release(old)
        assert not store.settle(old[0], Completed())
        assert counts(store) == {"running": 1}
        assert store.settle(new, Completed())
        assert not store.settle(new, Completed())

    # Hold, park, look

    def test_take_holds_any_job_that_does_not_run(self, store: JobStore, clock: FakeClock) -> None:
        waiting, scheduled, running = (
            envelope(clock),
            envelope(clock, delay=60),
            envelope(clock, priority=JobPriority.HIGH),
        )
        store.insert([waiting, scheduled, running])
        claim(store)
        parked = store.park(b"junk", failure(clock.now()))
        held = store.hold(JobFilter(), limit=10, lease=LEASE, worker="looker")
        assert {each.id for each in held} == {waiting.id, scheduled.id, parked}
        assert store.hold(JobFilter(), limit=10, lease=LEASE, worker="other") == []
        assert claim(store) == []
        states = {each.id: (each.state.value, each.worker) for each in store.scan(JobFilter()).jobs}
        assert states == {
            waiting.id: ("waiting", "looker"),
            scheduled.id: ("scheduled", "looker"),
            running.id: ("running", "w"),
            parked: ("abandoned", "looker"),
        }

    def test_holding_finds_what_is_free_behind_what_is_held(self, store: JobStore, clock: FakeClock) -> None:
        jobs = [envelope(clock) for _ in range(10)]
        store.insert(jobs)
        held = []
        for found in (2, 2, 2, 2, 2, 0):
            claims = store.hold(JobFilter(), limit=2, lease=LEASE, worker="looker")
            assert len(claims) == found
            held += [each.id for each in claims]
        assert held == [job.id for job in jobs]

    def test_what_was_taken_goes_back_as_it_was(self, store: JobStore, clock: FakeClock) -> None:
        jobs = [envelope(clock) for _ in range(3)]
        later = envelope(clock, delay=90)
        store.insert([*jobs, later])
        store.park(b"junk", failure(clock.now()))
        before = store.scan(JobFilter()).jobs
        store.release(store.hold(JobFilter(), limit=10, lease=LEASE, worker="looker"))
        assert store.scan(JobFilter()).jobs == before
        store.hold(JobFilter(), limit=10, lease=LEASE, worker="looker")
        clock.travel(60)
        assert store.recover() == []  # nothing ran, so nothing was lost
        assert store.scan(JobFilter()).jobs == before
        assert claimed_ids(store) == [job.id for job in jobs]
        clock.travel(30)
        assert claimed_ids(store) == [later.id]

    def test_taken_jobs_can_be_removed_or_changed(self, store: JobStore, clock: FakeClock) -> None:
        gone, changed, untouched = (envelope(clock, delay=60) for _ in range(3))
        store.insert([gone, changed, untouched])
        by_id = {each.id: each for each in store.hold(JobFilter(), limit=2, lease=LEASE, worker="looker")}
        assert store.settle(by_id[gone.id], Completed())
        assert store.settle(by_id[changed.id], Deferred(replace(changed, due_at=None)))
        assert store.next_due_at(None) == changed.first_due_at
        assert {each.id for each in store.scan(JobFilter()).jobs} == {changed.id, untouched.id}

    def test_a_parked_unknown_that_turns_out_to_be_a_job_here_is_refused(
        self, store: JobStore, clock: FakeClock
    ) -> None:
        job = envelope(clock)
        store.insert([job])
        parked = store.park(b"junk", failure(clock.now()))
        (held,) = store.hold(JobFilter(ids=frozenset({parked})), limit=1, lease=LEASE, worker="w")
        with pytest.raises(DuplicateJobIdError):
            store.settle(held, Deferred(job))
        assert len(store.scan(JobFilter()).jobs) == 2
        store.settle(held, Deferred(replace(job, id="another")))
        assert claimed_ids(store) == [job.id, "another"]

    def test_what_is_parked_has_its_jobs_own_id_if_that_is_free(self, store: JobStore, clock: FakeClock) -> None:
        job, newer = envelope(clock), b'{"v":99,"id":"from-tomorrow","args":[]}'
        raws = [write_envelope(replace(job, try_count=number)) for number in range(3)]
        why = failure(clock.now())
        assert (store.park(raws[0], why), store.park(newer, why)) == (job.id, "from-tomorrow")
        for junk in (b"", b'{"v":1,"id":"no id!"}', b'{"id":"no-version"}'):
            assert store.park(junk, why) not in ("", "no id!", "no-version")
        copies = [store.park(raw, why) for raw in raws[1:]]
        assert len({job.id, *copies}) == 3

        def found(job_id: str) -> list[tuple[str, bytes]]:
            return [(each.id, each.raw) for each in store.scan(JobFilter(ids=frozenset({job_id}))).jobs]

        def take(job_id: str) -> JobClaim:
            (held,) = store.hold(JobFilter(ids=frozenset({job_id})), limit=5, lease=LEASE, worker="w")
            return held

        assert [found(each) for each in (job.id, *copies)] == [
            [(each, raw)] for each, raw in zip((job.id, *copies), raws, strict=True)
        ]
        with pytest.raises(DuplicateJobIdError):
            store.settle(take(copies[1]), Deferred(job))
        clock.travel(61)
        store.recover()
        assert store.settle(take(job.id), Completed())
        # Now each of the copies is found by the id of the job, one after the other, and by its own as well.
        assert found(job.id) in ([(job.id, raws[1])], [(job.id, raws[2])])
        assert [found(each) for each in copies] == [[(copies[0], raws[1])], [(copies[1], raws[2])]]
        assert store.settle(take(job.id), Completed())
        assert store.settle(take(job.id), Deferred(job))
        assert claimed_ids(store) == [job.id]
        assert store.park(raws[0], why) not in (job.id, *copies)  # it is running

    def test_taking_most_of_a_crowd_leaves_the_rest_in_order(self, store: JobStore, clock: FakeClock) -> None:
        jobs = [envelope(clock, delay=1 + n % 7) for n in range(700)]
        store.insert(jobs)
        gone = {job.id for job in jobs[::3]} | {job.id for job in jobs[1::3]}
        for held in store.hold(JobFilter(ids=frozenset(gone)), limit=1000, lease=LEASE, worker="w"):
            store.settle(held, Completed())
        clock.travel(10)
        rest = sorted((job for job in jobs if job.id not in gone), key=lambda job: job.first_due_at)
        assert claimed_ids(store, 1000) == [job.id for job in rest]

    def test_filters_choose(self, store: JobStore, clock: FakeClock) -> None:
        mail, report = envelope(clock, name="mail.send", queue="mail"), envelope(clock, name="report", delay=60)
        store.insert([mail, report])
        parked = store.park(b"junk", failure(clock.now()))

        def found(**chosen: Any) -> set[str]:
            return {each.id for each in store.scan(JobFilter(**chosen)).jobs}

        assert found() == {mail.id, report.id, parked}
        assert found(ids=frozenset({mail.id, "x"})) == {mail.id}
        assert found(states=frozenset({JobState.SCHEDULED})) == {report.id}
        assert found(queues=frozenset({"mail"})) == {mail.id}
        assert found(name="mail.*") == {mail.id}
        assert found(name="*", states=frozenset({JobState.ABANDONED})) == set()  # it can't be read: it has no name
        assert found(states=frozenset({JobState.ABANDONED})) == {parked}

    def test_pages_follow_each_other_in_the_order_of_insertion(self, store: JobStore, clock: FakeClock) -> None:
        jobs = [envelope(clock, priority=random.Random(n).choice(list(JobPriority))) for n in range(25)]
        store.insert(jobs)
        seen: list[str] = []
        cursor = None
        pages = 0
        while True:
            page = store.scan(JobFilter(), cursor=cursor, limit=10)
            seen.extend(job.id for job in page.jobs)
            pages, cursor = pages + 1, page.cursor
            if cursor is None:
                break
        assert (seen, pages) == ([job.id for job in jobs], 3)

    def test_threads_share_the_jobs_without_loss_or_repeat(self, store: JobStore, clock: FakeClock) -> None:
        jobs = [envelope(clock) for _ in range(2000)]
        taken: list[str] = []

        def produce() -> None:
            for job in jobs:
                store.insert([job])

        def consume() -> None:
            while len(taken) < len(jobs):
                for held in claim(store, 3):
                    taken.append(held.id)
                    assert store.settle(held, Completed())

        threads = [threading.Thread(target=target) for target in (produce, consume, consume, consume)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(taken) == sorted(job.id for job in jobs)
        assert counts(store) == {}
