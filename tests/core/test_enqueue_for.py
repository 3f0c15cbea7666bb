"""One job, any manager, any backend: how a call names them, and the id that it returns."""

from __future__ import annotations

import asyncio
import copy
import json
import pickle
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

import anyjob
from anyjob import (
    AsyncBackgroundJob,
    BackgroundJob,
    InvalidArgsError,
    InvalidOptionError,
    JobConfiguration,
    JobId,
    JobManager,
    JobRegistry,
    JobRoute,
    UnknownJobError,
    background_job,
)
from anyjob.extend import StoreBackend
from anyjob.seams.backend import BackendConfig
from anyjob.stores.store_backend import memory_backend
from anyjob.testing import FakeClock

ran: list[object] = []


@dataclass
class Mail:
    to: str
    parents: list[str] = field(default_factory=list)


class SendMail(BackgroundJob[Mail], registry=None):
    def execute(self, args: Mail) -> None:
        ran.append(args.to)


class ReadMail(AsyncBackgroundJob[dict[str, int]], registry=None):
    async def execute(self, args: dict[str, int]) -> None:
        ran.append(args)


@pytest.fixture
def registry() -> JobRegistry:
    ran.clear()
    made = JobRegistry()
    made.register(JobConfiguration.of_class(SendMail, Mail))
    made.register(JobConfiguration.of_class(ReadMail, dict[str, int]))
    return made


@pytest.fixture
def report(registry: JobRegistry) -> Any:
    @background_job("report.build", registry=registry)
    def build(number: int, fmt: str = "pdf") -> None:
        ran.append((number, fmt))

    return build


@pytest.fixture
def ledger(clock: FakeClock) -> StoreBackend:
    return memory_backend(BackendConfig(alias="ledger", url="memory:", clock=clock))


@pytest.fixture
def two(make_manager: Callable[..., JobManager], backend: StoreBackend, ledger: StoreBackend) -> JobManager:
    return make_manager(
        backends={"main": backend, "ledger": ledger},
        routes=[JobRoute(job="report.*", backend="ledger")],
        queues={"ledger": ["default", "money"]},
    )


# A manager of one's own; none is configured


@pytest.mark.parametrize(
    "call",
    [
        lambda manager, report: report.using(manager=manager).enqueue(7, fmt="csv"),
        lambda manager, report: manager.enqueue_for(report, 7, fmt="csv"),
        lambda manager, report: manager.enqueue_for(report.using(), 7, fmt="csv"),
        lambda manager, report: manager.enqueue_many([manager.prepare_for(report, 7, fmt="csv")]),
        lambda manager, report: manager.enqueue_many([report.using(manager=manager).prepare(7, "csv")]),
        lambda manager, report: asyncio.run(manager.aenqueue_for(report, 7, fmt="csv")),
        lambda manager, report: asyncio.run(report.using(manager=manager).aenqueue(7, fmt="csv")),
        lambda manager, report: manager.enqueue_many(
            [manager.prepare_by_name("report.build", {"number": 7, "fmt": "csv"})]
        ),
    ],
)
def test_a_function_is_enqueued_with_a_manager_of_ones_own(
    manager: JobManager, report: Any, call: Callable[[JobManager, Any], object]
) -> None:
    call(manager, report)
    assert manager.drain() == 1
    assert ran == [(7, "csv")]


@pytest.mark.parametrize(
    "call",
    [
        lambda manager: SendMail.using(manager=manager).enqueue(Mail("a")),
        lambda manager: manager.enqueue_for(SendMail, Mail("a")),
        lambda manager: manager.enqueue_for(SendMail, args=Mail("a")),
        lambda manager: manager.enqueue_for(SendMail.using(), Mail("a")),
        lambda manager: manager.enqueue_many([SendMail.using(manager=manager).prepare(Mail("a"))]),
        lambda manager: asyncio.run(SendMail.using(manager=manager).aenqueue(Mail("a"))),
    ],
)
def test_so_is_a_class(manager: JobManager, call: Callable[[JobManager], object]) -> None:
    call(manager)
    assert manager.drain() == 1
    assert ran == ["a"]


def test_using_takes_the_options_of_classes_and_functions(manager: JobManager, report: Any) -> None:
    with anyjob.override(manager):
        SendMail.using(delay=60, headers={"tenant": "7"}).enqueue(Mail("a"))
        ReadMail.using(delay=60, headers={"tenant": "7"}).enqueue({"a": 1})
        report.using(delay=60, headers={"tenant": "7"}).enqueue(7)
    jobs = [job.envelope for job in manager.inspect().scan(anyjob.JobFilter()).jobs]
    assert [job.due_at is not None and job.headers for job in jobs if job] == [{"tenant": "7"}] * 3


