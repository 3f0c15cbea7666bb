# pyright: strict, reportUnnecessaryTypeIgnoreComment=true, reportUnusedClass=false
"""The types that an application sees. Checked by mypy and pyright, never run.

An ignore that is not needed is an error for both: so each one proves that the line is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Generic, TypeVar, assert_type

from anyjob import (
    AsyncBackgroundJob,
    BackgroundJob,
    FunctionJob,
    JobEnvelope,
    JobId,
    JobManager,
    JobPriority,
    JobRegistry,
    RetryPolicy,
    background_job,
    configure,
    get_manager,
    job_name,
    override,
)

T = TypeVar("T")
registry = JobRegistry()


@job_name("mail.send", aliases=["mail.old"])
@dataclass
class Email:
    to: str
    subject: str = ""


@dataclass
class Invoice:
    number: int


class SendEmail(BackgroundJob[Email], registry=registry):
    queue = "mail"
    priority = JobPriority.HIGH
    retry = RetryPolicy(max_tries=3)
    time_limit = timedelta(minutes=1)

    def execute(self, args: Email) -> None: ...


class SendInvoice(AsyncBackgroundJob[Invoice]):
    retry = None
    time_limit = 30

    async def execute(self, args: Invoice) -> None: ...


class Logged(BackgroundJob[T], Generic[T]):
    def execute(self, args: T) -> None: ...


class LoggedEmail(Logged[Email]): ...


@background_job("report.build", retry=None, queue="reports", time_limit=2.5, registry=registry)
def build_report(report_id: int, fmt: str = "pdf", *, copies: int = 1) -> bytes:
    return fmt.encode() * report_id * copies


@background_job
async def fetch(url: str) -> int:
    return len(url)


# Classes

assert_type(job_name("x")(Email), type[Email])
assert_type(Email("a@b.c"), Email)
assert_type(SendEmail.enqueue(Email("a@b.c")), JobId)
assert_type(SendEmail.enqueue(Email("a@b.c"), delay=60, priority=JobPriority.LOW, queue="bulk", job_id="x"), JobId)
assert_type(SendEmail.enqueue(Email("a@b.c"), run_at=datetime.now(UTC), headers={"tenant": "7"}), JobId)
assert_type(SendEmail.prepare(Email("a@b.c"), delay=timedelta(minutes=5)), JobEnvelope)
assert_type(LoggedEmail.enqueue(Email("a@b.c")), JobId)

SendEmail.enqueue(Invoice(7))  # type: ignore[arg-type]
SendEmail.enqueue("a@b.c")  # type: ignore[arg-type]
SendEmail.enqueue()  # type: ignore[call-arg]
SendEmail.prepare(Invoice(7))  # type: ignore[arg-type]
LoggedEmail.enqueue(Invoice(7))  # type: ignore[arg-type]
assert_type(SendEmail.using(delay=60).enqueue(Email("a@b.c")), JobId)
assert_type(SendEmail.using(delay=60).prepare(Email("a@b.c")), JobEnvelope)
assert_type(LoggedEmail.using(backend="ledger").enqueue(Email("a@b.c")), JobId)
SendEmail.using(delay=60).enqueue(Invoice(7))  # type: ignore[arg-type]
SendEmail.using(delay=60).enqueue(Email("a@b.c"), delay=60)  # type: ignore[call-arg]
SendEmail.using(dealy=60)  # type: ignore[call-arg]
SendEmail.prepare(Email("a@b.c"), backend="ledger")  # type: ignore[call-arg]
SendEmail.enqueue(Email("a@b.c"), dealy=60)  # type: ignore[call-arg]
SendEmail.enqueue(Email("a@b.c"), delay="60")  # type: ignore[arg-type]
SendEmail.enqueue(Email("a@b.c"), priority=20)  # type: ignore[arg-type]
SendEmail.enqueue(Email("a@b.c"), run_at=60)  # type: ignore[arg-type]
SendEmail.enqueue(Email("a@b.c"), headers={"tenant": 7})  # type: ignore[dict-item]


class WrongArgs(BackgroundJob[Email]):
    def execute(self, args: Invoice) -> None: ...  # type: ignore[override]


class NotAsync(AsyncBackgroundJob[Email]):
    def execute(self, args: Email) -> None: ...  # type: ignore[override]


class NotSync(BackgroundJob[Email]):
    async def execute(self, args: Email) -> None: ...  # type: ignore[override]


class WrongPriority(BackgroundJob[Email]):
    priority = 20  # type: ignore[assignment]

    def execute(self, args: Email) -> None: ...


class WrongRetry(BackgroundJob[Email]):
    retry = 3  # type: ignore[assignment]

    def execute(self, args: Email) -> None: ...


class WrongRegistry(BackgroundJob[Email], registry="mine"):  # type: ignore[arg-type]
    def execute(self, args: Email) -> None: ...


# Functions

assert_type(build_report(7), bytes)
assert_type(build_report.enqueue(7, fmt="csv", copies=2), JobId)
assert_type(build_report.prepare(7), JobEnvelope)
assert_type(build_report.using(delay=60).enqueue(7), JobId)
assert_type(build_report.using(priority=JobPriority.LOW).prepare(7, "csv"), JobEnvelope)
assert_type(fetch.enqueue("x"), JobId)

build_report.enqueue("seven")  # type: ignore[arg-type]
build_report.enqueue()  # type: ignore[call-arg]
build_report.enqueue(7, "csv", 2)  # type: ignore[call-arg]
build_report.enqueue(7, format="csv")  # type: ignore[call-arg]
build_report.enqueue(7, delay=60)  # type: ignore[call-arg]
build_report.prepare(7, fmt=1)  # type: ignore[arg-type]
build_report.using(dealy=60)  # type: ignore[call-arg]
build_report.using(delay="60")  # type: ignore[arg-type]
build_report.using(delay=60).enqueue("seven")  # type: ignore[arg-type]
build_report.using(delay=60).prepare(7, format="csv")  # type: ignore[call-arg]
build_report("seven")  # type: ignore[arg-type]
fetch.enqueue(7)  # type: ignore[arg-type]
background_job("x", retry=3)  # type: ignore[call-overload]
background_job("x", name="y")  # type: ignore[call-overload]
background_job(7)  # type: ignore[call-overload]


def takes_a_function_job(_job: FunctionJob[..., bytes]) -> None: ...


takes_a_function_job(build_report)
takes_a_function_job(fetch)  # type: ignore[arg-type]


# The manager

manager = get_manager()
assert_type(manager, JobManager)
assert_type(configure(backend="memory:"), JobManager)
assert_type(manager.enqueue(Email("a@b.c"), delay=60), JobId)
assert_type(manager.enqueue_by_name("mail.send", {"to": "a@b.c"}, priority=JobPriority.HIGH), JobId)
assert_type(manager.enqueue_many([Email("a@b.c"), build_report.prepare(7)], delay=60), list[JobId])

assert_type(manager.enqueue_for(SendEmail, Email("a@b.c"), delay=60), JobId)
assert_type(manager.enqueue_for(SendInvoice, Invoice(7)), JobId)
assert_type(manager.enqueue_for(build_report, 7, fmt="csv"), JobId)
assert_type(manager.enqueue_for(build_report.using(delay=60), 7, fmt="csv"), JobId)
assert_type(manager.enqueue_for(SendEmail.using(delay=60), Email("a@b.c")), JobId)
assert_type(build_report.using(manager=manager).enqueue(7), JobId)
assert_type(manager.prepare_for(SendEmail, Email("a@b.c"), delay=60), JobEnvelope)
assert_type(manager.prepare_for(fetch, "x"), JobEnvelope)
assert_type(manager.prepare_by_name("mail.send", {"to": "a@b.c"}), JobEnvelope)
assert_type(manager.enqueue(Email("a@b.c")).backend, str)

manager.enqueue_for(SendEmail, Invoice(7))  # type: ignore[misc]
manager.enqueue_for(SendInvoice, Email("a@b.c"))  # type: ignore[misc]
manager.enqueue_for(SendEmail, Email("a@b.c"), dealy=60)  # type: ignore[call-overload]
manager.enqueue_for(build_report, "seven")  # type: ignore[call-overload]
manager.enqueue_for(build_report, 7, delay=60)  # type: ignore[call-arg]
manager.enqueue_for(build_report.using(delay=60), "seven")  # type: ignore[call-overload]
manager.enqueue_for(Email, Email("a@b.c"))  # type: ignore[arg-type]
manager.prepare_for(fetch, 7)  # type: ignore[call-overload]
build_report.using(manager="main")  # type: ignore[arg-type]
manager.enqueue(Email("a@b.c"), backend=7)  # type: ignore[arg-type]
manager.prepare(Email("a@b.c"), backend="ledger")  # type: ignore[call-arg]
manager.enqueue(Email("a@b.c"), dealy=60)  # type: ignore[call-arg]
manager.enqueue(Email("a@b.c"), delay="60")  # type: ignore[arg-type]
manager.enqueue_by_name(Email, {})  # type: ignore[arg-type]
manager.enqueue_many(7)  # type: ignore[arg-type]
RetryPolicy(3)  # type: ignore[call-arg]
job_name(7)  # type: ignore[arg-type]

with override(backend="memory:") as sandbox:
    assert_type(sandbox, JobManager)


# Async


async def enqueue_without_blocking() -> None:
    assert_type(await SendInvoice.aenqueue(Invoice(7)), JobId)
    assert_type(await build_report.using(run_at=datetime.now(UTC)).aenqueue(7), JobId)
    assert_type(await fetch.aenqueue("x"), JobId)
    assert_type(await fetch("x"), int)
    assert_type(await manager.aenqueue(Email("a@b.c")), JobId)
    assert_type(await manager.aenqueue_many([Email("a@b.c")]), list[JobId])

    await SendInvoice.aenqueue(Email("a@b.c"))  # type: ignore[arg-type]
    await fetch.aenqueue(7)  # type: ignore[arg-type]
    await build_report.using(delay=60).aenqueue()  # type: ignore[call-arg]
    await manager.aenqueue(Email("a@b.c"), dealy=60)  # type: ignore[call-arg]
