from __future__ import annotations

import asyncio
import dataclasses
import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from enum import IntEnum
from functools import partial
from typing import Any

import pytest
from envelopes import make_envelope
from msgspec.structs import replace

from anyjob import (
    BackgroundJob,
    ConfigurationError,
    DuplicateJobIdError,
    EnqueueError,
    InvalidArgsError,
    InvalidOptionError,
    JobDefinitionError,
    JobEnvelope,
    JobManager,
    JobObserver,
    JobPriority,
    JobRegistry,
    JobRoute,
    UnknownJobError,
    UnsupportedCapabilityError,
    WorkerOptions,
    background_job,
    job_name,
)
from anyjob.define.options import due_at, plain_options
from anyjob.extend import JobBackend, StoreBackend
from anyjob.seams.backend import NativeCommand, send_one_by_one
from anyjob.seams.capabilities import Capabilities, Quality
from anyjob.seams.outcome import Abandoned, Completed, Deferred, JobFailure, Retry
from anyjob.testing import FakeClock


@job_name("mail.send")
@dataclass
class Email:
    to: str
    number: int = 0


@dataclass
class LongEmail(Email):
    body: str = ""


class SendEmail(BackgroundJob[Email], registry=None):
    queue = "mail"
    priority = JobPriority.ABOVE_NORMAL

    def execute(self, args: Email) -> None: ...


@pytest.fixture(autouse=True)
def _jobs(registry: JobRegistry) -> None:
    from anyjob import JobConfiguration

    registry.register(JobConfiguration.of_class(SendEmail, Email))

    @background_job("report.build", registry=registry)
    def build(number: int) -> None: ...


class Recorder(JobBackend):
    """Takes everything, or raises what the test says."""

    def __init__(self, **can: Any) -> None:
        everything = {"priority": Quality.EXACT, "delay": Quality.EXACT}
        self.capabilities = Capabilities(**{**everything, **can})
        self.sent: list[JobEnvelope] = []
        self.calls = 0
        self.error: EnqueueError | None = None
        self.threads: set[str] = set()
        self.closed = False

    def send(self, envelopes: Sequence[JobEnvelope], *, once: str | None = None) -> None:
        self.calls += 1
        self.threads.add(threading.current_thread().name)
        if self.error:
            raise self.error
        self.sent.extend(envelopes)

    def park(self, raw: bytes, failure: JobFailure) -> str:
        raise NotImplementedError

    def native_worker(self, options: WorkerOptions) -> NativeCommand:
        return NativeCommand(("native", "worker"), {"URL": "redis://:secret@host"})

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def recording(make_manager: Callable[..., JobManager], recorder: Recorder) -> JobManager:
    return make_manager(backends=recorder)


# What is sent


def test_the_envelope_has_the_jobs_defaults(recording: JobManager, recorder: Recorder, clock: FakeClock) -> None:
    job_id = recording.enqueue(Email("a@b.c"))
    (sent,) = recorder.sent
    assert sent == JobEnvelope(
        v=1,
        id=job_id,
        name="mail.send",
        args=sent.args,
        queue="mail",
        priority=JobPriority.ABOVE_NORMAL,
        created_at=clock.now(),
        first_due_at=clock.now(),
    )
    assert bytes(sent.args) == b'{"to":"a@b.c","number":0}'


def test_options_win(recording: JobManager, recorder: Recorder, clock: FakeClock) -> None:
    headers = {"tenant": "a"}
    returned = recording.enqueue(
        Email("a"), priority=JobPriority.LOW, delay=60, queue="slow", job_id="my-id_1", headers=headers
    )
    (sent,) = recorder.sent
    due = clock.now() + timedelta(seconds=60)
    assert (returned, sent.id, sent.priority, sent.queue) == ("my-id_1", "my-id_1", JobPriority.LOW, "slow")
    assert (sent.due_at, sent.first_due_at, sent.created_at) == (due, due, clock.now())
    headers["tenant"] = "b"
    assert sent.headers == {"tenant": "a"}


