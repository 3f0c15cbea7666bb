"""Faults that mocks and eager modes hide, and the sandbox shows. Each passes elsewhere and fails in production.

pip install pytest
pytest examples/03_unit_test
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import pytest

from anyjob import BackgroundJob, InvalidArgsError, JobPriority, background_job
from anyjob.testing import JobSandbox

seen: list[Any] = []


@dataclass
class Order:
    number: int
    lines: list[str] = field(default_factory=list)


class Ship(BackgroundJob[Order]):
    def execute(self, args: Order) -> None:
        seen.append((args.number, args.lines))


@background_job("note")
def note(text: str) -> None:
    seen.append(text)


@pytest.fixture(autouse=True)
def _nothing_seen() -> None:
    seen.clear()


def test_an_argument_that_cannot_travel(anyjob_sandbox: JobSandbox) -> None:
    with pytest.raises(InvalidArgsError, match="object"):
        Ship.enqueue(Order(7, [object()]))  # type: ignore[list-item]
    anyjob_sandbox.assert_nothing_enqueued()


def test_a_wrong_signature(anyjob_sandbox: JobSandbox) -> None:
    with pytest.raises(InvalidArgsError, match="subject"):
        note.enqueue("hello", subject="there is no such parameter")  # type: ignore[call-arg]
    with pytest.raises(InvalidArgsError, match="Expected `str`, got `int`"):
        note.enqueue(7)  # type: ignore[arg-type]
    anyjob_sandbox.assert_nothing_enqueued()


def test_an_argument_that_is_changed_afterwards(anyjob_sandbox: JobSandbox) -> None:
    order = Order(7, ["apples"])
    Ship.enqueue(order)
    order.lines.append("pears")  # too late: the job has the value at the enqueue
    anyjob_sandbox.run()
    assert seen == [(7, ["apples"])]


def test_a_job_before_its_time(anyjob_sandbox: JobSandbox) -> None:
    note.using(delay=60).enqueue("later")
    anyjob_sandbox.travel(59)
    assert anyjob_sandbox.run() == 0
    anyjob_sandbox.travel(1)
    assert anyjob_sandbox.run() == 1


def test_a_job_before_a_more_urgent_one(anyjob_sandbox: JobSandbox) -> None:
    note.using(priority=JobPriority.LOW).enqueue("low")
    note.enqueue("normal")
    note.using(priority=JobPriority.HIGH).enqueue("high")
    anyjob_sandbox.run()
    assert seen == ["high", "normal", "low"]


# A job inside of a transaction that fails

rows: dict[int, str] = {}


@contextmanager
def transaction() -> Iterator[None]:
    before = dict(rows)
    try:
        yield
    except BaseException:
        rows.clear()
        rows.update(before)
        raise


@background_job("invoice", retry=None)
def invoice(number: int) -> None:
    seen.append(rows[number])


def order_and_fail() -> None:
    with transaction():
        rows[7] = "apples"
        invoice.enqueue(7)
        raise RuntimeError("no stock")


def test_a_job_enqueued_inside_of_a_transaction_that_is_rolled_back(anyjob_sandbox: JobSandbox) -> None:
    with pytest.raises(RuntimeError, match="no stock"):
        order_and_fail()
    # Eager modes run the job inside of the transaction, where the row is. Here it runs when a worker would run it.
    with pytest.raises(KeyError):
        anyjob_sandbox.run()


# A job that relies on the state of its enqueuer

current_user: ContextVar[str] = ContextVar("current_user")
request = threading.local()


@background_job("greet", retry=None)
def greet() -> None:
    seen.append(current_user.get())


@background_job("audit", retry=None)
def audit() -> None:
    seen.append(request.user)


def test_a_job_that_reads_a_context_variable_of_the_request(anyjob_sandbox: JobSandbox) -> None:
    token = current_user.set("alice")
    greet.enqueue()
    with pytest.raises(LookupError):
        anyjob_sandbox.run()
    current_user.reset(token)


def test_a_job_that_reads_a_thread_local_of_the_request(anyjob_sandbox: JobSandbox) -> None:
    request.user = "alice"
    with pytest.raises(AttributeError), anyjob_sandbox.worker():  # a thread of its own
        audit.enqueue()
