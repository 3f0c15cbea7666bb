"""What waits or is parked, seen from outside: counted, listed, cancelled, run now, retried, discarded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from anyjob.base.envelope import JobPriority, write_envelope
from anyjob.base.errors import UnknownJobError
from anyjob.seams.capabilities import Quality
from anyjob.seams.stored import JobFilter, JobState
from anyjob.testing.conformance.fixtures import KitFixtures, needs
from anyjob.testing.conformance.harness import World
from anyjob.testing.probes.jobs import NAME, Failing, FailingOnce
from anyjob.testing.probes.journal import wait_until

__all__ = ["InspectorConformance"]

FAR = timedelta(days=1)


class InspectorConformance(KitFixtures):
    """The jobs that no worker runs."""

    @needs("delay", "parked jobs")
    def test_counts(self, *, world: World) -> None:
        inspector = world.manager.inspect()
        world.enqueue("a", "b", "c")
        world.enqueue("d", "e", delay=FAR)
        world.manager.backend().park(b"junk", world.manager.executor.refuse(b"junk", "no job").failure)
        expected = {JobState.WAITING: 3, JobState.SCHEDULED: 2, JobState.ABANDONED: 1, JobState.RUNNING: 0}
        assert set(inspector.count()) == set(world.can.counts)
        for state, quality in world.can.counts.items():
            if quality is Quality.EXACT:
                wait_until(
                    lambda state=state: inspector.count()[state] == expected[state],  # type: ignore[misc]
                    timeout=5,
                    what=f"{expected[state]} {state} jobs",
                )

    @needs("delay", "listing")
    def test_lists_what_waits_without_touching_it(self, *, world: World) -> None:
        ids = world.enqueue("a", "b", queue="a", priority=_level(world))
        ids += world.enqueue("c", delay=FAR)
        for _ in range(2):
            listed = {job.id: (job.state, job.envelope and job.envelope.queue) for job in world.jobs()}
            assert listed == {
                ids[0]: (JobState.WAITING, "a"),
                ids[1]: (JobState.WAITING, "a"),
                ids[2]: (JobState.SCHEDULED, "default"),
            }
        world.start_worker()
        world.journal.wait(2)
        assert world.journal.begun() == ["a", "b"]
        assert {each.lost_count for each in world.journal.entries()} == {0}

    @needs("delay", "listing")
    def test_what_is_due_waits_though_no_worker_has_seen_it(self, *, world: World) -> None:
        (job_id,) = world.enqueue("a", delay=0.3)
        waiting = [(job_id, JobState.WAITING)]
        wait_until(lambda: [(job.id, job.state) for job in world.jobs()] == waiting, timeout=5, what="it to be due")
        assert world.manager.inspect().count()[JobState.WAITING] == 1
        assert world.manager.inspect().count()[JobState.SCHEDULED] == 0

    @needs("delay", "listing")
    def test_filters_choose(self, *, world: World) -> None:
        mail = world.enqueue("a", queue="a")
        later = world.enqueue("b", delay=FAR)
        other = world.manager.enqueue(Failing(str(world.journal.path), "c"))

        def found(**chosen: Any) -> list[str]:
            return [job.id for job in world.manager.inspect().scan(JobFilter(**chosen)).jobs]

        assert sorted(found()) == sorted([*mail, *later, other])
        assert found(queues=frozenset({"a"})) == mail
        assert found(states=frozenset({JobState.SCHEDULED})) == later
        assert found(name="*.failing") == [other]
        assert found(ids=frozenset({other, "no-such-job"})) == [other]
        assert found(name="no.such.name") == []

    @needs("delay", "listing")
    def test_pages_hold_every_job_once(self, *, world: World) -> None:
        ids = world.manager.enqueue_many([world.probe(f"{number}") for number in range(25)])
        ids += world.manager.enqueue_many([world.probe(f"{number}") for number in range(13)], queue="b", delay=FAR)
        seen: list[str] = []
        pages, cursor = 0, None
        while True:
            page = world.manager.inspect().scan(JobFilter(), cursor=cursor, limit=10)
            assert len(page.jobs) <= 10
            seen.extend(job.id for job in page.jobs)
            pages, cursor = pages + 1, page.cursor
            if cursor is None:
                break
        assert sorted(seen) == sorted(ids)
        assert pages >= 4

    @needs("delay", "listing")
    def test_finds_a_job_by_its_id(self, *, world: World) -> None:
        (waiting,) = world.enqueue("a")
        (later,) = world.enqueue("b", delay=FAR)
        inspector = world.manager.inspect()
        for job_id, state in ((waiting, JobState.WAITING), (later, JobState.SCHEDULED)):
            found = inspector.find(job_id)
            assert found is not None
            assert (found.id, found.state) == (job_id, state)
            assert found.envelope is not None
            assert found.envelope.name == f"{NAME}.probe"
        assert inspector.find("no-such-job") is None

    @needs("listing")
    def test_a_running_job_is_shown_as_running(self, *, world: World) -> None:
        if JobState.RUNNING not in world.can.listing:
            assert all(job.state is not JobState.RUNNING for job in world.jobs())
            return
        gate = world.new_gate()
        (job_id,) = [world.manager.enqueue(world.probe("a", gate=str(gate)))]
        world.start_worker()
        world.journal.wait(1, "begin")
        assert [(job.id, job.state) for job in world.jobs()] == [(job_id, JobState.RUNNING)]
        assert not world.manager.inspect().cancel(job_id)
        gate.touch()
        world.journal.wait(1)
        wait_until(lambda: not world.jobs(), what="the job to be gone")

    @needs("removal")
    def test_a_cancelled_job_never_runs(self, *, world: World) -> None:
        first, second, third = world.enqueue("a", "b", "c")
        inspector = world.manager.inspect()
        assert inspector.cancel(second)
        assert not inspector.cancel(second)
        assert inspector.find(second) is None
        world.start_worker()
        world.enqueue("sentinel")
        world.journal.wait(3)
        assert [each.id for each in world.journal.entries("begin")][:2] == [first, third]
        assert world.journal.begun() == ["a", "c", "sentinel"]
        assert not inspector.cancel(first)

    @needs("delay", "removal")
    def test_a_cancelled_delayed_job_never_runs(self, *, world: World) -> None:
        world.start_worker()
        (gone,) = world.enqueue("gone", delay=1)
        (kept,) = world.enqueue("kept", delay=1.2)
        assert world.manager.inspect().cancel(gone)
        (end,) = world.journal.wait(1)
        assert end.id == kept
        assert world.journal.begun() == ["kept"]

    @needs("delay", "removal")
    def test_run_now(self, *, world: World) -> None:
        world.start_worker()
        world.enqueue("first")
        world.journal.wait(1)  # the worker is there, and idle
        (job_id,) = world.enqueue("a", delay=FAR)
        inspector = world.manager.inspect()
        assert inspector.run_now(job_id)
        _begins_soon(world, job_id)
        assert not inspector.run_now(job_id)

    @needs("parked jobs")
    def test_a_parked_job_is_retried_by_the_id_that_enqueue_returned(self, *, world: World) -> None:
        """With its whole budget, at once, and again and again; it may fail before the retry returned."""
        worker = world.start_worker()
        inspector = world.manager.inspect()
        job_id = world.manager.enqueue(FailingOnce(str(world.journal.path), "a"))
        for number in range(1, 9):
            (parked,) = world.wait_parked()
            assert len(world.journal.entries("begin", "a")) == number
            assert parked.id == job_id
            # Until its message is acknowledged, it is running as well.
            wait_until(lambda parked=parked: inspector.find(job_id) == parked, what="the job to be parked")  # type: ignore[misc]
            assert inspector.retry(job_id)
            _begins_soon(world, job_id, number + 1)
        tries = world.journal.entries("begin", "a")
        assert [(each.id, each.try_count) for each in tries] == [(job_id, 1)] * 9
        world.wait_parked()
        worker.stop()  # else it may be parked again
        assert inspector.retry(job_id)
        assert not inspector.retry(job_id)

    @needs("parked jobs")
    def test_a_parked_job_is_discarded_by_the_id_that_enqueue_returned(self, *, world: World) -> None:
        world.start_worker()
        job_id = world.manager.enqueue(FailingOnce(str(world.journal.path), "a"))
        world.wait_parked()
        inspector = world.manager.inspect()
        assert inspector.retry(job_id)
        _begins_soon(world, job_id, 2)
        world.wait_parked()
        if JobState.WAITING in world.can.removal:
            assert not inspector.cancel(job_id)
        assert inspector.discard(job_id)
        assert not inspector.discard(job_id)
        assert inspector.find(job_id) is None
        assert world.jobs(JobState.ABANDONED) == []

    @needs("parked jobs")
    def test_parked_copies_of_a_job_are_told_apart(self, *, world: World) -> None:
        """A job that ran twice may be given up twice; one that is retried may be back before its old copy is gone."""
        inspector = world.manager.inspect()
        job = world.manager.prepare(world.probe("a"))
        raws = [write_envelope(replace(job, try_count=number)) for number in range(4)]
        assert _park(world, raws[0]) == job.id
        with inspector.hold_some(JobFilter(ids=frozenset({job.id})), limit=1) as (held,):
            _park(world, raws[1])
            assert held.acknowledge()
        for raw in raws[2:]:
            _park(world, raw)
        for left in (raws[1:], raws[2:], raws[3:]):
            ids = [each.id for each in world.jobs(JobState.ABANDONED)]
            assert len({*ids}) == len(left)
            assert sorted(_raw_of(world, each) for each in ids) == sorted(left)
            assert _raw_of(world, job.id) in left
            copy = next(each for each in ids if _raw_of(world, each) == left[0])
            assert inspector.discard(copy)
        assert inspector.find(job.id) is None

    @needs("parked jobs")
    def test_pages_of_parked_jobs_stand_what_is_done_to_them(self, *, world: World) -> None:
        inspector = world.manager.inspect()
        ids = [_park(world, write_envelope(world.manager.prepare(world.probe("a")))) for _ in range(25)]
        done = [inspector.discard, inspector.retry, inspector.find]
        assert sorted(_walk(world, JobState.ABANDONED, done)) == sorted(ids)
        left = [each.id for each in world.jobs(JobState.ABANDONED)]
        assert 0 < len(left) < len(ids)
        assert sorted(_walk(world, JobState.ABANDONED, [inspector.discard])) == sorted(left)
        assert world.jobs(JobState.ABANDONED) == []

    @needs("delay", "listing", "removal")
    def test_pages_of_jobs_that_wait_stand_what_is_done_to_them(self, *, world: World) -> None:
        inspector = world.manager.inspect()
        probe = world.probe("a")
        waiting = world.manager.enqueue_many([probe] * 25)
        later = world.manager.enqueue_many([probe] * 25, delay=FAR)
        assert sorted(_walk(world, JobState.WAITING, [inspector.find, inspector.cancel])) == sorted(waiting)
        assert sorted(
            _walk(world, JobState.SCHEDULED, [inspector.find, inspector.cancel, inspector.run_now])
        ) == sorted(later)
        for state in (JobState.WAITING, JobState.SCHEDULED):
            left = [each.id for each in world.jobs(state)]
            assert left
            assert sorted(_walk(world, state, [inspector.cancel])) == sorted(left)
        assert world.jobs() == []

    @needs("parked jobs")
    def test_what_cant_be_read_is_kept_to_the_byte(self, *, world: World) -> None:
        inspector = world.manager.inspect()
        raws = [b"", b"\x00\xff\x80 no text", b"{}", bytes(range(256)) * 100]
        failures = [world.manager.executor.refuse(raw, f"reason {number}").failure for number, raw in enumerate(raws)]
        ids = [world.manager.backend().park(raw, failure) for raw, failure in zip(raws, failures, strict=True)]
        assert len(set(ids)) == len(raws)
        parked = {job.id: job for job in world.wait_parked(len(raws))}
        for job_id, raw, failure in zip(ids, raws, failures, strict=True):
            assert (parked[job_id].raw, parked[job_id].failure) == (raw, failure)
            with pytest.raises(UnknownJobError):
                inspector.retry(job_id)
        assert {job.id for job in world.jobs(JobState.ABANDONED)} == set(ids)

    @needs("removal")
    def test_what_is_taken_is_nobody_elses_and_goes_back(self, *, world: World) -> None:
        labels = [f"{number}" for number in range(9)]
        ids = world.enqueue(*labels, "last")
        inspector = world.manager.inspect()
        chosen = JobFilter(ids=frozenset(ids[:9]))
        with inspector.hold_some(chosen, limit=10) as taken:
            assert {each.job.id for each in taken} == set(ids[:9])
            with inspector.hold_some(chosen, limit=10) as again:
                assert list(again) == []
            worker = world.start_worker()
            world.journal.wait(1)
            assert world.journal.begun() == ["last"]
            worker.stop()
        world.start_worker()
        world.journal.wait(10)
        assert world.journal.begun() == ["last", *labels]
        assert {each.lost_count for each in world.journal.entries()} == {0}

    @needs("delay", "removal")
    def test_a_delayed_job_that_was_taken_goes_back_as_it_was(self, *, world: World) -> None:
        (job_id,) = world.enqueue("a", delay=FAR)
        before = world.jobs()
        for _ in range(2):
            with world.manager.inspect().hold_some(JobFilter(), limit=10) as taken:
                assert [each.job.id for each in taken] == [job_id]
        assert [(job.id, job.state, job.raw) for job in world.jobs()] == [
            (job.id, job.state, job.raw) for job in before
        ]

    @needs("removal")
    def test_a_taken_job_is_acknowledged_or_replaced(self, *, world: World) -> None:
        ids = world.enqueue("a", "b", "c")
        with world.manager.inspect().hold_some(JobFilter(), limit=3) as taken:
            by_id = {each.job.id: each for each in taken}
            assert by_id[ids[0]].acknowledge()
            envelope = by_id[ids[1]].job.envelope
            assert envelope is not None
            assert by_id[ids[1]].replace(envelope)
        assert sorted(job.id for job in world.jobs()) == sorted(ids[1:])
        world.start_worker()
        world.journal.wait(2)
        assert sorted(world.journal.begun()) == ["b", "c"]


def _begins_soon(world: World, job_id: str, count: int = 1) -> None:
    """See a job begin within the bound for what is due, on a worker that is idle: it need not wait for a poll."""
    bound = world.can.delay_bound.total_seconds()
    wait_until(
        lambda: len([each for each in world.journal.entries("begin") if each.id == job_id]) >= count,
        timeout=bound,
        what=f"{job_id} to begin for the {count}. time, {bound:g} s after it became due",
    )


def _park(world: World, raw: bytes) -> str:
    return world.manager.backend().park(raw, world.manager.executor.refuse(raw, "a reason").failure)


def _raw_of(world: World, job_id: str) -> bytes:
    found = world.manager.inspect().find(job_id)
    assert found is not None
    return found.raw


def _walk(world: World, state: JobState, acts: Sequence[Callable[[str], object]]) -> list[str]:
    """Go from page to page of the jobs in a state, and do something to each; return the ids in their order."""
    seen: list[str] = []
    cursor: str | None = None
    while True:
        page = world.manager.inspect().scan(JobFilter(states=frozenset({state})), cursor=cursor, limit=7)
        for job in page.jobs:
            assert acts[len(seen) % len(acts)](job.id)
            seen.append(job.id)
        cursor = page.cursor
        if cursor is None:
            return seen


def _level(world: World) -> JobPriority:
    return JobPriority.NORMAL if world.can.priority is Quality.NONE else JobPriority.ABOVE_NORMAL