@pytest.mark.parametrize(
    ("options", "after"),
    [
        ({"delay": 1.5}, 1.5),
        ({"delay": timedelta(days=400)}, 400 * 86_400),
        ({"delay": 0}, None),
        ({"run_at": datetime(2026, 1, 1, 13, tzinfo=UTC)}, 3600),
        ({"run_at": datetime(2026, 1, 1, 13, tzinfo=timezone(timedelta(hours=-5)))}, 6 * 3600),
        ({"run_at": datetime(2020, 1, 1, tzinfo=UTC)}, None),
    ],
)
def test_delay_and_run_at(
    recording: JobManager, recorder: Recorder, clock: FakeClock, options: Any, after: float | None
) -> None:
    recording.enqueue(Email("a"), **options)
    due = recorder.sent[0].due_at
    assert due == (None if after is None else clock.now() + timedelta(seconds=after))
    assert due is None or due.tzinfo is UTC


class Level(IntEnum):
    HIGH = 25


class NotATime(datetime):
    """As pandas' NaT."""

    year: Any = float("nan")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"priority": 25}, r"priority = 25: .*JobPriority"),
        ({"priority": -1}, r"priority = -1"),
        ({"delay": -1}, r"delay = -1"),
        ({"delay": timedelta(seconds=-1)}, r"delay = .*between 0 seconds"),
        ({"delay": float("nan")}, r"delay = nan"),
        ({"delay": float("inf")}, r"delay = inf"),
        ({"delay": 1e300}, r"delay = 1e\+300"),
        ({"delay": True}, r"delay = True"),
        ({"delay": "5"}, r"delay = '5'"),
        ({"delay": 10**400}, r"delay = 10{199}\.\.\.: .*between 0 seconds and 1000 years"),
        ({"delay": -(10**5000)}, r"delay = <int>: .*between 0 seconds"),  # it has no repr
        ({"delay": 1j}, r"delay = 1j"),
        ({"run_at": NotATime(2027, 1, 1, tzinfo=UTC)}, r"that is no time"),
        ({"priority": Level.HIGH}, r"priority = <Level.HIGH: 25>: .*JobPriority"),
        ({"run_at": datetime(2027, 1, 1)}, r"run_at = .*no time zone.*datetime\.now\(UTC\)"),  # noqa: DTZ001
        ({"run_at": 5}, r"run_at = 5"),
        ({"delay": 5, "run_at": datetime(2027, 1, 1, tzinfo=UTC)}, r"delay and run_at"),
        ({"queue": "Mail"}, r"queue = 'Mail'"),
        ({"queue": "a" * 64}, r"63 characters"),
        ({"job_id": "a b"}, r"job_id = 'a b'"),
        ({"job_id": ""}, r"job_id = ''"),
        ({"job_id": "x" * 65}, r"1 to 64"),
        ({"headers": {"a": 1}}, r"headers map strings to strings"),
        ({"headers": {"a": "\ud800"}}, r"headers map strings to strings"),
        ({"headers": {"anyjob-deferrals": "1"}}, r"'anyjob-deferrals'.*anyjob's own"),
        ({"headers": {"a": "x" * 8192}}, r"8,193 bytes; the limit is 8,192"),
        ({"run_at": datetime.max.replace(tzinfo=timezone(timedelta(hours=-5)))}, r"year 4000 at the latest"),
        ({"dely": 5}, r"'dely'. Did you mean 'delay'\?"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    recording: JobManager, recorder: Recorder, options: Any, message: str
) -> None:
    for call in (
        lambda: recording.enqueue(Email("a"), **options),
        lambda: recording.enqueue_by_name("mail.send", {"to": "a"}, **options),
        lambda: recording.prepare(Email("a"), **options),
        lambda: asyncio.run(recording.aenqueue(Email("a"), **options)),
    ):
        with pytest.raises(InvalidOptionError, match=message):
            call()
    assert recorder.calls == 0


def test_wrong_arguments_are_refused_where_the_call_is_made(recording: JobManager, recorder: Recorder) -> None:
    with pytest.raises(InvalidArgsError, match=r"`int`, got `str` - at `\$\.number`"):
        recording.enqueue(Email("a", "seven"))  # type: ignore[arg-type]
    with pytest.raises(UnknownJobError, match=r"No job takes .*LongEmail.*Did you mean 'Email'"):
        recording.enqueue(LongEmail("a"))
    with pytest.raises(InvalidArgsError, match="takes Email, not LongEmail. A subclass"):
        recording.prepare_for(SendEmail, LongEmail("a"))
    with pytest.raises(UnknownJobError, match="use enqueue_by_name"):
        recording.enqueue("mail.send")
    with pytest.raises(UnknownJobError, match="Did you mean 'mail.send'"):
        recording.enqueue_by_name("mail.sent", {})
    with pytest.raises(InvalidArgsError, match=r"unknown field 'too' at `\$`. Did you mean 'to'"):
        recording.enqueue_by_name("mail.send", {"too": "a"} | {"to": "a"})
    with pytest.raises(UnknownJobError, match="not in this registry"):
        recording.prepare_for(Recorder, Email("a"))  # type: ignore[arg-type]
    with pytest.raises(UnknownJobError, match="abstract, and so no job: it doesn't define execute"):
        recording.prepare_for(BackgroundJob, Email("a"))  # type: ignore[type-abstract]
    with pytest.raises(UnknownJobError, match="the class Email: pass an object of it"):
        recording.enqueue(Email)
    assert recorder.calls == 0


