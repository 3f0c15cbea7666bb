"""The inspector of RQ: looking writes nothing, taking keeps places."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import fakeredis
import pytest
from envelopes import make_envelope
from msgspec.structs import replace

from anyjob import JobManager, JobPriority, JobRegistry
from anyjob.base.envelope import write_envelope
from anyjob.base.errors import InvalidOptionError, UnsupportedCapabilityError
from anyjob.seams.outcome import JobFailure
from anyjob.seams.stored import JobFilter, JobState
from anyjob.testing import FakeClock
from anyjob_rq import RQBackend, RQSimpleJobWorker

Send = Callable[..., str]


@pytest.fixture
def ran(registry: JobRegistry) -> list[Any]:
    ran: list[Any] = []
    registry.register_handler("note", ran.append)
    registry.register_handler("other.note", ran.append)
    return ran


@pytest.fixture
def send(manager: JobManager, ran: list[Any]) -> Send:
    def send(word: str, **options: Any) -> str:
        return manager.enqueue_by_name(options.pop("name", "note"), word, job_id=word, **options)

    return send


def ids(backend: RQBackend, **chosen: Any) -> list[str]:
    """Return the ids of all pages, one job a page."""
    found, cursor = [], None
    while True:
        page = backend.inspector.scan(JobFilter(**chosen), cursor=cursor, limit=1)
        found += [job.id for job in page.jobs]
        cursor = page.cursor
        if cursor is None:
            return found


def failure(clock: FakeClock) -> JobFailure:
    return JobFailure.of(ValueError("no"), at=clock.now(), worker="w", tries=1)


def take_as(worker: str, backend: RQBackend, fake: fakeredis.FakeRedis) -> None:
    fake.set(f"anyjob:alive:{worker}", 1)
    assert backend.messages.take(worker, [], 0) is not None


def everything(fake: fakeredis.FakeRedis) -> dict[bytes, bytes | None]:
    return {key: fake.dump(key) for key in fake.scan_iter()}


def test_all_states_are_listed_counted_and_nothing_is_written(
    backend: RQBackend, fake: fakeredis.FakeRedis, send: Send, clock: FakeClock
) -> None:
    send("running")
    take_as("w", backend, fake)
    for word in ("low", "high", "next"):
        send(word, priority=JobPriority.HIGH if word == "high" else JobPriority.LOW)
    send("mail", queue="mail")
    send("soon", delay=1)
    send("later", delay=100)
    backend.inspector.park(b"\xff no job", failure(clock))
    clock.travel(1)
    before = everything(fake)

    found = {job.id: job for job in backend.inspector.scan(JobFilter()).jobs}

    assert {job_id: job.state for job_id, job in found.items() if job_id in ("running", "low", "soon", "later")} == {
        "running": JobState.RUNNING,
        "low": JobState.WAITING,
        "soon": JobState.WAITING,  # due, and not yet promoted
        "later": JobState.SCHEDULED,
    }
    assert found["running"].worker == "w"
    assert [job.raw for job in found.values() if job.state is JobState.ABANDONED] == [b"\xff no job"]
    assert backend.inspector.count() == {
        JobState.WAITING: 5,
        JobState.SCHEDULED: 1,
        JobState.RUNNING: 1,
        JobState.ABANDONED: 1,
    }
    assert ids(backend, states={JobState.WAITING}) == ["soon", "high", "low", "next", "mail"]
    assert ids(backend, states={JobState.SCHEDULED}) == ["later"]
    assert ids(backend, states={JobState.RUNNING}) == ["running"]
    assert ids(backend, queues={"mail"}) == ["mail"]
    assert sorted(ids(backend)) == sorted(found)
    for job_id, job in found.items():
        assert backend.inspector.find(job_id) == job
    assert ids(backend, ids=frozenset(found)) == sorted(set(found) - _parked(found)) + sorted(_parked(found))
    assert backend.inspector.find("nobody") is None
    assert everything(fake) == before


def _parked(found: dict[str, Any]) -> set[str]:
    return {job_id for job_id, job in found.items() if job.state is JobState.ABANDONED}


def test_names_choose_by_pattern(backend: RQBackend, send: Send) -> None:
    send("a", name="note")
    send("b", name="other.note")
    assert ids(backend, name="other.*") == ["b"]


@pytest.mark.parametrize(("cursor", "limit"), [("nonsense", 1), ("[9]", 1), (None, 0)])
def test_a_scan_that_makes_no_sense_is_refused(backend: RQBackend, cursor: str | None, limit: int) -> None:
    with pytest.raises(InvalidOptionError, match="a cursor of a page"):
        backend.inspector.scan(JobFilter(), cursor=cursor, limit=limit)


def test_a_scan_goes_on_while_jobs_leave(backend: RQBackend, fake: fakeredis.FakeRedis, send: Send) -> None:
    for number in range(6):
        send(f"w{number}")
        send(f"s{number}", delay=10 + number)
    first = backend.inspector.scan(JobFilter(states=frozenset({JobState.WAITING})), limit=2)
    for number in range(3):
        take_as(f"worker{number}", backend, fake)
    rest = backend.inspector.scan(JobFilter(states=frozenset({JobState.WAITING})), cursor=first.cursor, limit=100)
    assert [job.id for job in (*first.jobs, *rest.jobs)] == ["w0", "w1", "w3", "w4", "w5"]

    chosen = JobFilter(states=frozenset({JobState.SCHEDULED}))
    first = backend.inspector.scan(chosen, limit=2)
    assert backend.inspector.cancel("s1")
    rest = backend.inspector.scan(chosen, cursor=first.cursor, limit=100)
    assert [job.id for job in (*first.jobs, *rest.jobs)] == ["s0", "s1", "s2", "s3", "s4", "s5"]


def test_cancelled_is_gone(backend: RQBackend, fake: fakeredis.FakeRedis, send: Send, drain: Any, ran: Any) -> None:
    send("a"), send("b"), send("c", delay=5)
    assert backend.inspector.cancel("a")
    assert backend.inspector.cancel("c")
    assert not backend.inspector.cancel("a")
    drain()
    assert ran == ["b"]
    assert not fake.keys("rq:job:*")
    assert not fake.keys("anyjob:held:*")
    send("a")  # its id is free


def test_what_runs_is_not_taken(backend: RQBackend, fake: fakeredis.FakeRedis, send: Send) -> None:
    send("a")
    take_as("w", backend, fake)
    assert not backend.inspector.cancel("a")
    with backend.inspector.hold_some(JobFilter(), limit=10) as taken:
        assert not taken
    with pytest.raises(UnsupportedCapabilityError):
        backend.capabilities.refuse_removal(JobState.RUNNING)


def test_what_is_not_settled_goes_back_to_its_very_place(
    backend: RQBackend, send: Send, drain: Any, ran: Any, clock: FakeClock
) -> None:
    for word in ("a", "b", "c", "d"):
        send(word)
    send("later", delay=5)
    before = backend.inspector.scan(JobFilter()).jobs
    with backend.inspector.hold_some(JobFilter(ids=frozenset({"b", "c", "later"})), limit=10) as taken:
        assert {each.job.id for each in taken} == {"b", "c", "later"}
        counted = backend.inspector.count()
        assert (counted[JobState.WAITING], counted[JobState.SCHEDULED]) == (4, 1)
        assert {job.id for job in backend.inspector.scan(JobFilter()).jobs if job.worker} == {"b", "c", "later"}
        with backend.inspector.hold_some(JobFilter(ids=frozenset({"b", "later"})), limit=10) as again:
            assert not again
    assert backend.inspector.scan(JobFilter()).jobs == before
    drain()
    clock.travel(5)
    drain()
    assert ran == ["a", "b", "c", "d", "later"]


def test_a_place_that_workers_have_passed_is_the_front(backend: RQBackend, send: Send, drain: Any, ran: Any) -> None:
    for word in ("a", "b", "c"):
        send(word)
    with backend.inspector.hold_some(JobFilter(ids=frozenset({"a", "b"})), limit=10):
        drain()
        assert ran == ["c"]
        assert backend.inspector.count()[JobState.WAITING] == 2
        send("d")
    drain()
    assert ran == ["c", "a", "b", "d"]


def test_the_jobs_of_a_dead_taker_go_back_uncharged(
    backend: RQBackend, fake: fakeredis.FakeRedis, send: Send, drain: Any, ran: Any
) -> None:
    send("a"), send("b"), send("c", delay=60)
    with backend.inspector.hold_some(JobFilter(), limit=10) as taken:
        fake.delete(*fake.keys("anyjob:alive:inspector-*"))  # five minutes have passed
        backend.messages.sweep()
        assert not any(each.acknowledge() for each in taken)
        assert not taken[0].replace(_envelope(taken[0]))
    drain()
    assert ran == ["a", "b"]
    found = backend.inspector.find("c")
    assert found is not None
    assert found.envelope is not None
    assert (found.state, found.envelope.lost_count) == (JobState.SCHEDULED, 0)


def _envelope(taken: Any) -> Any:
    assert taken.job.envelope is not None
    return taken.job.envelope


def test_run_now_makes_it_due(backend: RQBackend, send: Send, drain: Any, ran: Any) -> None:
    send("a", delay=60)
    assert backend.inspector.run_now("a")
    assert not backend.inspector.run_now("a")
    drain()
    assert ran == ["a"]


def test_replaced_takes_its_place_anew(
    backend: RQBackend, fake: fakeredis.FakeRedis, send: Send, clock: FakeClock
) -> None:
    send("a"), send("b")
    with backend.inspector.hold_some(JobFilter(ids=frozenset({"a"})), limit=1) as (taken,):
        assert taken.replace(replace(_envelope(taken), due_at=clock.now() + timedelta(seconds=9)))
        assert not taken.acknowledge()
    assert ids(backend, states={JobState.SCHEDULED}) == ["a"]
    assert ids(backend, states={JobState.WAITING}) == ["b"]
    assert fake.lrange("rq:queue:anyjob:default:normal", 0, -1) == [b"anyjob-J-b"]


def test_parked_jobs_are_retried_and_discarded(
    backend: RQBackend, send: Send, drain: Any, ran: Any, clock: FakeClock
) -> None:
    for envelope in (make_envelope(clock.now(), word) for word in ("a", "b")):
        assert backend.inspector.park(write_envelope(envelope), failure(clock)) == envelope.id
    with pytest.raises(Exception, match="Already enqueued, or parked"):
        send("a")
    with backend.inspector.hold_some(JobFilter(states=frozenset({JobState.ABANDONED})), limit=10) as taken:
        assert len(taken) == 2
        assert not backend.inspector.retry("a")
    assert backend.inspector.retry("a")
    assert backend.inspector.discard("b")
    assert not backend.inspector.discard("b")
    drain()
    assert ran == ["a"]
    assert sum(backend.inspector.count().values()) == 0


def test_a_foreign_job_is_shown_and_left_where_it_is(backend: RQBackend, fake: fakeredis.FakeRedis, send: Send) -> None:
    from rq import Queue

    send("a")
    foreign = Queue("anyjob:default:normal", connection=fake).enqueue("os.getpid")

    assert ids(backend) == ["a", foreign.id]
    with backend.inspector.hold_some(JobFilter(), limit=10) as taken:
        assert [each.job.id for each in taken] == ["a"]
        assert all(each.acknowledge() for each in taken)
    assert ids(backend) == [foreign.id]


def test_pages_of_many_later_jobs_show_each_once(backend: RQBackend, clock: FakeClock) -> None:
    several = [make_envelope(clock.now(), f"n{n:04}", delay=timedelta(seconds=n // 7 + 1)) for n in range(1300)]
    backend.send(several)
    found, cursor = [], None
    while True:
        page = backend.inspector.scan(JobFilter(), cursor=cursor, limit=400)
        found += [job.id for job in page.jobs]
        cursor = page.cursor
        if cursor is None:
            break
    assert found == [envelope.id for envelope in several]


def test_a_worker_runs_none_that_is_taken(
    backend: RQBackend, send: Send, make_worker: Callable[..., RQSimpleJobWorker], ran: Any
) -> None:
    send("a"), send("b")
    with backend.inspector.hold_some(JobFilter(ids=frozenset({"a"})), limit=1) as (taken,):
        make_worker().work(burst=True)
        assert ran == ["b"]
        assert taken.acknowledge()
    make_worker().work(burst=True)
    assert ran == ["b"]
    assert backend.inspector.count()[JobState.WAITING] == 0
