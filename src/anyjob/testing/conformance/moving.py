"""Jobs that wait can be moved away, and are at home where they arrive."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from anyjob.base.envelope import JobEnvelope, JobPriority
from anyjob.base.errors import DuplicateJobIdError, EnqueueError, InvalidOptionError
from anyjob.define.options import PrepareOptions
from anyjob.migration import JobMigration, MigrationError, MigrationOptions, MigrationReport
from anyjob.seams.capabilities import Quality
from anyjob.seams.stored import JobFilter, JobState, StoredJob
from anyjob.stores.memory import InMemoryJobStore
from anyjob.stores.store_backend import StoreBackend, memory_capabilities
from anyjob.testing.conformance.fixtures import KitFixtures, move, needs, promised
from anyjob.testing.conformance.harness import World
from anyjob.testing.probes.journal import wait_until

__all__ = ["MovingConformance"]


class MovingConformance(KitFixtures):
    """Each backend is a source and a destination; on the other side is memory, or the same backend's own journal."""

    @needs("moving")
    def test_what_waits_moves_away_as_it_is(self, *, world: World) -> None:
        sent = _mixed(world, 60)
        world.manager.enqueue_many(sent)
        memory = _memory()
        report = _move_away(world, memory)
        assert (report.read, report.moved, report.left, report.foreign) == (60, 60, 0, 0)
        assert report.is_balanced
        assert {state: report.remaining.get(state, 0) for state in _WAITS} == dict.fromkeys(_WAITS, 0)
        assert sum(group.moved for group in report.groups) == 60
        got = _envelopes(memory)
        assert {each.id: each for each in got} == {each.id: each for each in sent}
        assert _in_line(got) == _in_line(sent)

    @needs("priority", "delay")
    def test_what_is_moved_here_runs_here_in_order(self, *, world: World) -> None:
        memory = _memory()
        labels = [f"{number}" for number in range(15)]
        levels = [list(JobPriority)[number % 5] for number in range(15)]
        sent = [
            replace(world.manager.prepare(world.probe(label), priority=level), try_count=1, headers={"a": "b"})
            for label, level in zip(labels, levels, strict=True)
        ]
        later = [world.manager.prepare(world.probe("later"), delay=timedelta(seconds=1.5))]
        memory.send([*sent, *later])
        report = move(("memory", memory), ("world", world.manager.backend()))
        assert (report.moved, report.left) == (16, 0)
        world.start_worker()
        world.journal.wait(16)
        wanted = sorted(labels, key=lambda label: (-levels[int(label)], int(label)))
        begun = [label for label in world.journal.begun() if label != "later"]
        assert begun == wanted
        entries = world.journal.entries("begin", *labels)
        assert {each.id for each in entries} == {each.id for each in sent}
        assert {each.try_count for each in entries} == {2}

    @needs("moving")
    def test_part_of_it_moves_away(self, *, world: World) -> None:
        world.enqueue("a1", "a2", queue="a")
        world.enqueue("b1", "b2", queue="b")
        memory = _memory()
        report = _move_away(world, memory, queues=frozenset({"a"}))
        assert (report.moved, report.left) == (2, 0)
        assert {each.queue for each in _envelopes(memory)} == {"a"}
        assert _move_away(world, memory, name="no.such.*").moved == 0
        world.start_worker()
        world.journal.wait(2)
        assert sorted(world.journal.begun()) == ["b1", "b2"]

    @needs("moving")
    def test_a_queue_is_emptied_by_who_never_heard_of_it(self, *, world: World) -> None:
        """A call named it, and its process is gone."""
        world.enqueue("a1", "a2", queue="a")
        with world.another_manager(queues=["b"]) as manager:
            assert manager.inspect().count().get(JobState.WAITING, 2) == 2
            memory = _memory()
            options = MigrationOptions(states=frozenset({JobState.WAITING}))
            other = ("other", manager.backend())
            report = JobMigration(other, ("memory", memory), options, clock=manager.executor.clock).move()
            assert (report.moved, report.left) == (2, 0)
            assert report.remaining.get(JobState.WAITING, 0) == 0
        assert {each.queue for each in _envelopes(memory)} == {"a"}

    @needs("moving")
    def test_a_look_moves_nothing(self, *, world: World) -> None:
        world.enqueue("a", "b", "c")
        report = JobMigration(
            ("world", world.manager.backend()),
            ("memory", _memory()),
            MigrationOptions(),
            clock=world.manager.executor.clock,
        ).preview()
        assert report.dry_run
        assert (report.read, report.moved, report.left) == (3, 3, 0)
        world.start_worker()
        world.journal.wait(3)
        assert world.journal.begun() == ["a", "b", "c"]

    @needs("moving")
    def test_what_the_destination_cant_keep_stays(self, *, world: World) -> None:
        world.enqueue("a", "b")
        world.enqueue("high", priority=JobPriority.HIGH) if world.can.priority is not Quality.NONE else None
        level_less = _memory()
        level_less.capabilities = dataclasses.replace(level_less.capabilities, priority=Quality.NONE)
        report = _move_away(world, level_less)
        assert report.moved == 2
        if world.can.priority is not Quality.NONE:
            assert report.left == 1
            (left,) = [group for group in report.groups if group.left]
            assert "priority" in left.why[0]
        assert report.is_balanced

    @needs("moving", "parked jobs")
    def test_parked_jobs_move_if_asked(self, *, world: World) -> None:
        raws = [b"\x00\xff no job", b'{"v":99}']
        before = {raw: world.manager.executor.refuse(raw, f"because of {raw!r}").failure for raw in raws}
        for raw, failure in before.items():
            world.manager.backend().park(raw, failure)
        assert {job.raw: job.failure for job in world.jobs(JobState.ABANDONED)} == before
        memory = _memory()
        assert _move_away(world, memory).read == 0
        report = _move_away(world, memory, states=frozenset({JobState.ABANDONED}))
        assert report.moved == 2
        assert {job.raw: job.failure for job in _jobs(memory, JobState.ABANDONED)} == before
        assert world.jobs(JobState.ABANDONED) == []
        back = move(("memory", memory), ("world", world.manager.backend()), states=frozenset({JobState.ABANDONED}))
        assert back.moved == 2
        assert {job.raw: job.failure for job in world.jobs(JobState.ABANDONED)} == before

    @needs("moving")
    def test_what_is_no_job_stays_in_its_place(self, *, world: World) -> None:
        foreign = [b'{"no": "job", "number": %d}' % number for number in range(4)]
        ids = []
        for raw in foreign:
            world.put(raw)
            ids += world.enqueue("between")
        memory = _memory()
        report = _move_away(world, memory)
        assert (report.moved, report.foreign, report.read) == (4, 4, 8)
        assert [each.id for each in _envelopes(memory)] == ids
        assert _move_away(world, memory).foreign == 4
        world.start_worker()
        assert [job.raw for job in sorted(world.wait_parked(4), key=_when_parked)] == foreign

    @needs("moving")
    def test_a_mover_that_fails_loses_nothing(self, *, world: World) -> None:
        """The destination goes away after the first batch, for a while."""
        ids = world.enqueue(*[f"{number}" for number in range(10)])
        away = _Away()
        with pytest.raises(MigrationError) as caught:
            _move_away(world, away, batch=4)
        assert caught.value.report.moved == 4
        away.is_away = False
        report = _move_away(world, away, resume=caught.value.report.run)
        assert report.moved == 6
        assert [each.id for each in _envelopes(away)] == ids

    @needs("moving")
    def test_what_is_moved_here_is_here_once(self, *, world: World) -> None:
        backend = world.manager.backend()
        moved = [world.manager.prepare(world.probe(label)) for label in ("a", "b")]
        backend.marks.begin("run-1")
        backend.send(moved[:1], once="run-1")
        if world.can.moves_once:
            backend.send(moved, once="run-1")  # as by a mover that was killed, and came again
        else:
            backend.send(moved[1:], once="run-1")
        world.start_worker()
        world.journal.wait(2)
        if world.can.moves_once:
            backend.send(moved, once="run-1")  # whether or not they ran meanwhile
        world.enqueue("sentinel")
        world.journal.wait(3)
        assert world.journal.begun() == ["a", "b", "sentinel"]
        backend.marks.forget("run-1")
        backend.marks.begin("run-1")
        backend.send(moved[:1], once="run-1")  # the way back, and here again
        world.journal.wait(4)
        _wait_until_empty(world)
        backend.marks.forget(None)  # jobs are moved away from here: whoever comes again is new
        backend.send(moved[:1], once="run-1")
        world.journal.wait(5)
        backend.marks.forget("run-1")
        assert world.journal.begun()[3:] == ["a", "a"]

    @needs("moving")
    def test_a_taken_id_is_no_reason_to_pass_over_a_new_job(self, *, world: World) -> None:
        """A job that was moved, ran, and was enqueued anew by the id that its application gave it."""
        backend = world.manager.backend()
        first = world.manager.prepare(world.probe("first"), job_id="nightly")
        backend.marks.begin("run-1")
        backend.send([first], once="run-1")
        world.start_worker()
        world.journal.wait(1)
        _wait_until_empty(world)
        backend.send([world.manager.prepare(world.probe("second"), job_id="nightly")], once="run-1")
        world.journal.wait(2)
        backend.marks.forget("run-1")
        assert world.journal.begun() == ["first", "second"]

    @needs("moving")
    def test_what_may_be_here_twice_is_told(self, *, world: World) -> None:
        """The mover died after it sent the second batch, and the one who went on with it died as well."""
        promised(world, lambda can: can.moves_once or not can.unique_ids, "to take an id that is there already")
        envelopes = [world.manager.prepare(world.probe(label)) for label in "abcdef"]
        ids = [each.id for each in envelopes]
        movers: list[list[tuple[Sequence[JobEnvelope], Sequence[str], Sequence[str]]]] = [
            [(envelopes[:2], [], []), (envelopes[2:4], ids[:2], [])],
            [(envelopes[2:3], [], ids[2:3])],
            [(envelopes[2:4], [], ids[2:4]), (envelopes[4:], ids[2:4], ids[2:4]), (envelopes[:2], [], ids[2:4])],
        ]
        for sent in movers:
            with world.another_manager() as manager:
                manager.backend().marks.begin("run-1")
                for batch, gone, in_doubt in sent:
                    manager.backend().marks.forget("run-1", gone)
                    manager.backend().send(batch, once="run-1")
                    told = manager.backend().marks.in_doubt("run-1")
                    assert sorted(told) == ([] if world.can.moves_once else in_doubt)
        world.manager.backend().marks.forget("run-1")

    @needs("moving")
    def test_a_place_is_not_moved_to_itself(self, *, world: World) -> None:
        """By another alias, or another way to its server."""
        labels = [f"{number}" for number in range(5)]
        world.enqueue(*labels)
        with world.another_manager() as manager, pytest.raises(InvalidOptionError, match="'one' and 'other' are one"):
            move(("one", world.manager.backend()), ("other", manager.backend()))
        world.start_worker()
        world.journal.wait(5)
        world.enqueue("sentinel")
        world.journal.wait(6)
        assert world.journal.begun() == [*labels, "sentinel"]

    @needs("moving", "unique ids")
    def test_an_id_that_is_taken_stays_at_the_source(self, *, world: World) -> None:
        memory = _memory()
        envelope = world.manager.prepare(world.probe("there"))
        world.manager.enqueue_many([envelope])
        memory.send([envelope, world.manager.prepare(world.probe("new"))])
        report = move(("memory", memory), ("world", world.manager.backend()))
        assert (report.moved, report.left, report.is_balanced) == (1, 1, True)
        assert [each.id for each in _envelopes(memory)] == [envelope.id]
        with pytest.raises(DuplicateJobIdError):
            world.manager.backend().send([envelope], once="another-run")

    @needs("moving")
    def test_what_a_dead_worker_held_moves_too(self, *, world: World) -> None:
        worker = world.start_worker()
        held = world.manager.enqueue(world.probe("held", gate=str(world.new_gate())))
        world.journal.wait(1, "begin", "held")
        memory = _memory()
        assert _move_away(world, memory).moved == 0
        worker.kill()
        wait_until(lambda: _move_away(world, memory).moved, what="what it held to be moved")
        assert [each.id for each in _envelopes(memory)] == [held]
        assert not world.jobs()

    @needs("moving")
    def test_a_worker_and_a_mover_share_no_job(self, *, world: World) -> None:
        world.start_worker()
        world.enqueue("warm")
        world.journal.wait(1)
        ids = world.manager.enqueue_many([world.probe(f"{number}") for number in range(200)])
        memory = _memory()
        _move_away(world, memory, batch=20)
        moved = {each.id for each in _envelopes(memory)}
        world.journal.wait(1 + len(ids) - len(moved), "end")
        ran = {each.id for each in world.journal.entries("begin")} - {world.journal.entries("begin", "warm")[0].id}
        assert ran | moved == set(ids)
        assert not ran & moved