# Many


def test_many_go_in_one_call_in_order(recording: JobManager, recorder: Recorder) -> None:
    prepared = recording.prepare(Email("x"), priority=JobPriority.HIGH, job_id="mine")
    ids = recording.enqueue_many([Email("a"), prepared, Email("b")], priority=JobPriority.LOW)
    assert recorder.calls == 1
    assert [each.id for each in recorder.sent] == ids
    assert [each.priority.name for each in recorder.sent] == ["LOW", "HIGH", "LOW"]
    assert ids[1] == "mine"
    assert recording.enqueue_many([]) == []
    assert asyncio.run(recording.aenqueue_many([])) == []


def test_many_are_all_checked_before_any_is_sent(recording: JobManager, recorder: Recorder) -> None:
    with pytest.raises(InvalidArgsError):
        recording.enqueue_many([Email("a"), Email(5)])  # type: ignore[arg-type]
    with pytest.raises(InvalidOptionError, match="can't share an id"):
        recording.enqueue_many([Email("a"), Email("b")], job_id="one")
    assert recorder.calls == 0


def test_in_memory_many_are_all_or_none(manager: JobManager) -> None:
    manager.enqueue(Email("a"), job_id="taken")
    with pytest.raises(DuplicateJobIdError) as refused:
        manager.enqueue_many([Email("b"), manager.prepare(Email("c"), job_id="taken")])
    assert len(refused.value.rejected) == 2
    assert refused.value.__cause__ is None
    assert manager.drain() == 1


def test_a_failure_halfway_tells_what_became_of_each_job(
    make_manager: Callable[..., JobManager],
) -> None:
    backends = {name: Recorder() for name in ("a", "b", "c")}
    routes = [JobRoute(queue=name, backend=name) for name in backends]
    manager = make_manager(backends=backends, default="a", routes=routes)
    jobs = [manager.prepare(Email("x"), queue=queue, job_id=f"{queue}{n}") for n in range(2) for queue in "abc"]
    backends["b"].error = EnqueueError("gone", rejected=["b0"], in_doubt=["b1"])
    with pytest.raises(EnqueueError, match="Backend 'b': gone") as failed:
        manager.enqueue_many(jobs)
    assert failed.value.accepted == ("a0", "a1")
    assert failed.value.rejected == ("b0", "c0", "c1")
    assert failed.value.in_doubt == ("b1",)
    assert failed.value.__cause__ is backends["b"].error
    assert backends["c"].calls == 0


# Async


def test_the_async_calls_do_as_the_sync_ones(manager: JobManager, clock: FakeClock) -> None:
    async def main() -> list[str]:
        first = await manager.aenqueue(Email("a"), priority=JobPriority.HIGH)
        second = await manager.aenqueue_by_name("mail.send", {"to": "b"})
        return [first, second, *await manager.aenqueue_many([Email("c"), Email("d")])]

    ids = asyncio.run(main())
    assert [manager.inspect().find(job_id) is not None for job_id in ids] == [True] * 4
    assert manager.drain() == 4


class Blocking(Recorder):
    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()

    def send(self, envelopes: Sequence[JobEnvelope], *, once: str | None = None) -> None:
        assert self.gate.wait(10)
        super().send(envelopes)


def test_an_async_enqueue_never_blocks_the_loop_and_uses_one_thread(make_manager: Callable[..., JobManager]) -> None:
    backend = Blocking()
    manager = make_manager(backends=backend)

    async def main() -> None:
        tasks = [asyncio.create_task(manager.aenqueue(Email(str(number)))) for number in range(5)]
        for _ in range(100):
            await asyncio.sleep(0)  # the loop turns while the backend hangs
        assert not any(task.done() for task in tasks)
        backend.gate.set()
        await asyncio.gather(*tasks)

    asyncio.run(main())
    assert len(backend.sent) == 5
    assert len(backend.threads) == 1
    assert threading.current_thread().name not in backend.threads


