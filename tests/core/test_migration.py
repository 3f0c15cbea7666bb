"""What a migration decides by itself, between two backends in memory; the kit has what each backend must do."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from envelopes import make_envelope
from msgspec import structs

from anyjob import JobEnvelope, JobState, UnsupportedCapabilityError
from anyjob.base.errors import ConfigurationError, EnqueueError, InvalidOptionError
from anyjob.define.registry import JobRegistry
from anyjob.extend import StoreBackend
from anyjob.migration import JobMigration, MigrationError, MigrationOptions, MigrationReport
from anyjob.seams.capabilities import Quality
from anyjob.seams.stored import JobFilter
from anyjob.send.manager import JobManager
from anyjob.stores.memory import InMemoryJobStore
from anyjob.stores.store_backend import memory_capabilities
from anyjob.testing import FakeClock


@pytest.fixture
def old(clock: FakeClock) -> StoreBackend:
    return StoreBackend(InMemoryJobStore(clock), memory_capabilities(30.0))


@pytest.fixture
def new(clock: FakeClock) -> StoreBackend:
    return StoreBackend(InMemoryJobStore(clock), memory_capabilities(30.0))


@pytest.fixture
def migrate(old: StoreBackend, new: StoreBackend, clock: FakeClock) -> Callable[..., JobMigration]:
    def make(progress: Callable[[MigrationReport], None] = lambda _: None, **options: Any) -> JobMigration:
        return JobMigration(("old", old), ("new", new), MigrationOptions(**options), clock=clock, progress=progress)

    return make


def fill(backend: StoreBackend, clock: FakeClock, count: int, **fields: Any) -> Sequence[JobEnvelope]:
    envelopes = [make_envelope(clock.now(), f"job-{number}", **fields) for number in range(count)]
    backend.send(envelopes)
    return envelopes


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"states": frozenset()}, "states: some of waiting, scheduled and abandoned"),
        ({"states": frozenset({JobState.RUNNING})}, "what runs is not moved"),
        ({"batch": 0}, "batch: 0: from 1 to 1000"),
        ({"batch": 1001}, "batch: 1001: from 1 to 1000"),
        ({"rate": 0.0}, "rate: 0.0: jobs a second, more than 0"),
        ({"rate": float("nan")}, "rate: nan: jobs a second, more than 0"),
        ({"resume": "no such:run"}, "resume: 'no such:run' is no run's name"),
    ],
)
def test_options_that_make_no_sense(options: dict[str, Any], told: str) -> None:
    with pytest.raises(InvalidOptionError, match=told):
        MigrationOptions(**options)


def test_a_backend_is_not_moved_to_itself(old: StoreBackend, clock: FakeClock) -> None:
    with pytest.raises(InvalidOptionError, match="'old' and 'same' are one place"):
        JobMigration(("old", old), ("same", old), MigrationOptions(), clock=clock)


def test_a_source_that_gives_nothing_away_is_refused_with_the_way_out(
    old: StoreBackend, migrate: Callable[..., JobMigration]
) -> None:
    old.capabilities = replace(old.capabilities, moving=frozenset({JobState.ABANDONED}))
    with pytest.raises(UnsupportedCapabilityError, match="can't give away its waiting and scheduled jobs.*worker"):
        migrate()


def test_what_runs_stays_and_is_finished(
    old: StoreBackend, new: StoreBackend, clock: FakeClock, migrate: Callable[..., JobMigration]
) -> None:
    fill(old, clock, 3)
    (claim,) = old.store.claim(queues=None, limit=1, lease=timedelta(minutes=1), worker="w")

    report = migrate().move()

    assert (report.moved, report.left, report.remaining[JobState.RUNNING]) == (2, 0, 1)
    assert claim.id not in {job.id for job in new.store.scan(JobFilter()).jobs}


def test_what_a_dead_worker_held_is_moved_too(
    old: StoreBackend, clock: FakeClock, migrate: Callable[..., JobMigration]
) -> None:
    fill(old, clock, 3)
    old.store.claim(queues=None, limit=1, lease=timedelta(minutes=1), worker="w")
    clock.travel(minutes=2)

    assert migrate().move().moved == 3


def test_the_rate_is_kept(old: StoreBackend, clock: FakeClock, migrate: Callable[..., JobMigration]) -> None:
    fill(old, clock, 10)
    begun = clock.now()
    told: list[int] = []
    migration = migrate(lambda report: told.append(report.moved), batch=5, rate=0.1)
    done = threading.Thread(target=migration.move, daemon=True)
    done.start()
    while done.is_alive():
        clock.travel(seconds=1)
        done.join(0.001)

    assert told == [5, 10]
    assert clock.now() - begun >= timedelta(seconds=100)


def test_it_stops_after_a_whole_batch(
    old: StoreBackend, new: StoreBackend, clock: FakeClock, migrate: Callable[..., JobMigration]
) -> None:
    fill(old, clock, 10)
    migration: JobMigration = migrate(lambda _: migration.stop(), batch=4)

    report = migration.move()

    assert (report.moved, report.is_balanced, report.remaining[JobState.WAITING]) == (4, True, 6)
    assert new.store.count()[JobState.WAITING] == 4
    assert migrate().move().moved == 6


def test_a_stop_ends_the_wait_for_the_rate(
    old: StoreBackend, clock: FakeClock, migrate: Callable[..., JobMigration]
) -> None:
    fill(old, clock, 10)
    waits = threading.Event()
    migration = migrate(lambda _: waits.set(), batch=4, rate=0.001)
    thread = threading.Thread(target=migration.move, daemon=True)
    thread.start()
    waits.wait(10)
    migration.stop()
    thread.join(10)
    assert not thread.is_alive()


def test_what_a_worker_took_meanwhile_is_not_read_back(
    old: StoreBackend,
    new: StoreBackend,
    clock: FakeClock,
    migrate: Callable[..., JobMigration],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fill(old, clock, 3)
    send = new.send
    monkeypatch.setattr(new, "send", lambda jobs, once: send(jobs[1:]))

    report = migrate(verify=True).move()

    assert (report.moved, report.verified) == (3, 2)


def test_what_reads_otherwise_at_the_destination_stays_at_the_source(
    old: StoreBackend,
    new: StoreBackend,
    clock: FakeClock,
    migrate: Callable[..., JobMigration],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fill(old, clock, 3)
    send = new.send
    monkeypatch.setattr(new, "send", lambda jobs, once: send([structs.replace(job, try_count=7) for job in jobs]))

    with pytest.raises(MigrationError, match="Job job-0 reads otherwise in 'new' than in 'old'"):
        migrate(verify=True).move()

    assert old.store.count()[JobState.WAITING] == 3


def test_nobody_can_read_back_from_where_nothing_is_shown(
    new: StoreBackend, migrate: Callable[..., JobMigration]
) -> None:
    new.capabilities = replace(new.capabilities, listing=frozenset({JobState.ABANDONED}))
    with pytest.raises(UnsupportedCapabilityError):
        migrate(verify=True)


def test_what_is_left_is_told_with_why(
    old: StoreBackend, new: StoreBackend, clock: FakeClock, migrate: Callable[..., JobMigration]
) -> None:
    new.capabilities = replace(new.capabilities, delay=Quality.NONE)
    fill(old, clock, 2)
    old.send([make_envelope(clock.now(), f"later-{number}", delay=timedelta(hours=number + 1)) for number in range(20)])

    report = migrate().move()

    assert (report.read, report.moved, report.left, report.foreign) == (22, 2, 20, 0)
    (left,) = [group for group in report.groups if group.left]
    assert (left.state, left.moved, left.left) == (JobState.SCHEDULED, 0, 20)
    assert "delay" in left.why[0]
    assert len(left.why) <= 5
    assert report.remaining[JobState.SCHEDULED] == 20
    assert migrate().preview().left == 20


def test_a_queue_that_the_destination_does_not_know_keeps_its_jobs(
    old: StoreBackend, new: StoreBackend, clock: FakeClock, registry: JobRegistry
) -> None:
    manager = JobManager(
        {"old": old, "new": new}, registry=registry, clock=clock, default="old", queues={"new": ("mail",)}
    )
    fill(old, clock, 1)
    fill(old, clock, 0)
    report = manager.migration("old", "new").move()
    assert report.left == 1
    assert "mail" in report.groups[0].why[0]


def test_an_unknown_alias_is_told(old: StoreBackend, new: StoreBackend, registry: JobRegistry) -> None:
    manager = JobManager({"old": old, "new": new}, registry=registry, default="old")
    with pytest.raises(ConfigurationError, match=r"nwe.*Did you mean 'new'"):
        manager.migration("old", "nwe")


def test_a_taken_id_leaves_that_job_alone(
    old: StoreBackend, new: StoreBackend, clock: FakeClock, migrate: Callable[..., JobMigration]
) -> None:
    jobs = fill(old, clock, 5)
    new.send(jobs[2:3])

    report = migrate().move()

    assert (report.moved, report.left, report.is_balanced) == (4, 1, True)
    assert report.groups[0].why == ["Backend 'new' has a job of that id already."]


def test_what_was_accepted_before_a_failure_is_not_sent_again(
    old: StoreBackend,
    new: StoreBackend,
    clock: FakeClock,
    migrate: Callable[..., JobMigration],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    jobs = fill(old, clock, 5)
    send = new.send

    new.capabilities = replace(new.capabilities, moves_once=False)

    def half(envelopes: Sequence[JobEnvelope], once: str) -> None:
        send(envelopes[:2])
        ids = [each.id for each in envelopes]
        raise EnqueueError("away", accepted=ids[:2], in_doubt=ids[2:3], rejected=ids[3:])

    monkeypatch.setattr(new, "send", half)
    with pytest.raises(MigrationError, match="Interrupted, nothing is lost: away") as caught:
        migrate().move()
    report = caught.value.report
    assert (report.moved, report.in_doubt) == (2, [jobs[2].id])
    assert not report.is_balanced
    monkeypatch.setattr(new, "send", send)
    assert migrate(resume=report.run).move().moved == 3
