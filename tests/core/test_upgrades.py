"""Arguments of an older version: brought to today's, deferred if newer, parked if they can't be mended."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
from msgspec import Raw
from msgspec.structs import replace

from anyjob import (
    BackgroundJob,
    JobDefinitionError,
    JobFilter,
    JobManager,
    JobRegistry,
    JobState,
    RetryPolicy,
    background_job,
    job_name,
)
from anyjob.define.upgrades import ARGS_VERSION_HEADER, args_version
from anyjob.extend import JobStore
from anyjob.testing import FakeClock

paid: list[Any] = []


@pytest.fixture(autouse=True)
def _nothing_paid() -> None:
    paid.clear()


def rename(args: Any) -> Any:
    return {"euros": args["amount"]}


def to_cents(args: Any) -> Any:
    return {"cents": args["euros"] * 100}


@job_name("pay")
@dataclass
class Payment:
    cents: int


def define(registry: JobRegistry, steps: Mapping[int, Callable[[Any], Any]]) -> None:
    class Pay(BackgroundJob[Payment], registry=registry):
        upgrades = steps

        def execute(self, args: Payment) -> None:
            paid.append(args.cents)


def send(manager: JobManager, payload: bytes, version: int | None) -> str:
    """Enqueue as code that had `version` steps did."""
    envelope = manager.prepare(Payment(1))
    headers = {} if version is None else {ARGS_VERSION_HEADER: str(version)}
    manager.enqueue_many([replace(envelope, args=Raw(payload), headers=headers)])
    return envelope.id


@pytest.mark.parametrize(
    ("payload", "version"),
    [(b'{"amount": 3}', None), (b'{"amount": 3}', 0), (b'{"euros": 3}', 1), (b'{"cents": 300}', 2)],
)
def test_each_message_takes_the_steps_that_it_lacks(
    manager: JobManager, registry: JobRegistry, payload: bytes, version: int | None
) -> None:
    define(registry, {1: rename, 2: to_cents})
    send(manager, payload, version)
    assert manager.drain() == 1
    assert paid == [300]


def test_what_is_enqueued_now_is_of_today_s_version(
    manager: JobManager, registry: JobRegistry, store: JobStore
) -> None:
    define(registry, {1: rename, 2: to_cents})
    manager.enqueue(Payment(7))
    manager.enqueue(Payment(8), delay=1, headers={"tenant": "a"})
    first, second = [job.envelope for job in store.scan(JobFilter()).jobs]
    assert first is not None and second is not None
    assert first.headers == {ARGS_VERSION_HEADER: "2"}
    assert second.headers == {ARGS_VERSION_HEADER: "2", "tenant": "a"}
    manager.drain()
    assert paid == [7]


def test_a_job_without_steps_carries_no_version(manager: JobManager, registry: JobRegistry) -> None:
    define(registry, {})
    assert manager.prepare(Payment(1)).headers == {}


def test_a_function_has_steps_too(manager: JobManager, registry: JobRegistry) -> None:
    @background_job("greet", upgrades={1: lambda args: {"name": args["who"]}}, registry=registry)
    def greet(name: str) -> None:
        paid.append(name)

    envelope = manager.prepare_by_name("greet", {"name": "x"})
    manager.enqueue_many([replace(envelope, args=Raw(b'{"who": "ada"}'), headers={})])
    manager.drain()
    assert paid == ["ada"]


def test_the_version_survives_tries_and_a_retry(manager: JobManager, registry: JobRegistry, clock: FakeClock) -> None:
    class Pay(BackgroundJob[Payment], registry=registry):
        upgrades: ClassVar = {1: rename, 2: to_cents}
        retry = RetryPolicy(max_tries=2, first_wait=1)

        def execute(self, args: Payment) -> None:
            paid.append(args.cents)
            if len(paid) < 3:
                raise ConnectionError

    job_id = send(manager, b'{"euros": 3}', 1)
    manager.drain()
    clock.travel(1)
    manager.drain()
    assert manager.inspect().retry(job_id)
    assert manager.drain() == 1
    assert paid == [300, 300, 300]


@pytest.mark.parametrize(
    ("steps", "payload", "told"),
    [
        ({1: rename}, b"{}", "the step to version 1 of the arguments raised KeyError"),
        ({1: lambda _: {"cents": "x"}}, b"{}", "Expected `int`, got `str`"),
        ({2: to_cents}, b'{"amount": 3}', "arguments of version 0: the step to version 1 is gone from the job"),
        ({1: lambda _: object()}, b"{}", "the step to version 1 of the arguments raised TypeError"),
    ],
)
def test_what_no_step_mends_is_parked_with_its_own_bytes(
    manager: JobManager, registry: JobRegistry, steps: Any, payload: bytes, told: str
) -> None:
    define(registry, steps)
    job_id = send(manager, payload, None)
    manager.drain()
    job = manager.inspect().find(job_id)
    assert job is not None and job.failure is not None and job.envelope is not None
    assert job.state is JobState.ABANDONED
    assert told in job.failure.message
    assert bytes(job.envelope.args) == payload
    assert job.failure.tries == 0


def test_arguments_of_newer_code_are_deferred_like_an_unknown_name_then_parked(
    manager: JobManager, registry: JobRegistry, clock: FakeClock
) -> None:
    define(registry, {1: rename})
    job_id = send(manager, b'{"cents": 300}', 2)
    manager.drain()
    assert manager.inspect().count()[JobState.SCHEDULED] == 1
    for _ in range(10):
        clock.travel(hours=1)
        manager.drain()
    job = manager.inspect().find(job_id)
    assert job is not None and job.failure is not None
    assert "the arguments have version 2; this process knows version 1" in job.failure.message
    assert paid == []
    assert manager.inspect().retry(job_id)
    define_newer = JobRegistry()
    define(define_newer, {1: rename, 2: to_cents})
    JobManager(manager.backend(), registry=define_newer, clock=clock).drain()
    assert paid == [300]


@pytest.mark.parametrize(
    ("upgrades", "told"),
    [
        ([rename], "must map versions to functions"),
        ({0: rename}, "lead to the versions 1, 2, 3"),
        ({1: rename, 3: to_cents}, "without a gap"),
        ({"1": rename}, "lead to the versions 1, 2, 3"),
        ({1: "rename"}, "is no function"),
    ],
)
def test_wrong_steps_are_refused_where_they_are_defined(registry: JobRegistry, upgrades: Any, told: str) -> None:
    with pytest.raises(JobDefinitionError, match=told):
        define(registry, upgrades)


@pytest.mark.parametrize("version", ["", "x", "-1", "1.5", "²", "9" * 100])
def test_a_version_that_is_none_is_the_first(version: str) -> None:
    assert args_version({ARGS_VERSION_HEADER: version}) == 0