class Held(Recorder):
    """Holds every send up until it may go on."""

    def __init__(self) -> None:
        super().__init__()
        self.entered, self.go_on = threading.Semaphore(0), threading.Semaphore(0)

    def send(self, envelopes: Sequence[JobEnvelope], *, once: str | None = None) -> None:
        self.entered.release()
        assert self.go_on.acquire(timeout=10)
        super().send(envelopes)


def test_one_deadline_holds_for_all_who_enqueue_at_once(make_manager: Callable[..., JobManager]) -> None:
    backend = Held()
    manager = make_manager(backends=backend, enqueue_timeout=0.3)

    async def main() -> list[Any]:
        calls = [manager.aenqueue(Email(str(number)), job_id=f"n{number}") for number in range(8)]
        return await asyncio.gather(*calls, return_exceptions=True)

    begun = time.monotonic()
    first, *others = asyncio.run(main())
    assert time.monotonic() - begun < 3
    assert isinstance(first, EnqueueError)
    assert (first.rejected, first.in_doubt) == ((), ("n0",))
    for number, other in enumerate(others, start=1):
        assert isinstance(other, EnqueueError)
        assert (other.rejected, other.in_doubt) == ((f"n{number}",), ())
    for _ in range(2):
        backend.go_on.release()
    assert asyncio.run(manager.aenqueue(Email("later"), job_id="later")) == "later"
    assert [envelope.id for envelope in backend.sent] == ["n0", "later"]  # what was rejected is never sent


def test_a_cancelled_async_enqueue_that_was_not_begun_is_not_sent(make_manager: Callable[..., JobManager]) -> None:
    backend = Held()
    manager = make_manager(backends=backend)

    async def main() -> None:
        first = asyncio.create_task(manager.aenqueue(Email("a"), job_id="first"))
        second = asyncio.create_task(manager.aenqueue(Email("b"), job_id="second"))
        await asyncio.to_thread(backend.entered.acquire)
        second.cancel()
        await asyncio.wait([second])
        backend.go_on.release()
        assert await first == "first"

    asyncio.run(main())
    assert [envelope.id for envelope in backend.sent] == ["first"]


# Capabilities, routes, queues


@pytest.mark.parametrize(
    ("can", "options", "message"),
    [
        ({"priority": Quality.NONE}, {"priority": JobPriority.HIGH}, r"'default'.*'report.build'.*priority HIGH"),
        ({"delay": Quality.NONE}, {"delay": 5}, "has no delay"),
        ({"max_delay": timedelta(minutes=15)}, {"delay": 901}, r"delay of 0:15:01: its longest is 0:15:00"),
    ],
)
def test_what_a_backend_can_not_do_is_refused_before_anything_is_sent(
    make_manager: Callable[..., JobManager], can: Any, options: Any, message: str
) -> None:
    backend = Recorder(**can)
    manager = make_manager(backends=backend)
    with pytest.raises(UnsupportedCapabilityError, match=message):
        manager.enqueue_by_name("report.build", {"number": 1}, **options)
    with pytest.raises(UnsupportedCapabilityError, match=message):
        manager.enqueue_many([manager.prepare_by_name("report.build", {"number": 1}, **options)])
    assert backend.calls == 0


def test_without_delay_there_are_no_retries_either(make_manager: Callable[..., JobManager]) -> None:
    backend = Recorder(delay=Quality.NONE)
    with pytest.raises(UnsupportedCapabilityError, match=r"retries of 'mail.send' need one.*retry=None"):
        make_manager(backends=backend).enqueue(Email("a"))
    make_manager(backends=backend, retry=None).enqueue(Email("a"))
    assert backend.calls == 1


def test_the_longest_delay_itself_is_fine(make_manager: Callable[..., JobManager]) -> None:
    backend = Recorder(max_delay=timedelta(minutes=15))
    make_manager(backends=backend).enqueue(Email("a"), delay=900)
    assert backend.calls == 1


def test_a_name_in_main_is_refused_for_other_processes(
    make_manager: Callable[..., JobManager], registry: JobRegistry
) -> None:
    registry.register_handler("__main__.Email", lambda payload: None)
    with pytest.raises(JobDefinitionError, match="@job_name"):
        make_manager(backends=Recorder()).enqueue_by_name("__main__.Email", {})
    make_manager(backends=Recorder(in_process=True)).enqueue_by_name("__main__.Email", {})