def test_a_function_that_is_not_in_the_registry_is_refused(manager: JobManager) -> None:
    @background_job("elsewhere", registry=JobRegistry())
    def elsewhere() -> None: ...

    with pytest.raises(UnknownJobError, match="elsewhere .*is not in this registry"):
        manager.enqueue_for(elsewhere)


def test_wrong_calls_say_what_is_right(manager: JobManager, report: Any) -> None:
    with pytest.raises(InvalidArgsError, match="takes one object, its arguments, and options by their names; 0 given"):
        manager.enqueue_for(SendMail)  # type: ignore[call-overload]
    with pytest.raises(InvalidArgsError, match="2 given"):
        manager.enqueue_for(SendMail, Mail("a"), 60)  # type: ignore[call-overload]
    with pytest.raises(InvalidOptionError, match="no option 'dealy'"):
        manager.enqueue_for(SendMail, Mail("a"), dealy=60)  # type: ignore[call-overload]
    with pytest.raises(InvalidArgsError) as refused:
        manager.enqueue_for(report, 7, delay=60)
    assert refused.value.__notes__ == ["Options go in front: .using(delay=...).enqueue(...)"]


# The backend at the call


def test_a_call_may_say_which_backend_takes_the_job(two: JobManager, report: Any, ledger: StoreBackend) -> None:
    assert two.enqueue_for(report, 1).backend == "ledger"
    assert two.enqueue_for(report.using(backend="main"), 1).backend == "main"
    assert two.enqueue(Mail("a"), backend="ledger").backend == "ledger"
    assert asyncio.run(two.aenqueue(Mail("a"), backend="ledger")).backend == "ledger"
    assert [each.backend for each in two.enqueue_many([Mail("b"), two.prepare_for(report, 2)], backend="main")] == [
        "main",
        "main",
    ]
    mixed = asyncio.run(two.aenqueue_many([Mail("b"), two.prepare_for(report, 2)]))
    assert [each.backend for each in mixed] == ["main", "ledger"]
    assert sum(ledger.store.count().values()) == 4


def test_an_alias_that_nobody_has_is_refused_with_the_nearest(two: JobManager) -> None:
    with pytest.raises(
        InvalidOptionError, match=r"none is called 'ledgr'\. Did you mean 'ledger'\? Defined: main, ledger"
    ):
        two.enqueue(Mail("a"), backend="ledgr")
    with pytest.raises(InvalidOptionError, match="named by its alias"):
        two.enqueue(Mail("a"), backend=7)  # type: ignore[arg-type]
    with pytest.raises(InvalidOptionError, match="closed to: default, money"):
        two.enqueue(Mail("a"), backend="ledger", queue="mail")


def test_an_envelope_keeps_no_backend(two: JobManager) -> None:
    prepare: Any = two.prepare
    for call in (
        lambda: prepare(Mail("a"), backend="ledger"),
        lambda: SendMail.using(manager=two, backend="ledger").prepare(Mail("a")),
    ):
        with pytest.raises(InvalidOptionError, match=r"Say so when .*enqueue_many\(\[\.\.\.\], backend='ledger'\)"):
            call()


# The id


def test_an_id_is_a_text_that_knows_its_backend(two: JobManager) -> None:
    job_id = two.enqueue(Mail("a"), job_id="a-1")
    assert isinstance(job_id, JobId)
    assert job_id == "a-1"
    assert hash(job_id) == hash("a-1")
    assert (f"{job_id}", json.dumps([job_id]), type(str(job_id))) == ("a-1", '["a-1"]', str)
    assert repr(job_id) == "JobId('a-1', backend='main')"
    for other in (pickle.loads(pickle.dumps(job_id)), copy.deepcopy(job_id)):  # noqa: S301
        assert (other, other.backend) == ("a-1", "main")
    with pytest.raises(AttributeError):
        job_id.backend = "ledger"  # type: ignore[misc]


def test_an_id_finds_its_job(two: JobManager) -> None:
    job_id = two.enqueue(Mail("a"), backend="ledger")
    inspector = two.inspect(job_id.backend)
    found = inspector.find(job_id)
    assert found is not None
    assert found.id == job_id
    assert inspector.cancel(job_id)


def test_an_id_goes_into_other_jobs(two: JobManager) -> None:
    first = two.enqueue(Mail("a"))
    again = two.enqueue(Mail(first, [first]), headers={"parent": first}, job_id=JobId("own", "main"))
    assert two.drain() == 2
    assert ran == ["a", first]
    assert type(ran[1]) is str
    assert again == "own"
