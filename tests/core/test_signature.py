"""A function's signature is what travels: every argument under its name."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, cast

import msgspec
import pytest

from anyjob import (
    BackgroundJob,
    FunctionJob,
    InvalidArgsError,
    InvalidOptionError,
    JobDefinitionError,
    JobEnvelope,
    JobManager,
    JobPriority,
    JobRegistry,
    UnknownJobError,
    background_job,
    default_registry,
    override,
)
from anyjob.testing import FakeClock

ran: list[object] = []


@pytest.fixture(autouse=True)
def _in_force(manager: JobManager) -> Iterator[None]:
    ran.clear()
    with override(manager):
        yield


Decorate = Callable[[Callable[..., Any]], FunctionJob[..., Any]]


@pytest.fixture
def job(registry: JobRegistry) -> Decorate:
    return background_job("fn", registry=registry)


def args_of(envelope: JobEnvelope) -> object:
    return msgspec.json.decode(envelope.args)


def report(report_id: int, fmt: str = "pdf", *, copies: int = 1) -> tuple[int, str, int]:
    """Build it."""
    ran.append((report_id, fmt, copies))
    return report_id, fmt, copies


# On the wire


@pytest.mark.parametrize(
    ("call", "written"),
    [
        (lambda job: job.prepare(7), {"report_id": 7, "fmt": "pdf", "copies": 1}),
        (lambda job: job.prepare(7, "csv", copies=2), {"report_id": 7, "fmt": "csv", "copies": 2}),
        (lambda job: job.prepare(copies=2, report_id=7), {"report_id": 7, "fmt": "pdf", "copies": 2}),
        (lambda job: job.using(priority=JobPriority.LOW).prepare(7), {"report_id": 7, "fmt": "pdf", "copies": 1}),
    ],
)
def test_every_argument_travels_under_its_name(
    job: Decorate, call: Callable[..., JobEnvelope], written: object
) -> None:
    assert args_of(call(job(report))) == written


def test_plain_data_gets_the_defaults_too(job: Decorate, manager: JobManager) -> None:
    job(report)

    manager.enqueue_by_name("fn", {"report_id": 7})
    manager.drain()

    assert ran == [(7, "pdf", 1)]
    with pytest.raises(InvalidArgsError, match=r"unknown field 'format' at `\$`"):
        manager.enqueue_by_name("fn", {"report_id": 7, "format": "csv"})


def test_the_worker_calls_it_with_what_was_given(job: Decorate, manager: JobManager) -> None:
    job(report).enqueue(7, "csv", copies=3)
    manager.drain()

    assert ran == [(7, "csv", 3)]


def test_mutable_defaults_are_copied_for_every_run(job: Decorate, manager: JobManager) -> None:
    def collect(item: int, into: list[int] = [], seen: set[int] = set(), by: dict[str, list[int]] = {"a": []}) -> None:  # noqa: B006
        into.append(item)
        by["a"].append(item)
        ran.append((into, seen, by))

    collecting = job(collect)
    for item in (1, 2):
        collecting.enqueue(item)
    manager.drain()

    assert ran == [([1], set(), {"a": [1]}), ([2], set(), {"a": [2]})]
    assert args_of(collecting.prepare(3)) == {"item": 3, "into": [], "seen": [], "by": {"a": []}}


def test_a_function_without_parameters(job: Decorate, manager: JobManager) -> None:
    def tick() -> None:
        ran.append("tick")

    ticking = job(tick)
    assert args_of(ticking.prepare()) == {}
    ticking.enqueue()
    manager.drain()

    assert ran == ["tick"]


def test_parameters_without_annotation_take_any_json(job: Decorate, manager: JobManager) -> None:
    def take(thing, other=None):  # type: ignore[no-untyped-def]
        ran.append((thing, other))

    job(take).enqueue({"a": [1]}, other="x")
    manager.drain()

    assert ran == [({"a": [1]}, "x")]


def test_names_that_the_library_uses_too(job: Decorate, manager: JobManager) -> None:
    def take(name: str, args: int, job: int, delay: int, options: int, function: int) -> None:
        ran.append((name, args, job, delay, options, function))

    job(take).enqueue("n", args=1, job=2, delay=3, options=4, function=5)
    manager.drain()

    assert ran == [("n", 1, 2, 3, 4, 5)]


# Annotations


def send(message: Message, at: datetime | None = None) -> None:
    ran.append((message, at))


def test_annotations_may_name_what_is_defined_further_down(job: Decorate, manager: JobManager) -> None:
    moment = datetime(2026, 1, 1, tzinfo=UTC)

    job(send).enqueue(Message("hi"), at=moment)
    manager.drain()

    assert ran == [(Message("hi"), moment)]


@dataclass
class Message:
    text: str


def test_annotations_that_nobody_can_resolve_are_refused_on_first_use(job: Decorate) -> None:
    def send(message: Nowhere) -> None: ...  # type: ignore[name-defined]  # noqa: F821

    sending = job(send)

    with pytest.raises(JobDefinitionError, match=r"send .*'Nowhere' is not defined.* not only under TYPE_CHECKING"):
        sending.enqueue(1)


# Refused at decoration


def variable(*parts: int) -> None: ...
def keywords(**parts: int) -> None: ...
def positional(part: int, /) -> None: ...


@pytest.mark.parametrize(
    ("function", "told"),
    [
        (variable, "variable arguments 'parts'"),
        (keywords, "variable keyword arguments 'parts'"),
        (positional, "the positional-only parameter 'part'"),
    ],
)
def test_what_has_no_name_is_refused_at_decoration(
    job: Decorate, registry: JobRegistry, function: Callable[..., None], told: str
) -> None:
    place = rf"{__name__}\.{function.__name__} \(.*test_signature\.py:\d+\)"

    with pytest.raises(JobDefinitionError, match=f"{place}: {told} .* every argument travels under its name"):
        job(function)
    assert list(registry) == []


@pytest.mark.parametrize("thing", [functools.partial(report, 1), Message, 7], ids=["partial", "class", "number"])
def test_what_is_no_function_is_refused(job: Decorate, thing: Any) -> None:
    with pytest.raises(JobDefinitionError, match="is no function: a job is one, or a class with an `execute`"):
        job(thing)


# Wrong calls


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda job: job.enqueue(), r"report\(\): .*'report_id'"),
        (lambda job: job.enqueue(1, "pdf", 2), r"report\(\) takes 2 positional arguments; 3 given"),
        (lambda job: job.enqueue(1, format="csv"), r"report\(\): .*'format'"),
        (lambda job: job.enqueue(1, report_id=1), r"report\(\): .*multiple values .*'report_id'"),
        (lambda job: job.enqueue("seven"), r"report: Expected `int`, got `str` - at `\$\.report_id`"),
        (lambda job: job.enqueue(1, copies=None), r"report: Expected `int`, got `null` - at `\$\.copies`"),
        (lambda job: job.prepare(1, fmt=2), r"at `\$\.fmt`"),
        (lambda job: job.using(delay=1).enqueue("x"), r"at `\$\.report_id`"),
    ],
)
def test_wrong_calls_are_refused(
    job: Decorate, manager: JobManager, call: Callable[[FunctionJob[..., Any]], object], told: str
) -> None:
    with pytest.raises(InvalidArgsError, match=told):
        call(job(report))
    assert manager.drain() == 0


def test_options_are_checked(job: Decorate) -> None:
    using = cast("Callable[..., FunctionJob[..., Any]]", job(report).using)

    with pytest.raises(InvalidOptionError, match=r"no option 'dealy'\. Did you mean 'delay'\?"):
        using(dealy=3).prepare(1)


def test_a_default_that_does_not_fit_is_refused_when_it_is_used(job: Decorate) -> None:
    def wrong(count: int = "many") -> None: ...  # type: ignore[assignment]

    with pytest.raises(InvalidArgsError, match=r"Expected `int`, got `str` - at `\$\.count`"):
        job(wrong).enqueue()


# It stays a function


def test_a_plain_call_stays_a_plain_call(job: Decorate, manager: JobManager) -> None:
    building = job(report)

    assert building(1, "csv", copies=2) == (1, "csv", 2)
    assert (building.__name__, building.__doc__, building.__module__) == ("report", "Build it.", __name__)  # type: ignore[attr-defined]
    assert building.__wrapped__ is report  # type: ignore[attr-defined]
    assert manager.drain() == 0


def test_a_decorated_function_keeps_its_signature(job: Decorate) -> None:
    def doubled(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            return function(*args, **kwargs), function(*args, **kwargs)

        return call

    assert args_of(job(doubled(report)).prepare(1)) == {"report_id": 1, "fmt": "pdf", "copies": 1}


def test_a_function_in_no_registry_can_still_be_called() -> None:
    alone = background_job(registry=None)(report)

    assert alone(1) == (1, "pdf", 1)
    with pytest.raises(UnknownJobError, match="is not in this registry"):
        alone.enqueue(1)


@background_job
def bare(number: int) -> int:
    return number


def test_the_decorator_works_bare() -> None:
    assert bare(3) == 3
    configuration = default_registry.get(f"{__name__}.bare")
    assert configuration.args_type(number=3).number == 3


def test_async_functions(job: Decorate, manager: JobManager, registry: JobRegistry) -> None:
    async def fetch(url: str) -> str:
        await asyncio.sleep(0)
        ran.append(url)
        return url

    fetching = job(fetch)
    assert registry.get("fn").is_async
    assert asyncio.run(cast("Any", fetching("plain"))) == "plain"

    async def enqueue() -> list[str]:
        waiting: list[Awaitable[str]] = [fetching.aenqueue("a"), fetching.using(priority=JobPriority.LOW).aenqueue("b")]
        return [await each for each in waiting]

    ids = asyncio.run(enqueue())
    manager.drain()

    assert len(set(ids)) == 2
    assert ran == ["plain", "a", "b"]


def test_using_changes_one_run(job: Decorate, manager: JobManager, clock: FakeClock) -> None:
    building = job(report)
    building.using(delay=60).enqueue(1)
    building.enqueue(2)

    assert manager.drain() == 1
    clock.travel(60)
    assert manager.drain() == 1
    assert ran == [(2, "pdf", 1), (1, "pdf", 1)]


def test_a_method_is_refused() -> None:
    with pytest.raises(JobDefinitionError, match="a method can't be a job"):

        class Shop:
            @background_job("shop.close", registry=None)
            def close(self, number: int) -> None: ...


def typed_for_checkers(number: int) -> NowhereToBeFound:  # type: ignore[name-defined]  # noqa: F821
    ran.append(number)


@functools.wraps(typed_for_checkers)
def wrapped(*args: Any, **kwargs: Any) -> Any:
    return typed_for_checkers(*args, **kwargs)


@pytest.mark.parametrize("function", [typed_for_checkers, wrapped])
def test_what_a_function_returns_need_not_be_importable(job: Decorate, manager: JobManager, function: Any) -> None:
    job(function).enqueue(3)
    assert manager.drain() == 1
    assert ran == [3]
    with pytest.raises(InvalidArgsError, match=r"Expected `int`, got `str`"):
        job(function).enqueue("three")


@pytest.mark.parametrize("name", ["delay", "apply_async", "send", "send_with_options"])
def test_what_other_libraries_call_it_leads_to_enqueue(job: Decorate, name: str) -> None:
    class Send(BackgroundJob[int], registry=None):
        def execute(self, args: int) -> None: ...

    for each in (job(report), Send, Send()):
        assert not hasattr(each, name)
        with pytest.raises(AttributeError, match=rf"no \.{name}\(.*: call \.enqueue\(.*\.using\(delay=60"):
            getattr(each, name)


def test_a_job_may_have_a_field_of_such_a_name() -> None:
    class Send(BackgroundJob[int], registry=None):
        send = "mine"

        def __init__(self) -> None:
            self.delay = 5

        def execute(self, args: int) -> None: ...

    assert (Send().delay, Send.send) == (5, "mine")