def test_the_first_route_that_fits_takes_the_job(make_manager: Callable[..., JobManager]) -> None:
    backends = {name: Recorder() for name in ("main", "reports", "mail")}
    routes = [JobRoute(job="report.*", backend="reports"), JobRoute(queue="mail", backend="mail")]
    manager = make_manager(backends=backends, default="main", routes=routes)
    manager.enqueue(Email("a"))
    manager.enqueue_by_name("report.build", {"number": 1}, queue="mail")
    manager.enqueue(Email("a"), queue="other")
    assert {name: [each.name for each in backend.sent] for name, backend in backends.items()} == {
        "main": ["mail.send"],
        "reports": ["report.build"],
        "mail": ["mail.send"],
    }


def test_a_closed_list_of_queues_is_kept(make_manager: Callable[..., JobManager], recorder: Recorder) -> None:
    manager = make_manager(backends={"main": recorder}, queues={"main": ["default", "mail"]})
    manager.enqueue(Email("a"))
    with pytest.raises(InvalidOptionError, match=r"'main' has no queue 'mial'. Did you mean 'mail'\?"):
        manager.enqueue(Email("a"), queue="mial")
    with pytest.raises(InvalidOptionError, match=r"'main' has no queue 'mial'. Did you mean 'mail'\?"):
        manager.any_worker("main", WorkerOptions(queues=("mial",)))


@pytest.mark.parametrize(
    "wrong",
    [{"default": "mian"}, {"worker_backend": "mian"}, {"routes": [JobRoute(job="*", backend="mian")]}],
)
def test_unknown_aliases_are_refused(make_manager: Callable[..., JobManager], recorder: Recorder, wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"No backend is called 'mian'. Did you mean 'main'\?"):
        make_manager(backends={"main": recorder}, **wrong)


# Dynamic jobs


def test_dynamic_jobs_run_with_their_payload_as_it_is(manager: JobManager, registry: JobRegistry) -> None:
    seen: list[Any] = []
    with pytest.raises(UnknownJobError):
        manager.enqueue_by_name("plugin.do", {})
    registry.register_handler("plugin.do", seen.append)

    async def handler(payload: Any) -> None:
        seen.append(("async", payload))

    registry.register_handler("plugin.async", handler)
    manager.enqueue_by_name("plugin.do", {"a": [1, None, "ä"]})
    manager.enqueue_by_name("plugin.async", [1, 2])
    assert manager.drain() == 2
    assert seen == [{"a": [1, None, "ä"]}, ("async", [1, 2])]
    assert registry.unregister_handler("plugin.do")
    assert not registry.unregister_handler("plugin.do")
    with pytest.raises(UnknownJobError):
        manager.enqueue_by_name("plugin.do", {})


def test_a_typed_job_wins_over_a_dynamic_one(manager: JobManager, registry: JobRegistry) -> None:
    registry.register_handler("mail.send", lambda payload: pytest.fail("the typed job should run"))
    with pytest.raises(InvalidArgsError):
        manager.enqueue_by_name("mail.send", {"number": 1})
    manager.enqueue_by_name("mail.send", {"to": "a"})
    assert manager.drain() == 1


# Around


class Hearer(JobObserver):
    def __init__(self) -> None:
        self.heard: list[str] = []

    def enqueued(self, envelope: JobEnvelope) -> None:
        self.heard.append(envelope.id)
        raise RuntimeError("observer")


def test_observers_hear_of_accepted_jobs_only(make_manager: Callable[..., JobManager], recorder: Recorder) -> None:
    hearer = Hearer()
    manager = make_manager(backends=recorder, observers=[hearer])
    ids = [manager.enqueue(Email("a")), *manager.enqueue_many([Email("b"), Email("c")])]
    recorder.error = EnqueueError("gone")
    with pytest.raises(EnqueueError):
        manager.enqueue(Email("d"))
    assert hearer.heard == ids


def test_an_enqueue_is_logged_without_its_arguments(recording: JobManager, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "anyjob")
    job_id = recording.enqueue(Email("secret@b.c"), delay=60)
    (record,) = caplog.records
    assert record.getMessage() == (
        f"enqueued job=mail.send id={job_id} backend=default queue=mail priority=above_normal "
        "run_at=2026-01-01T12:01:00+00:00"
    )
    assert record.name == "anyjob.enqueue"
    assert vars(record)["job_id"] == job_id


