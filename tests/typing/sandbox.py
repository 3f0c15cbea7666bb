# pyright: strict, reportUnnecessaryTypeIgnoreComment=true, reportUnusedClass=false
"""The types of the test kit. Checked by mypy and pyright, never run; an ignore that is not needed is an error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar, assert_type
from unittest import IsolatedAsyncioTestCase, TestCase
from unittest.mock import ANY

from anyjob import BackgroundJob, JobManager, JobPriority, background_job
from anyjob.testing import (
    AbandonedJob,
    EnqueuedJob,
    JobSandbox,
    JobSandboxMixin,
    RanJob,
    assert_wire_unbroken,
    in_memory,
)


@dataclass
class Mail:
    to: str


def to_is_address(args: dict[str, Any]) -> dict[str, Any]:
    return {"to": args["address"]}


class SendMail(BackgroundJob[Mail]):
    upgrades: ClassVar = {1: to_is_address}

    def execute(self, args: Mail) -> None: ...


class WrongUpgrades(BackgroundJob[Mail]):
    upgrades: ClassVar = [to_is_address]  # type: ignore[assignment]

    def execute(self, args: Mail) -> None: ...


@background_job("report.build", upgrades={1: to_is_address})
def build_report(report_id: int) -> None: ...


background_job("x", upgrades={"1": to_is_address})  # type: ignore[dict-item]


def test_claims(anyjob_sandbox: JobSandbox) -> None:
    assert_type(anyjob_sandbox.assert_enqueued(SendMail, Mail("a"), delay=timedelta(minutes=5), times=1), EnqueuedJob)
    anyjob_sandbox.assert_enqueued(Mail, {"to": ANY}, priority=JobPriority.HIGH, run_at=datetime.now(UTC))
    anyjob_sandbox.assert_enqueued(build_report, lambda args: args.report_id > 3, queue=lambda queue: queue != "mail")
    anyjob_sandbox.assert_not_enqueued("mail.send", headers={"tenant": "a"})
    assert_type(anyjob_sandbox.assert_ran(SendMail, error=None, try_count=2), RanJob)
    assert_type(anyjob_sandbox.assert_abandoned(SendMail, error=ConnectionError), AbandonedJob)
    assert_type(anyjob_sandbox.enqueued, Sequence[EnqueuedJob])
    assert_type(anyjob_sandbox.ran[0].error, BaseException | None)
    assert_type(anyjob_sandbox.ran[0].headers, Mapping[str, str])
    assert_type(anyjob_sandbox.abandoned[0].failure.tries, int)
    with anyjob_sandbox.assert_enqueues(2, SendMail) as block:
        block.assert_nothing_abandoned()
    assert_type(anyjob_sandbox.assert_enqueued(queue="mail"), EnqueuedJob)
    anyjob_sandbox.assert_enqueued([SendMail, build_report], times=2)
    anyjob_sandbox.assert_not_ran()
    with anyjob_sandbox.assert_enqueues(0, queue="mail"):
        anyjob_sandbox.clear()

    anyjob_sandbox.assert_enqueued(SendMail, dealy=5)  # type: ignore[call-arg]
    anyjob_sandbox.assert_enqueued(SendMail, delay="5")  # type: ignore[arg-type]
    anyjob_sandbox.assert_enqueued(SendMail, priority=20)  # type: ignore[arg-type]
    anyjob_sandbox.assert_enqueued(SendMail, error=ValueError)  # type: ignore[call-arg]
    anyjob_sandbox.assert_not_enqueued(SendMail, times=2)  # type: ignore[call-arg]


def test_running(anyjob_sandbox: JobSandbox) -> None:
    assert_type(anyjob_sandbox.run(), int)
    assert_type(anyjob_sandbox.run_one(raises=False), bool)
    assert_type(anyjob_sandbox.run_all(max_jobs=10), int)
    anyjob_sandbox.travel(minutes=5)
    anyjob_sandbox.travel(60)
    anyjob_sandbox.travel_to(anyjob_sandbox.now() + timedelta(days=1))
    assert_type(anyjob_sandbox.broker_away(at=2, job=SendMail), AbstractContextManager[None])
    with (
        anyjob_sandbox.freeze(),
        anyjob_sandbox.run_at_enqueue(),
        anyjob_sandbox.worker(concurrency=2),
        anyjob_sandbox.worker_killed(),
        anyjob_sandbox.delivered_twice(at=1),
    ):
        assert_type(anyjob_sandbox.receive("mail.send", {"address": "a"}, args_version=0), str)

    anyjob_sandbox.run(queue="mail", only=SendMail)
    anyjob_sandbox.run_all(queue=["mail", "web"], only=lambda job: job.args.to == "a", max_jobs=10)

    anyjob_sandbox.run(queues="mail")  # type: ignore[call-arg]
    anyjob_sandbox.run_one(queue=5)  # type: ignore[arg-type]
    anyjob_sandbox.travel_to(5)  # type: ignore[arg-type]
    anyjob_sandbox.run(max_jobs=1)  # type: ignore[call-arg]


async def test_async_twins(anyjob_sandbox: JobSandbox) -> None:
    assert_type(await anyjob_sandbox.arun(), int)
    assert_type(await anyjob_sandbox.arun(only=[SendMail]), int)
    assert_type(await anyjob_sandbox.arun_one(), bool)
    assert_type(await anyjob_sandbox.arun_all(raises=False), int)


def test_the_other_ways(manager: JobManager) -> None:
    with in_memory(profile="rq+redis://", start=datetime.now(UTC)) as sandbox:
        assert_type(sandbox, JobSandbox)
    assert_wire_unbroken("wire.json", registry=manager.registry, packages=["shop"])

    in_memory(profile=5)  # type: ignore[arg-type]


class Cases(JobSandboxMixin, TestCase):
    sandbox_options: ClassVar = {"start": datetime.now(UTC)}

    def test_it(self) -> None:
        assert_type(self.sandbox, JobSandbox)


class AsyncCases(JobSandboxMixin, IsolatedAsyncioTestCase):
    async def test_it(self) -> None:
        assert_type(await self.sandbox.arun(), int)
