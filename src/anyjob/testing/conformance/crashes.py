"""Workers are killed, stopped and share their work; jobs take their processes along. Nothing is lost."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from anyjob.run.stopping import HANDED_BACK
from anyjob.seams.backend import BackendConfig
from anyjob.seams.stored import JobState, StoredJob
from anyjob.testing.conformance.fixtures import KitFixtures, needs, not_proved, slow
from anyjob.testing.conformance.harness import LOGS, PROBES, BackendHarness, World
from anyjob.testing.conformance.processes import WorkerProcess
from anyjob.testing.probes.jobs import NAME, FailingLate, Fatal
from anyjob.testing.probes.journal import wait_until
from anyjob.testing.probes.observer import OBSERVER, heard

__all__ = ["CrashesConformance"]

DEFAULT_LEASE = BackendConfig(alias="x", url="memory:").lease
SLACK = 3.0
"""Seconds for a new process to start and for a machine that has other things to do."""
UNBOUNDED = 60.0
"""Seconds in which a lost job has to come back whose backend declares no bound."""


class CrashesConformance(KitFixtures):
    """At least once, whatever happens to the worker."""

    def test_a_killed_workers_job_runs_again(self, world: World) -> None:
        _kill_in_the_middle(world)

    def test_the_declared_bound_holds_by_default(self, harness: BackendHarness, tmp_path: Path) -> None:
        slow()
        with harness.open(tmp_path, lease=DEFAULT_LEASE) as world:
            _kill_in_the_middle(world)

    def test_a_crash_is_counted_apart_from_the_tries(self, world: World) -> None:
        gate = world.new_gate()
        world.manager.enqueue(world.probe("a", gate=str(gate)))
        for number in range(2):
            worker = world.start_worker(observers=[OBSERVER])
            world.journal.wait(number + 1, "begin", timeout=30)
            _wait_until_heard(world, number)
            worker.kill()
        gate.touch()
        world.start_worker(observers=[OBSERVER])
        world.journal.wait(3, "begin", timeout=30)
        _wait_until_heard(world, 2)
        last = world.journal.entries("begin")[-1]
        counted = world.can.exact_loss_count
        assert last.try_count == 1
        assert last.lost_count == 2 if counted else last.lost_count >= 2
        assert [each.lost_count for each in heard(world.journal.path, "lost")] == list(range(1, last.lost_count + 1))

    @needs("parked jobs")
    def test_a_job_that_kills_its_process_is_parked(self, *, world: World) -> None:
        """A supervisor starts the worker again if the job ended the worker's process, too."""
        if world.threaded:
            world.manager.enqueue(world.probe("fatal", gate=str(world.new_gate())))
            for number in range(2):
                worker = world.start_worker(max_losses=1)
                world.journal.wait(number + 1, "begin")
                worker.kill()
        else:
            world.manager.enqueue(Fatal(str(world.journal.path), "fatal"))
        worker = world.start_worker(max_losses=1)

        def parked_or_started_again() -> Sequence[StoredJob]:
            nonlocal worker
            if not worker.lives:
                worker = world.start_worker(max_losses=1)
            return world.jobs(JobState.ABANDONED)

        (parked,) = wait_until(parked_or_started_again, timeout=60, what="the job to be parked")
        assert parked.failure is not None
        assert "JobLostError" in parked.failure.error_type
        assert parked.envelope is not None
        assert parked.envelope.try_count == 0
        begun = len(world.journal.entries("begin", "fatal"))
        assert begun == 2 if world.can.exact_loss_count else begun <= 2
        if not worker.lives:
            world.start_worker()
        world.enqueue("sentinel")
        world.journal.wait(1, "end", "sentinel", timeout=30)

    @needs("parked jobs")
    @pytest.mark.parametrize("code", [0, 3])
    def test_whatever_a_job_ends_its_process_with_the_worker_stays(self, code: int, *, world: World) -> None:
        """Or what `anyjob worker` started: 0 would tell a supervisor outside that the worker ended as it should."""
        if world.threaded:
            not_proved("that a job which ends its process leaves the worker: that process is the test's")
        worker = world.start_worker(max_losses=0)
        world.manager.enqueue(Fatal(str(world.journal.path), "fatal", code))
        world.journal.wait(1, "begin", "fatal")
        (parked,) = world.wait_parked(timeout=60)
        assert parked.failure is not None
        assert "JobLostError" in parked.failure.error_type
        world.enqueue("sentinel")
        world.journal.wait(1, "end", "sentinel", timeout=30)
        assert worker.lives

    def test_nothing_outlives_the_worker_that_was_started(self, world: World) -> None:
        worker = world.start_worker(concurrency=2)
        world.enqueue("before")
        world.journal.wait(1, "end", "before")
        worker.behead()
        world.enqueue("after")
        world.start_worker()
        world.journal.wait(1, "end", "after", timeout=30)

    @needs("parked jobs", "delay")
    def test_what_a_paused_worker_lost_is_not_its_own_any_more(self, *, world: World) -> None:
        gate = world.new_gate()
        paused = world.start_pausable_worker()
        world.manager.enqueue(FailingLate(str(world.journal.path), "fenced", str(gate)))
        world.journal.wait(1, "begin", timeout=30)
        paused.pause()
        world.start_worker()
        world.journal.wait(2, "begin", timeout=30)  # it was lost, and begun by another
        gate.touch()
        paused.resume()
        world.wait_parked(timeout=30)
        world.enqueue("sentinel", delay=2)  # by then whatever else became of it has begun, too
        world.journal.wait(1, "end", "sentinel", timeout=30)
        begun = world.journal.entries("begin", "fenced")
        assert begun[-1].try_count == 3
        assert len(begun) <= 3 + begun[-1].lost_count
        assert len(world.wait_parked()) == 1

    def test_a_stopped_worker_finishes_its_job_and_begins_no_other(self, world: World) -> None:
        worker = world.start_worker()
        # It ends when it sees the stop: what comes next is not begun by then, however long the way of a signal.
        world.manager.enqueue(world.probe("running", gate=str(world.new_gate()), heeds_stop=True))
        world.journal.wait(1, "begin")
        world.enqueue("waiting")
        worker.terminate()
        world.manager.enqueue(world.probe("late"))
        worker.wait()
        assert worker.exit_code == 0
        if isinstance(worker, WorkerProcess):
            assert "done job=" in worker.said()
        ends = world.journal.entries("end")
        assert [each.label for each in ends] == ["running"]
        assert (ends[0].try_count, ends[0].lost_count) == (1, 0)
        world.start_worker()
        world.journal.wait(3)
        lost = {each.label for each in world.journal.entries() if each.lost_count}
        if lost:  # handed out just before the stop: where that can't be told from a loss, it was sent anew
            assert not world.can.exact_loss_count
            assert lost == {"waiting"}
        order = ["running", "late", "waiting"] if lost else ["running", "waiting", "late"]
        assert world.journal.begun() == order

    def test_a_job_sees_that_its_worker_stops_and_observers_that_its_process_ends(self, world: World) -> None:
        imports = (*PROBES, *(() if world.threaded else (LOGS,)))
        worker = world.start_worker(imports=imports, observers=[OBSERVER])
        job_id = world.manager.enqueue(world.probe("a", gate=str(world.new_gate()), heeds_stop=True))
        world.journal.wait(1, "begin")
        worker.stop()
        (end,) = world.journal.entries("end")
        assert end.data is True
        events = [each.event for each in heard(world.journal.path) if each.pid == end.pid]
        assert events == ["started", "succeeded", *(() if world.threaded else ("process_ends",))]
        if isinstance(worker, WorkerProcess):  # which keeps the log as the application set it up
            lines = [json.loads(line) for line in worker.log.read_text().splitlines() if line.startswith("{")]
            told = [each["job_event"] for each in lines if each.get("job_id") == job_id and each.get("job_try") == 1]
            assert told == ["started", "done"], worker.said()

    def test_a_job_that_outlasts_the_stop_goes_back_uncharged(self, world: World) -> None:
        worker = world.start_worker(stop_timeout=0.5, observers=[OBSERVER])
        gate = world.new_gate()
        world.manager.enqueue(world.probe("a", gate=str(gate)))
        world.journal.wait(1, "begin")
        assert worker.stop() == HANDED_BACK
        assert [each.label for each in heard(world.journal.path, "released")] == ["a"]
        gate.touch()
        world.start_worker()
        world.journal.wait(2, "begin", timeout=30)
        again = world.journal.entries("begin")[-1]
        assert again.try_count == 1
        assert again.lost_count == 0 if world.can.exact_loss_count else again.lost_count <= 1

    def test_two_workers_share_the_jobs(self, world: World) -> None:
        labels = [f"{number}" for number in range(150)]
        world.manager.enqueue_many([world.probe(label) for label in labels])
        for _ in range(2):
            world.start_worker()
        world.journal.wait(150, timeout=60)
        world.enqueue("sentinel")
        world.journal.wait(1, "end", "sentinel")
        begun = Counter(world.journal.begun())
        assert begun == Counter([*labels, "sentinel"])

    def test_concurrency_runs_jobs_at_the_same_time(self, world: World) -> None:
        world.start_worker(concurrency=2)
        gate = world.new_gate()
        world.manager.enqueue_many([world.probe(label, gate=str(gate)) for label in ("a", "b")])
        world.journal.wait(2, "begin")
        gate.touch()
        world.journal.wait(2)

    def test_an_idle_workers_death_costs_nothing(self, world: World) -> None:
        worker, _ = world.start_worker(), world.start_worker()
        world.enqueue("first")
        world.journal.wait(1)
        worker.kill()
        labels = [f"{number}" for number in range(20)]
        world.enqueue(*labels)
        wait_until(lambda: set(world.journal.begun()) >= set(labels), what="every job")
        begun = world.journal.begun()
        assert sorted(each for each in begun if each != "first") == sorted(labels)
        assert begun.count("first") <= 2  # it had ended, but the worker may not have said so yet

    def test_kills_between_many_jobs_lose_none(self, world: World) -> None:
        """Each kill finds a job in hand, and others around it: that one begins twice, and at most one beside it."""
        held = [f"held-{number}" for number in range(3)]
        gates = [world.new_gate() for _ in held]
        labels, probes = [], []
        for label, gate in zip(held, gates, strict=True):
            before = [f"before-{label}-{number}" for number in range(15)]
            probes += [*map(world.probe, before), world.probe(label, gate=str(gate))]
            labels += [*before, label]
        world.manager.enqueue_many([*probes, world.probe("last")])
        for label, gate in zip(held, gates, strict=True):
            worker = world.start_worker()
            world.journal.wait(1, "begin", label, timeout=30)
            worker.kill()
            gate.touch()
        world.start_worker()
        wanted = Counter([*labels, *held, "last"])

        def left() -> Counter[str]:
            return wanted - Counter(world.journal.begun())

        wait_until(lambda: not left(), timeout=60, what=lambda: f"{left()} to begin")
        world.enqueue("sentinel")
        world.journal.wait(1, "end", "sentinel")
        repeated = Counter(world.journal.begun()) - wanted
        assert not repeated.keys() & {*held}, repeated
        assert repeated.total() <= 1 + len(held), (
            f"{repeated}, the sentinel among them, beside what was in hand at {len(held)} kills"
        )


def _kill_in_the_middle(world: World) -> None:
    """See the job of a killed worker begin again: within the declared bound; where there is none, too, if later."""
    bound = UNBOUNDED if world.can.redelivery_bound is None else world.can.redelivery_bound.total_seconds() + SLACK
    gate = world.new_gate()
    worker = world.start_worker()
    job_id = world.manager.enqueue(world.probe("a", gate=str(gate)))
    world.journal.wait(1, "begin")
    died = time.time()
    worker.kill()
    world.start_worker()
    gate.touch()
    _, again = world.journal.wait(2, "begin", timeout=min(3 * bound, max(UNBOUNDED, bound)))
    assert again.at - died <= bound
    assert (again.id, again.name, again.try_count, again.lost_count) == (job_id, f"{NAME}.probe", 1, 1)


def _wait_until_heard(world: World, losses: int) -> None:
    """Wait for observers: the thread that recovers a job tells them while another may run it already."""
    wait_until(lambda: len(heard(world.journal.path, "lost")) >= losses, what=f"{losses} losses to be told")