def test_enqueue_only_starts_no_worker(
    make_manager: Callable[..., JobManager], caplog: pytest.LogCaptureFixture
) -> None:
    manager = make_manager(enqueue_only=True)
    manager.enqueue(Email("a"))
    with manager.start_worker() as worker:
        assert not worker.running
    assert "no worker was started" in caplog.text
    assert manager.inspect().count()


def test_a_worker_starts_only_if_all_jobs_can_travel(manager: JobManager, registry: JobRegistry) -> None:
    @background_job("broken", registry=registry)
    def broken(value: Nowhere) -> None:  # type: ignore[name-defined]  # noqa: F821  # that is the point
        ...

    with pytest.raises(JobDefinitionError, match="Nowhere"):
        manager.start_worker()


def test_a_native_backend_says_how_its_worker_is_run(recording: JobManager, recorder: Recorder) -> None:
    with pytest.raises(ConfigurationError, match="anyjob worker --backend default"):
        recording.start_worker()
    with pytest.raises(UnsupportedCapabilityError, match="can't be looked into"):
        recording.inspect()
    recording.close()
    assert recorder.closed
    assert "secret" not in repr(recorder.native_worker(WorkerOptions()))


def test_imports_are_done_when_a_name_is_unknown(
    make_manager: Callable[..., JobManager], tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "late_jobs.py").write_text("import late_jobs_registry\nlate_jobs_registry.add()\n")
    (tmp_path / "late_jobs_registry.py").write_text("add = None\n")
    monkeypatch.syspath_prepend(tmp_path)
    import late_jobs_registry  # type: ignore[import-not-found]

    manager = make_manager(imports=["late_jobs"])
    late_jobs_registry.add = lambda: manager.registry.register_handler("late", lambda payload: None)
    manager.enqueue_by_name("late", {})
    with pytest.raises(ConfigurationError, match="no module 'nowhere.at_all'"):
        make_manager(imports=["nowhere.at_all"]).worker()


# Settling, for adapters


def test_settle_does_what_the_outcome_asks_for(recorder: Recorder, recording: JobManager, clock: FakeClock) -> None:
    envelope = recording.prepare(Email("a"))
    recorder.settle(Completed())
    assert recorder.calls == 0
    recorder.settle(Retry(envelope))
    recorder.settle(Deferred(envelope))
    assert recorder.sent == [envelope, envelope]
    parked = Abandoned(b"junk", JobFailure.of(ValueError("no"), at=clock.now(), worker="w", tries=1), None)
    with pytest.raises(EnqueueError, match="could not be parked: NotImplementedError"):
        recorder.settle(parked)


def test_settle_parks_what_is_given_up(manager: JobManager, clock: FakeClock) -> None:
    failure = JobFailure.of(ValueError("no"), at=clock.now(), worker="w", tries=1)
    manager.backend().settle(Abandoned(b"junk", failure, None))
    (job,) = manager.inspect().scan(_all()).jobs
    assert (job.raw, job.failure) == (b"junk", failure)


def _all() -> Any:
    from anyjob import JobFilter

    return JobFilter()


# The inspector


def test_cancel_touches_only_what_waits(manager: JobManager, clock: FakeClock) -> None:
    waiting, later = manager.enqueue(Email("a")), manager.enqueue(Email("b"), delay=60)
    assert manager.inspect().cancel(waiting)
    assert manager.inspect().cancel(later)
    assert not manager.inspect().cancel(later)
    assert not manager.inspect().cancel("nobody")
    clock.travel(60)
    assert manager.drain() == 0


def test_run_now(manager: JobManager, clock: FakeClock) -> None:
    later = manager.enqueue(Email("b"), delay=3600)
    assert manager.inspect().run_now(later)
    found = manager.inspect().find(later)
    assert found is not None
    assert found.envelope is not None
    assert (found.envelope.due_at, found.envelope.first_due_at) == (None, clock.now())
    assert not manager.inspect().run_now(later)
    assert manager.drain() == 1


