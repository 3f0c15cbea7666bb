"""The sandbox's claims: which job they mean, what they compare, and what they show when they fail."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple, TypedDict
from unittest.mock import ANY

import attrs
import msgspec
import pydantic
import pytest

from anyjob import (
    BackgroundJob,
    InvalidArgsError,
    InvalidOptionError,
    JobManager,
    JobPriority,
    JobRegistry,
    RetryPolicy,
    UnknownJobError,
    background_job,
    get_manager,
    job_name,
)
from anyjob.testing import JobSandbox


@dataclass
class Line:
    article: str
    count: int = 1


@job_name("claims.order", aliases=["claims.purchase"])
@dataclass
class Order:
    number: int
    lines: list[Line] = field(default_factory=list)
    notes: dict[str, str] = field(default_factory=dict)


class Ship(BackgroundJob[Order]):
    queue = "orders"
    retry = RetryPolicy(max_tries=2, first_wait=1)

    def execute(self, args: Order) -> None:
        if args.number < 0:
            raise ValueError(f"no order {args.number}")


@background_job("claims.report")
def report(number: int, fmt: str = "pdf") -> None: ...


@pytest.fixture
def sandbox(anyjob_sandbox: JobSandbox) -> JobSandbox:
    Ship.enqueue(
        Order(7, [Line("apples", 3)], {"wrap": "red"}),
        delay=timedelta(minutes=5),
        priority=JobPriority.HIGH,
        headers={"tenant": "a", "trace": "1"},
    )
    report.enqueue(8)
    return anyjob_sandbox


# Which job


@pytest.mark.parametrize("job", [Ship, Order, "claims.order", "claims.purchase"], ids=str)
def test_a_job_is_named_by_its_class_its_args_class_its_name_or_an_old_one(sandbox: JobSandbox, job: object) -> None:
    found = sandbox.assert_enqueued(job, times=1)
    assert (found.name, found.queue, found.priority) == ("claims.order", "orders", JobPriority.HIGH)
    with pytest.raises(AssertionError, match="1 job like this"):
        sandbox.assert_not_enqueued(job)


def test_a_function_job_is_named_by_itself(sandbox: JobSandbox) -> None:
    assert sandbox.assert_enqueued(report, {"number": 8, "fmt": "pdf"}).name == "claims.report"
    sandbox.assert_enqueued("claims.report", lambda args: args.number == 8)
    sandbox.assert_not_enqueued(report, {"number": 9})


def test_an_object_of_the_args_class_names_the_job_and_its_arguments(sandbox: JobSandbox) -> None:
    sandbox.assert_enqueued(Order(7, [Line("apples", 3)], {"wrap": "red"}))
    sandbox.assert_not_enqueued(Order(7))


# What is compared


@pytest.mark.parametrize(
    "args",
    [
        {},
        {"number": 7},
        {"number": ANY, "lines": [{"article": "apples"}]},
        {"lines": [Line("apples", 3)]},
        {"lines": lambda lines: len(lines) == 1},
        {"notes": {"wrap": "red"}},
        Order(ANY, [Line("apples", ANY)], ANY),
        ANY,
        lambda order: order.number > 6,
    ],
)
def test_arguments_that_fit(sandbox: JobSandbox, args: object) -> None:
    sandbox.assert_enqueued(Ship, args)
    with pytest.raises(AssertionError):
        sandbox.assert_not_enqueued(Ship, args)


@pytest.mark.parametrize(
    "args",
    [
        {"number": 8},
        {"lines": []},
        {"lines": [{"article": "pears"}]},
        {"notes": {"wrap": "blue"}},
        {"notes": {"card": "x"}},
        Order(7),
        lambda order: order.number > 7,
    ],
)
def test_arguments_that_do_not_fit(sandbox: JobSandbox, args: object) -> None:
    sandbox.assert_not_enqueued(Ship, args)
    with pytest.raises(AssertionError, match="No job like this was enqueued"):
        sandbox.assert_enqueued(Ship, args)


FITS: list[dict[str, Any]] = [
    {"queue": "orders"},
    {"queue": lambda queue: queue.startswith("o")},
    {"priority": JobPriority.HIGH},
    {"delay": 300},
    {"delay": timedelta(minutes=5)},
    {"delay": lambda delay: delay > timedelta(minutes=4)},
    {"headers": {"tenant": "a"}},
    {"headers": {"tenant": ANY, "trace": "1"}},
    {"backend": "default"},
]
DIFFERS: list[dict[str, Any]] = [
    {"queue": "default"},
    {"priority": JobPriority.LOW},
    {"delay": 0},
    {"delay": 299},
    {"run_at": None},
    {"run_at": datetime(2020, 1, 1, tzinfo=UTC)},
    {"headers": {"tenant": "b"}},
    {"headers": {"missing": "a"}},
    {"backend": "ledger"},
]


def first_key(fields: dict[str, Any]) -> str:
    return next(iter(fields))


@pytest.mark.parametrize("fields", FITS, ids=first_key)
def test_fields_that_fit(sandbox: JobSandbox, fields: dict[str, Any]) -> None:
    sandbox.assert_enqueued(Ship, **fields)
    with pytest.raises(AssertionError):
        sandbox.assert_not_enqueued(Ship, **fields)


@pytest.mark.parametrize("fields", DIFFERS, ids=first_key)
def test_fields_that_differ(sandbox: JobSandbox, fields: dict[str, Any]) -> None:
    sandbox.assert_not_enqueued(Ship, **fields)
    with pytest.raises(AssertionError, match=f"\n  {next(iter(fields))}"):
        sandbox.assert_enqueued(Ship, **fields)


def test_a_time_fits_to_the_second(sandbox: JobSandbox) -> None:
    due = sandbox.now() + timedelta(minutes=5)
    sandbox.assert_enqueued(Ship, run_at=due + timedelta(milliseconds=900))
    sandbox.assert_not_enqueued(Ship, run_at=due + timedelta(seconds=1))
    sandbox.assert_enqueued(report, run_at=None, delay=0)


class Tuple(NamedTuple):
    number: int


class Plain(TypedDict):
    number: int


class Frozen(msgspec.Struct, frozen=True):
    number: int


@attrs.define
class Attrs:
    number: int


class Model(pydantic.BaseModel):
    number: int


class Bare:
    """Nothing that arguments can be compared by but its fields: it has no `__eq__`."""

    number: int


BareData = dataclass(eq=False)(Bare)


@pytest.mark.parametrize("args_type", [Tuple, Plain, Frozen, Attrs, Model, BareData], ids=lambda each: each.__name__)
def test_arguments_of_every_kind_are_compared(anyjob_sandbox: JobSandbox, args_type: Any) -> None:
    registry = JobRegistry()

    class Job(BackgroundJob[args_type], registry=registry):
        def execute(self, args: Any) -> None: ...

    manager = JobManager({"default": lambda: pytest.fail("made")}, registry=registry)
    manager.enqueue_for(Job, args_type(number=1))
    anyjob_sandbox.assert_enqueued(Job, args_type(number=1))
    anyjob_sandbox.assert_enqueued(Job, {"number": 1})
    anyjob_sandbox.assert_not_enqueued(Job, args_type(number=2))
    anyjob_sandbox.assert_not_enqueued(Job, {"number": 2})


# Claims that could never hold, or never fail


def test_a_field_that_no_job_has_is_an_error_of_the_test(sandbox: JobSandbox) -> None:
    with pytest.raises(InvalidArgsError, match="unknown field 'numbr'.*Did you mean 'number'"):
        sandbox.assert_not_enqueued(Ship, {"numbr": 8})
    with pytest.raises(InvalidArgsError, match="unknown field 'artcle'"):
        sandbox.assert_not_enqueued(Ship, {"lines": [{"artcle": "x"}]})


def test_arguments_of_another_job_are_an_error_of_the_test(sandbox: JobSandbox) -> None:
    with pytest.raises(InvalidArgsError, match=r"claims\.order takes Order, not Line"):
        sandbox.assert_not_enqueued(Ship, Line("x"))


def test_a_name_that_no_job_has_is_an_error_of_the_test(sandbox: JobSandbox) -> None:
    with pytest.raises(UnknownJobError, match=r"Did you mean 'claims\.order'"):
        sandbox.assert_not_enqueued("claims.oder")


def test_a_class_that_is_no_job_is_an_error_of_the_test(sandbox: JobSandbox) -> None:
    with pytest.raises(UnknownJobError, match="Line is neither a job nor"):
        sandbox.assert_not_enqueued(Line)


def test_a_naive_time_and_a_count_of_none_are_errors_of_the_test(sandbox: JobSandbox) -> None:
    with pytest.raises(InvalidOptionError, match="no time zone"):
        sandbox.assert_not_enqueued(Ship, run_at=datetime(2026, 1, 1))  # noqa: DTZ001
    with pytest.raises(ValueError, match="at least 1"):
        sandbox.assert_enqueued(Ship, times=0)


# Counts, blocks, lists


def test_times_counts_what_fits(sandbox: JobSandbox) -> None:
    report.enqueue(9)
    sandbox.assert_enqueued(report, times=2)
    sandbox.assert_enqueued(report, {"number": 9}, times=1)
    with pytest.raises(AssertionError, match="2 jobs like this, not 3"):
        sandbox.assert_enqueued(report, times=3)


def test_a_block_counts_its_own(sandbox: JobSandbox) -> None:
    with sandbox.assert_enqueues(2) as block:
        report.enqueue(1)
        report.enqueue(2)
        block.assert_not_enqueued(Ship)
    with sandbox.assert_enqueues(1, report, {"number": 3}), sandbox.assert_enqueues(0, Ship):
        report.enqueue(3)
    with pytest.raises(AssertionError, match="No job like this was enqueued: any job"), sandbox.assert_enqueues(1):
        pass
    with pytest.raises(AssertionError, match="1 job like this, not 2"), sandbox.assert_enqueues(2, report):
        report.enqueue(4)
    with pytest.raises(ZeroDivisionError), sandbox.assert_enqueues(1):
        _ = 1 / 0


def test_nothing_is_nothing(anyjob_sandbox: JobSandbox) -> None:
    anyjob_sandbox.assert_nothing_enqueued()
    report.enqueue(1)
    with pytest.raises(AssertionError, match=r"No job was to be enqueued\.\nWhat was enqueued:\n  1\. claims\.report"):
        anyjob_sandbox.assert_nothing_enqueued()
    part = anyjob_sandbox.part()
    part.assert_nothing_enqueued()
    anyjob_sandbox.run()
    part.assert_ran(report, times=1)


def test_the_lists_hold_real_objects(sandbox: JobSandbox) -> None:
    first, second = sandbox.enqueued
    assert first.args == Order(7, [Line("apples", 3)], {"wrap": "red"})
    assert first.args is not first.args
    assert second.args.number == 8
    assert (first.headers["tenant"], second.delay, second.run_at) == ("a", timedelta(), None)


def test_runs_and_what_was_given_up_are_claimed_likewise(anyjob_sandbox: JobSandbox) -> None:
    anyjob_sandbox.assert_nothing_abandoned()
    Ship.enqueue(Order(-1))
    Ship.enqueue(Order(1))
    anyjob_sandbox.run_all(raises=False)
    anyjob_sandbox.assert_ran(Ship, {"number": -1}, times=2, error=ValueError)
    anyjob_sandbox.assert_ran(Ship, {"number": -1}, try_count=2, error=lambda error: "order -1" in str(error))
    anyjob_sandbox.assert_ran(Ship, error=None, times=1)
    anyjob_sandbox.assert_not_ran(Ship, {"number": 1}, error=ValueError)
    anyjob_sandbox.assert_not_ran(report)
    lost = anyjob_sandbox.assert_abandoned(Ship, Order(-1), error=ValueError, times=1)
    assert (lost.failure.tries, lost.failure.message) == (2, "no order -1")
    with pytest.raises(AssertionError, match=r"(?s)No job like this was given up.*raised ValueError: no order -1"):
        anyjob_sandbox.assert_abandoned(Ship, Order(1))
    with pytest.raises(AssertionError, match="No job was to be given up"):
        anyjob_sandbox.assert_nothing_abandoned()


# What a failure shows


def test_a_failure_shows_what_there_was_and_the_nearest_field_by_field(sandbox: JobSandbox) -> None:
    Ship.enqueue(Order(9))
    with pytest.raises(AssertionError) as failed:
        sandbox.assert_enqueued(
            Ship, Order(7, [Line("apples", 4)], {"wrap": "red"}), priority=JobPriority.LOW, delay=300
        )
    assert str(failed.value) == (
        "No job like this was enqueued: Ship, args=Order(number=7, lines=[Line(article='apples', count=4)], "
        "notes={'wrap': 'red'}), priority=LOW, delay=0:05:00\n"
        "What was enqueued:\n"
        "  1. claims.order Order(number=7, lines=[Line(article='apples', count=3)], notes={'wrap': 'red'}) "
        "queue=orders priority=HIGH due in 0:05:00\n"
        "  2. claims.report report(number=8, fmt='pdf') queue=default priority=NORMAL\n"
        "  3. claims.order Order(number=9, lines=[], notes={}) queue=orders priority=NORMAL\n"
        "The nearest is no. 1:\n"
        "  args.lines[0].count: 3, expected 4\n"
        "  priority: HIGH, expected LOW"
    )


def test_a_failure_with_nothing_near_says_so(anyjob_sandbox: JobSandbox) -> None:
    with pytest.raises(AssertionError, match=r"Nothing was enqueued\.$"):
        anyjob_sandbox.assert_enqueued(Ship)
    report.enqueue(1)
    with pytest.raises(AssertionError) as failed:
        anyjob_sandbox.assert_enqueued(Ship)
    assert "nearest" not in str(failed.value)


def test_a_long_list_is_cut(anyjob_sandbox: JobSandbox) -> None:
    get_manager().enqueue_many([report.prepare(number) for number in range(25)])
    with pytest.raises(AssertionError, match=r"\n  20\. .*\n  \.\.\. and 5 more$"):
        anyjob_sandbox.assert_nothing_enqueued()


# Any job, or one of several


def test_a_claim_by_queue_alone(sandbox: JobSandbox) -> None:
    assert sandbox.assert_enqueued(queue="orders", times=1).name == "claims.order"
    assert sandbox.assert_enqueued().name == "claims.order"
    sandbox.assert_enqueued(times=2)
    sandbox.assert_enqueued(args=lambda args: args.number == 8, times=1)
    sandbox.assert_not_enqueued(queue="mail")
    with pytest.raises(AssertionError, match="1 job like this: any job, queue='orders'"):
        sandbox.assert_not_enqueued(queue="orders")
    with pytest.raises(
        AssertionError, match=r"enqueued: any job, queue='mail', delay=none\n(.*\n)+.* no\. 2:\n  queue"
    ):
        sandbox.assert_enqueued(queue="mail", delay=0)
    with pytest.raises(InvalidOptionError, match="'Mail'"):
        sandbox.assert_not_enqueued(queue="Mail")  # which nothing could be in


def test_a_claim_over_several_kinds(sandbox: JobSandbox) -> None:
    sandbox.assert_enqueued([Ship, report], times=2)
    sandbox.assert_enqueued((Ship, "claims.report"), {"number": 8}, times=1)
    sandbox.assert_enqueued({Order, report}, queue="default", times=1)
    sandbox.assert_enqueued([Order(7, [Line("apples", 3)], {"wrap": "red"}), Order(9)], times=1)
    sandbox.assert_not_enqueued([Order(8), Order(9)])
    with sandbox.assert_enqueues(0, [Ship, report]), sandbox.assert_enqueues(0):
        pass
    with pytest.raises(AssertionError, match=r"2 jobs like this: Ship or claims\.report"):
        sandbox.assert_not_enqueued([Ship, "claims.report"])
    with pytest.raises(
        AssertionError, match=r"Ship or report, args={'number': 9}\n(.*\n)+  args\.number: 7, expected 9"
    ):
        sandbox.assert_enqueued([Ship, report], {"number": 9})
    with pytest.raises(UnknownJobError, match="claims.repo"):
        sandbox.assert_not_enqueued([Ship, "claims.repo"])
    with pytest.raises(InvalidOptionError, match="names no job"):
        sandbox.assert_not_enqueued([])


def test_a_named_tuple_is_arguments_and_not_several_jobs(anyjob_sandbox: JobSandbox) -> None:
    registry = JobRegistry()

    class Job(BackgroundJob[Tuple], registry=registry):
        def execute(self, args: Tuple) -> None: ...

    JobManager({"default": lambda: pytest.fail("made")}, registry=registry).enqueue(Tuple(1))
    anyjob_sandbox.assert_enqueued(Tuple(1))
    anyjob_sandbox.assert_not_enqueued(Tuple(2))


def test_blocks_count_by_queue(sandbox: JobSandbox) -> None:
    with sandbox.assert_enqueues(2, queue="reports"):
        report.using(queue="reports").enqueue(1)
        report.enqueue(2)
        report.using(queue="reports").enqueue(3)


def test_claims_about_runs_of_any_job(sandbox: JobSandbox) -> None:
    sandbox.assert_not_ran()
    sandbox.run()
    sandbox.receive("claims.order", {"number": "not one"})
    sandbox.run_all(raises=False)
    sandbox.assert_ran(error=None, times=2)
    sandbox.assert_abandoned(error=InvalidArgsError)
    with pytest.raises(AssertionError, match="args: undecodable"):
        sandbox.assert_abandoned(args={"number": 1})
