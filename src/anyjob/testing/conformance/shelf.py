"""What waits or is parked, seen from outside: counted, listed, cancelled, run now, retried, discarded."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from anyjob.capabilities import Quality
from anyjob.envelope import JobPriority
from anyjob.errors import UnknownJobError
from anyjob.store import JobFilter, JobState
from anyjob.testing.conformance.fixtures import KitFixtures, needs
from anyjob.testing.conformance.harness import World
from anyjob.testing.probes.jobs import NAME, Failing, FailingOnce
from anyjob.testing.probes.journal import wait_until

__all__ = ["ShelfConformance"]

FAR = timedelta(days=1)


class ShelfConformance(KitFixtures):
    """The jobs that no worker runs."""

    @needs("delay", "parked jobs")
    def test_counts(self, *, world: World) -> None:
        shelf = world.manager.shelf()
        world.enqueue("a", "b", "c")
        world.enqueue("d", "e", delay=FAR)
        shelf.park(b"junk", world.manager.executor.refuse(b"junk", "no job").failure)
        expected = {JobState.WAITING: 3, JobState.SCHEDULED: 2, JobState.ABANDONED: 1, JobState.RUNNING: 0}
        assert set(shelf.count()) == set(world.can.counts)
        for state, quality in world.can.counts.items():
            if quality is Quality.EXACT:
                wait_until(
                    lambda state=state: shelf.count()[state] == expected[state],  # type: ignore[misc]
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
        assert world.manager.shelf().count()[JobState.WAITING] == 1
        assert world.manager.shelf().count()[JobState.SCHEDULED] == 0

    @needs("delay", "listing")
    def test_filters_choose(self, *, world: World) -> None:
        mail = world.enqueue("a", queue="a")
        later = world.enqueue("b", delay=FAR)
        other = world.manager.enqueue(Failing(str(world.journal.path), "c"))

        def found(**chosen: Any) -> list[str]:
            return [job.id for job in world.manager.shelf().scan(JobFilter(**chosen)).jobs]

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
            page = world.manager.shelf().scan(JobFilter(), cursor=cursor, limit=10)
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
        shelf = world.manager.shelf()
        for job_id, state in ((waiting, JobState.WAITING), (later, JobState.SCHEDULED)):
            found = shelf.find(job_id)
            assert found is not None
            assert (found.id, found.state) == (job_id, state)
            assert found.envelope is not None
            assert found.envelope.name == f"{NAME}.probe"
        assert shelf.find("no-such-job") is None

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
        assert not world.manager.shelf().cancel(job_id)
        gate.touch()
        world.journal.wait(1)
        wait_until(lambda: not world.jobs(), what="the job to be gone")

    @needs("removal")
    def test_a_cancelled_job_never_runs(self, *, world: World) -> None:
        first, second, third = world.enqueue("a", "b", "c")
        shelf = world.manager.shelf()
        assert shelf.cancel(second)
        assert not shelf.cancel(second)
        assert shelf.find(second) is None
        world.start_worker()
        world.enqueue("sentinel")
        world.journal.wait(3)
        assert [each.id for each in world.journal.entries("begin")][:2] == [first, third]
        assert world.journal.begun() == ["a", "c", "sentinel"]
        assert not shelf.cancel(first)

    @needs("delay", "removal")
    def test_a_cancelled_delayed_job_never_runs(self, *, world: World) -> None:
        world.start_worker()
        (gone,) = world.enqueue("gone", delay=1)
        (kept,) = world.enqueue("kept", delay=1.2)
        assert world.manager.shelf().cancel(gone)
        (end,) = world.journal.wait(1)
        assert end.id == kept
        assert world.journal.begun() == ["kept"]

    @needs("delay", "removal")
    def test_run_now(self, *, world: World) -> None:
        world.start_worker()
        (job_id,) = world.enqueue("a", delay=FAR)
        shelf = world.manager.shelf()
        assert shelf.run_now(job_id)
        (end,) = world.journal.wait(1)
        assert end.id == job_id
        assert not shelf.run_now(job_id)

    @needs("parked jobs")
    def test_a_parked_job_is_retried_with_its_whole_budget(self, *, world: World) -> None:
        world.start_worker()
        job_id = world.manager.enqueue(FailingOnce(str(world.journal.path), "a"))
        for number in range(1, 3):
            (parked,) = world.wait_parked()
            assert len(world.journal.entries("begin", "a")) == number
            assert world.manager.shelf().retry(parked.id)
            world.journal.wait(number + 1, "begin", "a")
        tries = world.journal.entries("begin", "a")
        assert [(each.id, each.try_count) for each in tries] == [(job_id, 1)] * 3

    @needs("parked jobs")
    def test_a_parked_job_is_retried_once(self, *, world: World) -> None:
        worker = world.start_worker()
        world.manager.enqueue(FailingOnce(str(world.journal.path), "a"))
        (parked,) = world.wait_parked()
        worker.stop()  # else it may be parked again
        assert world.manager.shelf().retry(parked.id)
        assert not world.manager.shelf().retry(parked.id)

    @needs("parked jobs")
    def test_a_parked_job_is_discarded(self, *, world: World) -> None:
        world.start_worker()
        world.manager.enqueue(FailingOnce(str(world.journal.path), "a"))
        (parked,) = world.wait_parked()
        shelf = world.manager.shelf()
        if JobState.WAITING in world.can.removal:
            assert not shelf.cancel(parked.id)
        assert shelf.discard(parked.id)
        assert not shelf.discard(parked.id)
        assert world.jobs(JobState.ABANDONED) == []

    @needs("parked jobs")
    def test_what_cant_be_read_is_kept_to_the_byte(self, *, world: World) -> None:
        shelf = world.manager.shelf()
        raws = [b"", b"\x00\xff\x80 no text", b"{}", bytes(range(256)) * 100]
        failures = [world.manager.executor.refuse(raw, f"reason {number}").failure for number, raw in enumerate(raws)]
        ids = [shelf.park(raw, failure) for raw, failure in zip(raws, failures, strict=True)]
        assert len(set(ids)) == len(raws)
        parked = {job.id: job for job in world.wait_parked(len(raws))}
        for job_id, raw, failure in zip(ids, raws, failures, strict=True):
            assert (parked[job_id].raw, parked[job_id].failure) == (raw, failure)
            with pytest.raises(UnknownJobError):
                shelf.retry(job_id)
        assert {job.id for job in world.jobs(JobState.ABANDONED)} == set(ids)

    @needs("removal")
    def test_what_is_taken_is_nobody_elses_and_goes_back(self, *, world: World) -> None:
        labels = [f"{number}" for number in range(9)]
        ids = world.enqueue(*labels, "last")
        shelf = world.manager.shelf()
        chosen = JobFilter(ids=frozenset(ids[:9]))
        with shelf.take(chosen, limit=10) as taken:
            assert {each.job.id for each in taken} == set(ids[:9])
            with shelf.take(chosen, limit=10) as again:
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
            with world.manager.shelf().take(JobFilter(), limit=10) as taken:
                assert [each.job.id for each in taken] == [job_id]
        assert [(job.id, job.state, job.raw) for job in world.jobs()] == [
            (job.id, job.state, job.raw) for job in before
        ]

    @needs("removal")
    def test_a_taken_job_is_acknowledged_or_replaced(self, *, world: World) -> None:
        ids = world.enqueue("a", "b", "c")
        with world.manager.shelf().take(JobFilter(), limit=3) as taken:
            by_id = {each.job.id: each for each in taken}
            assert by_id[ids[0]].acknowledge()
            envelope = by_id[ids[1]].job.envelope
            assert envelope is not None
            assert by_id[ids[1]].replace(envelope)
        assert sorted(job.id for job in world.jobs()) == sorted(ids[1:])
        world.start_worker()
        world.journal.wait(2)
        assert sorted(world.journal.begun()) == ["b", "c"]


def _level(world: World) -> JobPriority:
    return JobPriority.NORMAL if world.can.priority is Quality.NONE else JobPriority.ABOVE_NORMAL
