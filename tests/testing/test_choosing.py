"""Running some of the jobs, forgetting them all, and settings that only a real server needs."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import anyjob
from anyjob import (
    BackgroundJob,
    ConfigurationError,
    InvalidOptionError,
    JobPriority,
    JobState,
    RetryPolicy,
    UnknownJobError,
    background_job,
    get_manager,
)
from anyjob.testing import EnqueuedJob, JobSandbox, in_memory

ran: list[Any] = []


@dataclass
class Parcel:
    number: int
    broken: bool = False


class Ship(BackgroundJob[Parcel]):
    queue = "orders"
    retry = RetryPolicy(max_tries=2, first_wait=60)

    def execute(self, args: Parcel) -> None:
        if args.broken:
            raise ValueError(f"parcel {args.number}")
        ran.append(args.number)
        if args.number == 1:
            tell.enqueue("shipped")


@background_job("choosing.tell")
async def tell(text: str) -> None:
    ran.append(text)


@background_job("choosing.look")
def look() -> None:
    counts = get_manager().inspect().count()
    ran.append((counts[JobState.WAITING], counts[JobState.RUNNING]))


@pytest.fixture
def sandbox(anyjob_sandbox: JobSandbox) -> JobSandbox:
    ran.clear()
    Ship.enqueue(Parcel(1))
    tell.enqueue("first")
    Ship.enqueue(Parcel(2), priority=JobPriority.HIGH)
    tell.using(queue="mail", priority=JobPriority.HIGH).enqueue("letter")
    return anyjob_sandbox


# Which jobs


def test_one_queue_runs_in_its_order_and_the_others_wait(sandbox: JobSandbox) -> None:
    assert sandbox.run(queue="orders") == 2
    assert ran == [2, 1]
    assert get_manager().inspect().count()[JobState.WAITING] == 3
    assert sandbox.run(queue=["mail", "orders"]) == 1
    assert sandbox.run() == 2
    assert ran == [2, 1, "letter", "first", "shipped"]


@pytest.mark.parametrize(
    ("only", "done"),
    [
        (Ship, [2, 1]),
        ("choosing.tell", ["letter", "first"]),
        (tell, ["letter", "first"]),
        ([Ship, tell], [2, "letter", 1, "first"]),
        (Parcel(2), [2]),
        ([Parcel(2), tell], [2, "letter", "first"]),
        (lambda job: job.name != "choosing.tell" and job.args.number > 1, [2]),
        (lambda job: False, []),
    ],
    ids=["class", "name", "function", "several", "arguments", "both", "predicate", "none"],
)
def test_only_these_jobs_run(sandbox: JobSandbox, only: Any, done: list[Any]) -> None:
    assert sandbox.run(only=only) == len(done)
    assert ran == done


def test_queue_and_kind_together(sandbox: JobSandbox) -> None:
    assert sandbox.run_one(queue="default", only=tell)
    assert not sandbox.run_one(queue="mail", only=Ship)
    assert ran == ["first"]


def test_run_all_goes_on_with_the_chosen_ones_and_leaves_time_to_them(sandbox: JobSandbox) -> None:
    start = sandbox.now()
    Ship.enqueue(Parcel(3, broken=True), delay=30)
    tell.using(delay=10).enqueue("later")
    assert sandbox.run_all(only=Ship, raises=False) == 4
    assert sandbox.now() - start == timedelta(seconds=90)
    assert ran == [2, 1]
    sandbox.assert_abandoned(Ship, {"number": 3}, error=ValueError)
    assert sandbox.run_all() == 4


def test_the_async_twins_choose_too(sandbox: JobSandbox) -> None:
    async def choose() -> None:
        assert await sandbox.arun(queue="mail") == 1
        assert await sandbox.arun_one(only=tell)
        assert await sandbox.arun_all(only=Ship) == 2

    asyncio.run(choose())
    assert ran == ["letter", "first", 2, 1]


def test_what_is_not_chosen_waits_meanwhile_as_anybody_can_see(sandbox: JobSandbox) -> None:
    look.enqueue()
    sandbox.run(only=look)
    assert ran == [(4, 1)]


def test_a_predicate_may_look_at_jobs_itself_and_is_asked_once_for_each(sandbox: JobSandbox) -> None:
    asked: list[str] = []

    def odd(job: EnqueuedJob) -> bool:
        asked.append(job.id)
        assert get_manager().inspect().count()[JobState.WAITING]
        return job.queue == "default"

    sandbox.run(only=odd)
    assert ran == ["first"]
    assert len(asked) == len(set(asked))


def test_a_lost_job_comes_again_to_who_chose_it(sandbox: JobSandbox) -> None:
    with sandbox.worker_killed(job=Ship, at=1):
        assert sandbox.run_all(only=Ship) == 3
    assert ran == [2, 1, 2]


def test_a_slip_of_the_pen_is_an_error(sandbox: JobSandbox) -> None:
    with pytest.raises(UnknownJobError, match=r"choosing\.tel'.*Did you mean"):
        sandbox.run(only="choosing.tel")
    with pytest.raises(InvalidOptionError, match="'Orders'"):
        sandbox.run(queue="Orders")
    with pytest.raises(InvalidOptionError, match="queue"):
        sandbox.run(queue=[])
    assert ran == []


# Forgetting


def test_clear_forgets_what_waits_and_what_was_recorded(sandbox: JobSandbox) -> None:
    Ship.enqueue(Parcel(3, broken=True))
    sandbox.run_all(raises=False, only=Parcel(3, broken=True))
    with sandbox.worker_killed():
        sandbox.run(only=Parcel(2))
    Ship.enqueue(Parcel(4), delay=60)
    part = sandbox.part()
    sandbox.clear()
    assert not any(get_manager().inspect().count().values())
    assert (sandbox.enqueued, sandbox.ran, sandbox.abandoned) == ((), (), ())
    assert sandbox.run_all() == 0
    Ship.enqueue(Parcel(5), job_id="again")
    assert sandbox.run() == 1
    sandbox.assert_enqueued(times=1)
    sandbox.assert_ran(Parcel(5), times=1)
    part.assert_enqueued(times=1)


# What only a real server needs


def write_settings(url: str) -> None:
    Path("anyjob.toml").write_text(f'[backends.main]\nurl = "{url}"\nqueues = ["mail", "default"]\n', encoding="utf-8")


@pytest.mark.parametrize("url", ["rq+redis://:${REDIS_PASSWORD}@redis/0", "rq+${REDIS_URL}", "${JOBS_URL}"])
def test_variables_of_the_real_url_need_not_be_set(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    for remembered in ("_manager", "_stand_in"):
        monkeypatch.setattr(anyjob.current, remembered, None)
    write_settings(url)
    ran.clear()
    with in_memory() as sandbox:
        with pytest.raises(InvalidOptionError, match="has no queue 'orders'"):  # the settings are in force
            Ship.enqueue(Parcel(1))
        tell.enqueue("here")
        assert sandbox.enqueued[0].backend == "main"
        assert sandbox.run() == 1
        manager = get_manager()
        with anyjob.override(backends={"other": "rq+redis://${OTHER}"}, default="other"):
            tell.enqueue("there")
        sandbox.assert_enqueued(tell, backend="other")
    assert ran == ["here"]
    with pytest.raises(ConfigurationError, match=r"backends\.main\.url: \$\{[A-Z_]+\} is not set"):
        manager.enqueue_by_name("choosing.tell", {"text": "x"})


def test_without_a_sandbox_they_are_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(anyjob.current, "_manager", None)
    write_settings("rq+redis://:${REDIS_PASSWORD}@redis/0")
    with pytest.raises(ConfigurationError, match=r"\$\{REDIS_PASSWORD\} is not set"):
        get_manager()