def test_discard_and_retry_touch_only_what_is_parked(manager: JobManager, clock: FakeClock) -> None:
    waiting = manager.enqueue(Email("a"))
    failure = JobFailure.of(ValueError("not an envelope"), at=clock.now(), worker="w", tries=0)
    junk = manager.backend().park(b"junk", failure)
    assert not manager.inspect().discard(waiting)
    assert not manager.inspect().retry(waiting)
    with pytest.raises(UnknownJobError, match=f"{junk} can't be read as a job: not an envelope"):
        manager.inspect().retry(junk)
    assert manager.inspect().find(junk) is not None  # refused, and still there
    assert manager.inspect().discard(junk)
    assert manager.inspect().find(junk) is None


def test_a_backend_is_made_when_it_is_first_used_and_only_then(make_manager: Callable[..., JobManager]) -> None:
    made: list[str] = []

    def make(alias: str) -> Recorder:
        made.append(alias)
        return Recorder()

    aliases = {alias: partial(make, alias) for alias in ("used", "unused")}
    manager = make_manager(backends=aliases, default="used")
    assert made == []
    for _ in range(2):
        manager.enqueue(Email("a"))
    manager.close()
    assert made == ["used"]
    assert manager.backend().closed  # type: ignore[attr-defined]


def test_options_that_are_none_are_unsaid(recording: JobManager, recorder: Recorder) -> None:
    recording.enqueue(Email("a"), priority=None, delay=None, run_at=None, queue=None, job_id=None, headers=None)
    (sent,) = recorder.sent
    assert (sent.queue, sent.priority, sent.due_at) == ("mail", JobPriority.ABOVE_NORMAL, None)


def test_hand_made_envelopes_are_checked(recording: JobManager, recorder: Recorder) -> None:
    good = recording.prepare(Email("a"))
    for wrong in (replace(good, queue="Bad Queue"), replace(good, id=""), replace(good, try_count=-1)):
        with pytest.raises(InvalidOptionError, match="no envelope of prepare"):
            recording.enqueue_many([wrong])
    assert recorder.calls == 0


def test_enqueue_only_runs_nothing_at_all(make_manager: Callable[..., JobManager]) -> None:
    with pytest.raises(ConfigurationError, match="enqueue_only"):
        make_manager(enqueue_only=True).drain()


def test_async_bulk_uses_each_backends_own_thread(make_manager: Callable[..., JobManager]) -> None:
    backends = {name: Recorder() for name in ("a", "b")}
    routes = [JobRoute(queue=name, backend=name) for name in backends]
    manager = make_manager(backends=backends, default="a", routes=routes)
    jobs = [manager.prepare(Email("x"), queue=queue, job_id=f"{queue}{n}") for n in range(2) for queue in "ab"]
    assert asyncio.run(manager.aenqueue_many(jobs)) == ["a0", "b0", "a1", "b1"]
    assert backends["a"].threads.isdisjoint(backends["b"].threads)
    backends["b"].error = EnqueueError("gone", rejected=["b0", "b1"])
    with pytest.raises(EnqueueError) as failed:
        asyncio.run(manager.aenqueue_many(jobs))
    assert (failed.value.accepted, failed.value.rejected) == (("a0", "a1"), ("b0", "b1"))


TENANT: ContextVar[str] = ContextVar("TENANT")


def test_observers_of_an_async_enqueue_see_the_callers_context(make_manager: Callable[..., JobManager]) -> None:
    seen: list[str] = []

    class Look(JobObserver):
        def enqueued(self, envelope: JobEnvelope) -> None:
            seen.append(TENANT.get())

    async def main() -> None:
        TENANT.set("a")
        await make_manager(observers=[Look()]).aenqueue(Email("x"))

    asyncio.run(main())
    assert seen == ["a"]


def test_what_is_sent_one_by_one_tells_which_got_through(clock: FakeClock) -> None:
    jobs = [make_envelope(clock.now(), job_id) for job_id in ("a", "b", "c", "d")]
    sent: list[str] = []

    def send(envelope: JobEnvelope) -> None:
        if envelope.id == "c":
            raise ConnectionResetError
        sent.append(envelope.id)

    with pytest.raises(EnqueueError, match="Somebody could not send: ConnectionResetError") as caught:
        send_one_by_one(jobs, send, (OSError,), "Somebody")
    told = caught.value
    assert (told.accepted, told.in_doubt, told.rejected) == (("a", "b"), ("c",), ("d",))
    assert sent == ["a", "b"]