def _wait_until_empty(world: World) -> None:
    wait_until(lambda: not world.jobs(), what="the end of all that is listed")


class _Away(StoreBackend):
    """A destination that takes one batch and then can't be reached."""

    def __init__(self) -> None:
        memory = _memory()
        super().__init__(memory.store, memory.capabilities)
        self.is_away = True

    def send(self, envelopes: Sequence[JobEnvelope], *, once: str | None = None) -> None:
        if self.is_away and any(self.store.count().values()):
            raise EnqueueError("It is away.", rejected=[each.id for each in envelopes])
        super().send(envelopes, once=once)


def _memory() -> StoreBackend:
    return StoreBackend(InMemoryJobStore(), memory_capabilities(30.0))


def _move_away(world: World, memory: StoreBackend, **options: Any) -> MigrationReport:
    return move(("world", world.manager.backend()), ("memory", memory), **options)


def _mixed(world: World, count: int) -> Sequence[JobEnvelope]:
    """Return jobs of all levels that the backend has, in three queues, half of them due later, some tried before."""
    levels = list(JobPriority) if world.can.priority is not Quality.NONE else [JobPriority.NORMAL]
    made = []
    for number in range(count):
        options: PrepareOptions = {
            "queue": ("default", "a", "b")[number % 3],
            "priority": levels[number % len(levels)],
            "headers": {"tenant": f"{number}"} if number % 4 == 0 else {},
        }
        if number % 2 and world.can.delay is not Quality.NONE:
            options["delay"] = timedelta(hours=1, seconds=number)
        envelope = world.manager.prepare(world.probe(f"{number} \u00e9\u4e2d"), **options)
        made.append(replace(envelope, try_count=number % 3, last_error="Error: no" if number % 3 else None))
    return made


def _in_line(envelopes: Iterable[JobEnvelope]) -> Mapping[tuple[str, int, bool], Sequence[str]]:
    lines: dict[tuple[str, int, bool], list[str]] = {}
    for each in envelopes:
        lines.setdefault((each.queue, each.priority, each.due_at is None), []).append(each.id)
    return lines


def _jobs(backend: StoreBackend, *states: JobState) -> Sequence[StoredJob]:
    return backend.store.scan(JobFilter(states=frozenset(states)), limit=10_000).jobs


def _envelopes(backend: StoreBackend) -> Sequence[JobEnvelope]:
    found = [job.envelope for job in _jobs(backend, *_WAITS)]
    return [each for each in found if each is not None]


def _when_parked(job: StoredJob) -> datetime:
    assert job.failure is not None
    return job.failure.failed_at


_WAITS = (JobState.WAITING, JobState.SCHEDULED)
