"""Jobs run, once each, with what they were given."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from anyjob.base.envelope import JobPriority
from anyjob.base.errors import DuplicateJobIdError
from anyjob.base.job_id import JobId
from anyjob.seams.capabilities import BulkAtomicity
from anyjob.seams.stored import JobState
from anyjob.testing.conformance.fixtures import KitFixtures, needs
from anyjob.testing.conformance.harness import World
from anyjob.testing.probes.jobs import NAME, AsyncProbe, Chain, samples
from anyjob.testing.probes.journal import wait_until
from anyjob.testing.probes.observer import heard

__all__ = ["RunsConformance"]


class RunsConformance(KitFixtures):
    """What is enqueued runs, and nothing of it is changed on the way."""

    def test_a_job_runs_once(self, running: World) -> None:
        (job_id,) = running.enqueue("a")
        (end,) = running.journal.wait(1)
        assert (end.id, end.name, end.queue, end.priority) == (job_id, f"{NAME}.probe", "default", JobPriority.NORMAL)
        assert (end.try_count, end.lost_count, end.last_error) == (1, 0, None)
        running.enqueue("sentinel")
        running.journal.wait(1, "end", "sentinel")
        assert running.journal.begun() == ["a", "sentinel"]

    def test_an_async_job_is_awaited(self, running: World) -> None:
        running.manager.enqueue(AsyncProbe(str(running.journal.path), "a"))
        running.journal.wait(1)
        assert [each.event for each in running.journal.entries()] == ["begin", "end"]

    def test_async_jobs_run_though_one_of_them_stops_their_loop(self, running: World) -> None:
        for label in ("before", "stops", "after"):
            running.manager.enqueue(AsyncProbe(str(running.journal.path), label, stops_loop=label == "stops"))
        running.journal.wait(3)
        assert running.journal.begun() == ["before", "stops", "after"]

    def test_a_job_may_enqueue_the_next(self, running: World) -> None:
        running.manager.enqueue(Chain(str(running.journal.path), "1", ["2", "3"]))
        running.journal.wait(3)
        assert running.journal.begun() == ["1", "2", "3"]

    def test_aenqueue(self, running: World) -> None:
        async def enqueue() -> str:
            return await running.manager.aenqueue(running.probe("a"))

        job_id = asyncio.run(enqueue())
        (end,) = running.journal.wait(1)
        assert end.id == job_id

    def test_many_at_once(self, running: World) -> None:
        labels = [f"{number}" for number in range(300)]
        ids = running.manager.enqueue_many([running.probe(label) for label in labels])
        ends = running.journal.wait(300, timeout=60)
        assert [each.label for each in ends] == labels
        assert [each.id for each in ends] == ids

    def test_aenqueue_many(self, running: World) -> None:
        async def enqueue() -> list[JobId]:
            return await running.manager.aenqueue_many([running.probe("a"), running.probe("b")])

        ids = asyncio.run(enqueue())
        assert [each.id for each in running.journal.wait(2)] == ids

    def test_by_name(self, running: World) -> None:
        running.manager.enqueue_by_name(f"{NAME}.probe", {"journal": str(running.journal.path), "label": "a"})
        running.journal.wait(1)

    def test_an_id_of_the_callers_own_is_kept(self, running: World) -> None:
        job_id = "A-Za_z0-9_" + "x" * 54
        running.enqueue("a", job_id=job_id)
        (end,) = running.journal.wait(1)
        assert end.id == job_id

    def test_headers_are_kept(self, running: World) -> None:
        headers = {"traceparent": "00-ab-cd-01", "tenant": 'é漢\U0001f600 "\\\n', "empty": ""}
        running.enqueue("a", headers=headers)
        (end,) = running.journal.wait(1)
        assert end.headers == headers

    @needs("priority")
    def test_queue_and_priority_are_what_was_asked_for(self, *, world: World) -> None:
        world.start_worker()
        world.enqueue("x", queue="a", priority=JobPriority.ABOVE_NORMAL)
        (end,) = world.journal.wait(1)
        assert (end.queue, end.priority) == ("a", JobPriority.ABOVE_NORMAL)

    @pytest.mark.parametrize("kind", ["ADataclass", "AStruct", "ANamedTuple", "ATypedDict"])
    def test_every_kind_of_arguments_arrives(self, running: World, kind: str) -> None:
        (args, job), *_ = [each for each in samples(str(running.journal.path)) if each[1].__name__[4:] == kind[1:]]
        running.manager.enqueue_for(job, args)
        (end,) = running.journal.wait(1)
        assert end.data == _as_json(args)

    def test_the_arguments_of_a_function_arrive(self, running: World) -> None:
        text = "".join(map(chr, [*range(1, 0x250), 0x2028, 0xFFFD, 0x1F600]))
        args = {"journal": str(running.journal.path), "text": text, "numbers": [1, -(2**63)]}
        running.manager.enqueue_by_name(f"{NAME}.echo", args)
        (end,) = running.journal.wait(1)
        assert end.data == {"text": text, "numbers": [1, -(2**63)]}
        succeeded = wait_until(lambda: heard(running.journal.path, "succeeded"), what="the observer")
        assert [each.result for each in succeeded] == [len(text)]

    def test_large_arguments_arrive(self, running: World) -> None:
        text = "x漢" * 50_000  # 200 KB
        running.manager.enqueue_by_name(f"{NAME}.echo", {"journal": str(running.journal.path), "text": text})
        (end,) = running.journal.wait(1)
        assert end.data["text"] == text

    @needs("unique ids")
    def test_a_taken_id_is_refused(self, *, world: World) -> None:
        world.manager.enqueue(world.probe("a"), job_id="taken", unique_id=True)
        for demand in (True, None):
            with pytest.raises(DuplicateJobIdError, match="taken") as refused:
                world.manager.enqueue(world.probe("b"), job_id="taken", unique_id=demand)
            assert refused.value.rejected == ("taken",)
        many = [world.manager.prepare(world.probe(label), job_id=label) for label in ("c", "taken", "d")]
        with pytest.raises(DuplicateJobIdError) as refused:
            world.manager.enqueue_many(many, unique_id=True)
        assert set(refused.value.rejected) | set(refused.value.accepted) == {"c", "taken", "d"}
        assert "taken" in refused.value.rejected
        world.start_worker()
        world.enqueue("sentinel")
        world.journal.wait(1, "end", "sentinel")
        assert world.journal.begun() == [
            "a",
            *(each for each in ("c", "d") if each in refused.value.accepted),
            "sentinel",
        ]

    @needs("unique ids")
    def test_a_bulk_that_fails_is_kept_as_declared(self, *, world: World) -> None:
        """All or none, if that is declared; in batches, each job is told by what became of it."""
        world.enqueue("taken", job_id="taken")
        ids = [*(f"job-{number}" for number in range(20)), "taken", *(f"job-{number}" for number in range(20, 40))]
        queues = ("default", "a", "b")
        many = [
            world.manager.prepare(world.probe(job_id), job_id=job_id, queue=queues[number % 3])
            for number, job_id in enumerate(ids)
        ]
        with pytest.raises(DuplicateJobIdError) as refused:
            world.manager.enqueue_many(many)
        accepted, rejected = set(refused.value.accepted), set(refused.value.rejected)
        assert "taken" in rejected
        assert (accepted | rejected, accepted & rejected, refused.value.in_doubt) == ({*ids}, set(), ())
        if world.can.bulk is BulkAtomicity.ALL_OR_NONE:
            assert accepted == set()
        if world.can.listing >= {JobState.WAITING}:
            assert {job.id for job in world.jobs(JobState.WAITING)} == {"taken", *accepted}
        else:
            world.start_worker()
            world.enqueue("sentinel", queue="a")  # the last in each
            world.journal.wait(2 + len(accepted))
            assert {*world.journal.begun()} == {"taken", "sentinel", *accepted}

    @needs("unique ids")
    def test_an_id_is_free_again_once_its_job_is_done(self, *, world: World) -> None:
        world.start_worker()
        for number in range(2):
            wait_until(lambda: _accepted(world, job_id="again"), what="the id to be free")
            world.journal.wait(number + 1)

    @needs("bounded worker", "delay")
    def test_a_burst_leaves_nothing_that_is_due_and_waits_for_nothing_else(self, *, world: World) -> None:
        world.enqueue("later", delay=3600)
        world.manager.enqueue(Chain(str(world.journal.path), "1", ["2", "3"]))
        world.enqueue("in another queue", queue="a")
        assert world.start_worker(burst=True, concurrency=2).wait_for_its_end() == 0
        assert sorted(world.journal.begun()) == ["1", "2", "3", "in another queue"]

    @needs("bounded worker")
    def test_a_worker_ends_after_so_many_jobs(self, *, world: World) -> None:
        world.enqueue("a", "b", "c")
        assert world.start_worker(max_jobs=2).wait_for_its_end() == 0
        assert world.journal.begun() == ["a", "b"]
        assert world.start_worker(burst=True, max_jobs=2).wait_for_its_end() == 0
        assert world.journal.begun() == ["a", "b", "c"]


def _accepted(world: World, **options: Any) -> bool:
    try:
        world.enqueue("a", **options)
    except DuplicateJobIdError:
        return False
    return True


def _as_json(args: object) -> Any:
    return msgspec.json.decode(msgspec.json.encode(args))
