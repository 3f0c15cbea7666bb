"""Everything that waits, from each backend to another: each field, its place in line, and what is not ours left alone.

`ANYJOB_TEST_LONG=1` takes all ordered pairs, with 10,000 jobs each.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import pytest
from migration.pairs import LONG, Pair, in_line, mixed, pairs

from anyjob import JobEnvelope, JobFilter, JobState
from anyjob.base.envelope import write_envelope
from anyjob.extend import StoreBackend
from anyjob.stores.memory import InMemoryJobStore
from anyjob.stores.store_backend import memory_capabilities
from anyjob.testing.conformance.fixtures import move

JOBS, NATIVES = (10_000, 1_000) if LONG else (300, 30)

pytestmark = pytest.mark.timeout(900 if LONG else 90)


@pairs
def test_everything_moves_and_arrives_as_it_was(pair: Pair) -> None:
    sent = mixed(pair.b, JOBS)
    pair.fill(sent, NATIVES)

    report = pair.move()

    assert (report.read, report.moved, report.left, report.foreign) == (JOBS + NATIVES, JOBS, 0, NATIVES)
    assert report.is_balanced
    assert report.in_doubt == []
    assert sum(group.moved for group in report.groups) == JOBS
    assert pair.natives() == list(range(NATIVES))
    assert pair.count("a") == {JobState.WAITING: NATIVES, JobState.SCHEDULED: 0}
    assert pair.count("b") == {JobState.WAITING: JOBS // 2, JobState.SCHEDULED: JOBS // 2}

    memory = StoreBackend(InMemoryJobStore(), memory_capabilities(30.0))
    assert move(("b", pair.manager.backend("b")), ("memory", memory)).moved == JOBS
    got = [job.envelope for job in memory.store.scan(JobFilter(), limit=JOBS).jobs]
    found = [each for each in got if each is not None]
    assert {each.id: each for each in found} == {each.id: each for each in sent}
    assert in_line(found) == in_line(sent)

    assert move(("memory", memory), ("b", pair.manager.backend("b"))).moved == JOBS
    due = {each.id: each for each in sent if each.due_at is None}
    pair.b.start_worker()
    pair.b.journal.wait(len(due), timeout=600 if LONG else 60)
    begun = pair.b.journal.entries("begin")
    assert _by_queue(due[each.id] for each in begun) == _by_queue(
        sorted(due.values(), key=lambda job: -job.priority)  # and in a level as they were enqueued
    )
    for entry in begun:
        job = due[entry.id]
        assert (entry.try_count, entry.lost_count, entry.last_error) == (
            job.try_count + 1,
            job.lost_count,
            job.last_error,
        )
        assert entry.headers == job.headers


@pairs
def test_parked_jobs_move_if_asked(pair: Pair) -> None:
    executor = pair.manager.executor
    for raw in (*(write_envelope(job) for job in mixed(pair.a, 10)), b"\x00 no job"):
        pair.manager.backend("a").park(raw, executor.refuse(raw, f"for {raw!r}").failure)
    pair.fill(mixed(pair.a, 10))
    parked = frozenset({JobState.ABANDONED})

    before = {job.raw: job.failure for job in pair.look("a", JobState.ABANDONED)}
    assert len(before) == 11
    report = pair.move(states=parked)

    assert (report.moved, report.left, report.is_balanced) == (11, 0, True)
    assert {job.raw: job.failure for job in pair.look("b", JobState.ABANDONED)} == before
    assert report.remaining[JobState.ABANDONED] == 0
    assert sum(pair.count("a").values()) == 10


def _by_queue(envelopes: Iterable[JobEnvelope]) -> Mapping[str, Sequence[str]]:
    queues: dict[str, list[str]] = {}
    for each in envelopes:
        queues.setdefault(each.queue, []).append(each.id)
    return queues