def test_what_surely_was_not_sent_is_rejected(clock: FakeClock) -> None:
    jobs = [make_envelope(clock.now(), job_id) for job_id in ("a", "b", "c")]

    def send(envelope: JobEnvelope) -> None:
        if envelope.id == "b":
            raise ConnectionRefusedError

    with pytest.raises(EnqueueError) as caught:
        send_one_by_one(jobs, send, (OSError,), "Somebody", unsent=(ConnectionRefusedError,))
    told = caught.value
    assert (told.accepted, told.in_doubt, told.rejected) == (("a",), (), ("b", "c"))


class DatetimeOfAnother(datetime):
    """As pendulum's and freezegun's: no encoder knows it."""


@pytest.mark.parametrize(
    ("run_at", "expected"),
    [
        (DatetimeOfAnother(2027, 1, 1, 1, tzinfo=timezone(timedelta(hours=1))), datetime(2027, 1, 1, tzinfo=UTC)),
        (datetime.min.replace(tzinfo=timezone(timedelta(hours=14))), None),  # no such time in UTC, and long past
    ],
)
def test_a_time_of_any_type_becomes_a_plain_one_in_utc(run_at: datetime, expected: datetime | None) -> None:
    due = due_at(plain_options({"run_at": run_at}), datetime(2026, 1, 1, tzinfo=UTC))
    assert due == expected
    assert type(due) in (datetime, type(None))


# Demands


def test_an_id_that_must_be_the_only_one(manager: JobManager, backend: StoreBackend) -> None:
    assert manager.enqueue(Email("a"), job_id="order-7", unique_id=True) == "order-7"
    for call in (
        lambda: manager.enqueue(Email("a"), job_id="order-7", unique_id=True),
        lambda: manager.enqueue_many([manager.prepare(Email("a"), job_id="order-7")], unique_id=True),
        lambda: asyncio.run(manager.aenqueue(Email("a"), job_id="order-7", unique_id=True)),
    ):
        with pytest.raises(DuplicateJobIdError, match="order-7"):
            call()
    backend.capabilities = dataclasses.replace(backend.capabilities, unique_ids=False)
    for call in (
        lambda: manager.enqueue(Email("a"), job_id="order-8", unique_id=True),
        lambda: manager.enqueue_many([manager.prepare(Email("a"), job_id="order-8")], unique_id=True),
        lambda: asyncio.run(manager.aenqueue(Email("a"), job_id="order-8", unique_id=True)),
    ):
        with pytest.raises(UnsupportedCapabilityError, match="Backend 'default' can't keep unique_id"):
            call()
    assert manager.enqueue(Email("a"), job_id="order-8", unique_id=False) == "order-8"
    assert manager.drain() == 2


def test_a_demand_of_the_only_id_names_one(recording: JobManager, recorder: Recorder) -> None:
    for call in (
        lambda: recording.enqueue(Email("a"), unique_id=True),
        lambda: recording.enqueue_many([Email("a")], unique_id=True),
    ):
        with pytest.raises(InvalidOptionError, match="unique is the id, so give one: job_id='order-7'"):
            call()
    with pytest.raises(InvalidOptionError, match="unique_id is for sending"):
        recording.prepare(Email("a"), job_id="order-7", unique_id=True)  # type: ignore[call-arg]
    with pytest.raises(InvalidOptionError, match="unique_id = 1: it is True or False"):
        recording.enqueue(Email("a"), job_id="order-7", unique_id=1)  # type: ignore[arg-type]
    assert recorder.calls == 0


def test_a_worker_of_a_misspelt_queue_is_refused(
    make_manager: Callable[..., JobManager], registry: JobRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    background_job("report", queue="reports", registry=registry)(_nothing)
    routed = make_manager(routes=[JobRoute(queue="invoices", backend="default")])
    for wrong, right in (("defalt", "default"), ("report", "reports"), ("invoice", "invoices")):
        with pytest.raises(
            InvalidOptionError, match=rf"queue '{wrong}'. Did you mean '{right}'\?.*list it in the settings"
        ):
            routed.worker(options=WorkerOptions(queues=(wrong,)))
    assert not caplog.records
    routed.worker(options=WorkerOptions(queues=("reports", "invoices", "tenant-7")))
    (warning,) = caplog.messages
    assert warning.startswith("serves an unknown queue queue=tenant-7 reason=")
    listed = make_manager(queues={"default": ["defalt"]})
    listed.worker(options=WorkerOptions(queues=("defalt",)))


def _nothing() -> None:
    """Do nothing."""
