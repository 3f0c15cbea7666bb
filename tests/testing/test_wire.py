"""The wire snapshot: which changes of a job would break what is queued, and how that is told."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, make_dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Optional, Union
from uuid import UUID

import msgspec
import pydantic
import pytest

from anyjob import BackgroundJob, JobRegistry, background_job, job_name
from anyjob.testing import assert_wire_unbroken

Fields = list[Any]


def registry_of(
    fields: Any, *, name: str = "shop.mail", aliases: tuple[str, ...] = (), upgrades: Any = None
) -> JobRegistry:
    registry = JobRegistry()
    args = make_dataclass("Mail", fields) if isinstance(fields, list) else fields
    steps = upgrades or {}

    args = job_name(name, aliases=aliases)(args)

    class Job(BackgroundJob[args], registry=registry):  # type: ignore[valid-type]
        upgrades = steps

        def execute(self, args: Any) -> None: ...

    return registry


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("CI", raising=False)
    return tmp_path / "wire.json"


def change(path: Path, before: Any, after: Any, **options: Any) -> None:
    assert_wire_unbroken(path, registry=registry_of(before))
    assert_wire_unbroken(path, registry=registry_of(after, **options))


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class FewerColours(Enum):
    RED = "red"


@dataclass
class Line:
    article: str


@dataclass
class CountedLine:
    article: str
    count: int


@dataclass
class Tree:
    value: int
    children: list[Tree] = field(default_factory=list)


@dataclass
class TextTree:
    value: str
    children: list[TextTree] = field(default_factory=list)


@dataclass
class NothingNeeded:
    a: int = 0


class Cat(msgspec.Struct, tag=True):
    name: str


class Dog(msgspec.Struct, tag=True):
    name: str


class Coordinates(NamedTuple):
    x: int
    y: int


class LessCoordinates(NamedTuple):
    x: int


Short = Annotated[str, msgspec.Meta(max_length=10)]
Worded = Annotated[str, pydantic.Field(pattern="a")]
Shorter = Annotated[str, msgspec.Meta(max_length=5)]
Long = Annotated[str, msgspec.Meta(max_length=20)]


def one(kind: Any) -> Fields:
    return [("it", kind)]


def model(kind: Any, extra: Literal["allow", "ignore", "forbid"] = "ignore") -> Fields:
    return one(pydantic.create_model("Inner", __config__={"extra": extra}, it=(kind, ...)))


def amount(kind: Any) -> Fields:
    return one(pydantic.dataclasses.dataclass(make_dataclass("Amount", [("it", kind)])))


def of(kind: Any, **limits: Any) -> Any:
    return Annotated[kind, msgspec.Meta(**limits)]


def pydantic_of(kind: Any, **limits: Any) -> Any:
    return Annotated[kind, pydantic.Field(**limits)]


OPEN_FIELDS = "takes no further fields, and what waits in them would be ignored"


BREAKS: list[tuple[Any, Any, str]] = [
    (
        [("to", str), ("subject", str, "")],
        [("to", str)],
        "args.subject: is gone, and what waits in it would be ignored",
    ),
    ([("to", str)], [("to", str), ("from_", str)], "args.from_: is new and has no default"),
    ([("to", str, "")], [("to", str)], "args.to: lost its default"),
    ([("to", str)], [("address", str)], "args.to: is gone"),
    (one(str), one(int), "args.it: was string, is integer"),
    (one(float), one(int), "args.it: was number, is integer"),
    (one(str), one(datetime), "args.it: format was none, is date-time"),
    (one(Optional[str]), one(str), "args.it: null is no longer accepted"),  # noqa: UP045
    (one(str | int), one(str), "args.it: integer is no longer accepted"),
    (one(list[str]), one(list[int]), "args.it[...]: was string, is integer"),
    (one(dict[str, str]), one(dict[str, int]), "args.it[...]: was string, is integer"),
    (one(tuple[int, str]), one(tuple[int, int]), "args.it[1]: was string, is integer"),
    (one(Colour), one(FewerColours), "args.it: was one of 'blue', 'red', is one of 'red'"),
    (one(Literal["a", "b"]), one(Literal["a"]), "args.it: was one of 'a', 'b', is one of 'a'"),
    (one(str), one(Colour), "args.it: was string, is one of 'blue', 'red'"),
    (one(Short), one(Shorter), "args.it: maxLength was 10, is 5"),
    (one(str), one(Short), "args.it: maxLength was none, is 10"),
    (one(list[Line]), one(list[CountedLine]), "args.it[...].count: is new and has no default"),
    (one(Line | None), one(CountedLine | None), "args.it: object is no longer accepted"),
    (one(Any), one(str), "args.it: was anything, is string"),
    (one(datetime), one(time), "args.it: format was date-time, is time"),
    (one(bytes), one(str), "args.it: contentEncoding was base64, is none"),
    (one(Tree), one(TextTree), "args.it.value: was integer, is string"),
    (Tree, TextTree, "args.value: was integer, is string"),
    (one(Cat | Dog), one(Cat), "args.it: object is no longer accepted"),
    (Coordinates, LessCoordinates, "args: maxItems was 2, is 1"),
    # keys
    (one(dict[str, int]), one(dict[int, int]), "args.it[key]: was string, is integer"),
    (one(dict[Any, int]), one(dict[int, int]), "args.it[key]: was string, is integer"),
    (one(dict[str, int]), one(dict[UUID, int]), "args.it[key]: format was none, is uuid"),
    (one(dict[Colour, int]), one(dict[FewerColours, int]), "args.it[key]: was one of 'blue', 'red', is one of 'red'"),
    (one(dict[str, int]), one(dict[Short, int]), "args.it[key]: maxLength was none, is 10"),
    (one(dict[str, int]), one(of(dict[str, int], max_length=3)), "args.it: maxProperties was none, is 3"),
    (model(dict[str, int]), model(dict[int, int]), "args.it.it[key]: was string, is integer"),
    (model(dict[str, int]), model(dict[Worded, int]), "args.it.it[key]: pattern was none, is a"),
    (model(dict[Colour, int]), model(dict[FewerColours, int]), "args.it.it[key]: was one of"),
    # metadata
    (one(datetime), one(of(datetime, tz=True)), "args.it: tz was none, is True"),
    (one(of(datetime, tz=False)), one(of(datetime, tz=True)), "args.it: tz was False, is True"),
    (one(time), one(of(time, tz=False)), "args.it: tz was none, is False"),
    (one(of(int, ge=1)), one(of(int, ge=2)), "args.it: minimum was 1, is 2"),
    (one(of(float, lt=2)), one(of(float, lt=1)), "args.it: exclusiveMaximum was 2"),
    (one(int), one(of(int, multiple_of=2)), "args.it: multipleOf was none, is 2"),
    (one(of(str, pattern="a")), one(of(str, pattern="b")), "args.it: pattern was a, is b"),
    (one(list[int]), one(of(list[int], min_length=1)), "args.it: minItems was none, is 1"),
    (one(list[int]), one(set[int]), "args.it: uniqueItems was none, is True"),
    (model(int), model(pydantic_of(int, gt=1)), "args.it.it: exclusiveMinimum was none, is 1"),
    (model(datetime), model(pydantic.AwareDatetime), "args.it.it: tz was none, is aware"),
    (model(datetime), model(pydantic.FutureDatetime), "args.it.it: now was none, is future"),
    (model(date), model(pydantic_of(date, ge=date(2026, 1, 1))), "args.it.it: minimum was none, is 2026-01-01"),
    (
        model(pydantic_of(timedelta, le=timedelta(hours=2))),
        model(pydantic_of(timedelta, le=timedelta(hours=1))),
        "args.it.it: maximum was 7200.0, is 3600.0",
    ),
    (model(Decimal), model(pydantic_of(Decimal, decimal_places=2)), "args.it.it: decimalPlaces was none, is 2"),
    (model(pydantic_of(Decimal, ge=2)), model(pydantic_of(Decimal, ge=10)), "args.it.it: minimum was 2, is 10"),
    (amount(int), amount(pydantic_of(int, gt=1)), "args.it.it: exclusiveMinimum was none, is 1"),
    # further fields
    (model(int, "allow"), model(int), f"args.it: {OPEN_FIELDS}"),
    (model(int, "allow"), model(int, "forbid"), f"args.it: {OPEN_FIELDS}"),
    (one(dict[str, int]), one(NothingNeeded), f"args.it: {OPEN_FIELDS}"),
]
KEEPS: list[tuple[Any, Any]] = [
    ([("to", str)], [("to", str), ("subject", str, "")]),
    ([("to", str)], [("to", str, "")]),
    (one(int), one(float)),
    (one(datetime), one(str)),
    (one(str), one(str | None)),
    (one(str | int), one(Union[int, str, None])),  # noqa: UP007
    (one(FewerColours), one(Colour)),
    (one(Literal["a"]), one(str)),
    (one(Shorter), one(Long)),
    (one(Short), one(str)),
    (one(str), one(Any)),
    (one(list[Line]), one(list[Line])),
    (one(Path), one(str)),
    (Tree, Tree),
    (one(Cat), one(Cat | Dog)),
    (one(dict[int, int]), one(dict[str, int])),
    (one(dict[str, int]), one(dict[str, float])),
    (one(dict[UUID, int]), one(dict[UUID, int])),
    (one(dict[str, int]), one(dict[Any, int])),
    (one(of(datetime, tz=True)), one(datetime)),
    (one(of(int, ge=2)), one(of(int, ge=1))),
    (one(set[int]), one(list[int])),
    (model(pydantic.AwareDatetime), model(datetime)),
    (model(pydantic_of(Decimal, ge=10)), model(pydantic_of(Decimal, ge=2))),
    (model(dict[int, int]), model(dict[str, int])),
    (amount(pydantic_of(int, gt=2)), amount(pydantic_of(int, gt=1))),
    (model(int), model(int, "allow")),
    (model(int, "allow"), model(int, "allow")),
    (model(int), model(int, "forbid")),
]


@pytest.mark.parametrize(("before", "after", "told"), BREAKS, ids=[told for _, _, told in BREAKS])
def test_a_change_that_breaks_queued_jobs_is_told(path: Path, before: Any, after: Any, told: str) -> None:
    with pytest.raises(AssertionError) as failed:
        change(path, before, after)
    assert f"shop.mail: {told}" in str(failed.value)
    assert "aliases=[...]" in str(failed.value)
    assert "delete its entry in wire.json" in str(failed.value)


@pytest.mark.parametrize(("before", "after"), KEEPS, ids=range(len(KEEPS)))
def test_a_change_that_keeps_them_readable_passes_and_is_written_down(path: Path, before: Any, after: Any) -> None:
    change(path, before, after)
    written = path.read_text()
    assert_wire_unbroken(path, registry=registry_of(after))
    assert path.read_text() == written


def test_a_rename_needs_an_alias(path: Path) -> None:
    fields = [("to", str)]
    with pytest.raises(AssertionError, match="shop.mail: no job has this name or alias"):
        change(path, fields, fields, name="shop.letter")
    assert_wire_unbroken(path, registry=registry_of(fields, name="shop.letter", aliases=("shop.mail",)))
    assert set(json.loads(path.read_text())) == {"shop.letter", "shop.mail"}
    with pytest.raises(AssertionError, match="shop.mail: no job has this name"):
        assert_wire_unbroken(path, registry=registry_of(fields, name="shop.letter"))


def test_a_step_makes_a_break_deliberate(path: Path) -> None:
    def rename(args: dict[str, Any]) -> dict[str, Any]:
        return {"address": args["to"]}

    change(path, [("to", str)], [("address", str)], upgrades={1: rename})
    assert json.loads(path.read_text())["shop.mail"]["version"] == 1
    with pytest.raises(AssertionError, match="had version 1, and have 0: steps of `upgrades` are gone"):
        assert_wire_unbroken(path, registry=registry_of([("address", str)]))
    with pytest.raises(AssertionError, match="args.address: is gone"):  # the step is used up
        assert_wire_unbroken(path, registry=registry_of([("to", str)], upgrades={1: rename}))
    with pytest.raises(AssertionError, match="the step from version 1 to 2 is gone"):
        assert_wire_unbroken(path, registry=registry_of([("to", str)], upgrades={3: rename}))


def test_in_ci_a_snapshot_that_is_not_up_to_date_fails(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    with pytest.raises(AssertionError, match=r"not up to date \(shop\.mail\).*commit"):
        assert_wire_unbroken(path, registry=registry_of([("to", str)]))
    assert not path.exists()
    monkeypatch.delenv("CI")
    assert_wire_unbroken(path, registry=registry_of([("to", str)]))
    monkeypatch.setenv("CI", "true")
    assert_wire_unbroken(path, registry=registry_of([("to", str)]))
    with pytest.raises(AssertionError, match="not up to date"):
        assert_wire_unbroken(path, registry=registry_of([("to", str), ("subject", str, "")]))


def test_words_about_a_job_are_no_part_of_its_messages(path: Path) -> None:
    def model(text: str) -> type[pydantic.BaseModel]:
        return pydantic.create_model("Mail", __doc__=text, title=(str, pydantic.Field(description=text)))

    change(path, model("one"), model("two"))
    assert "title" in json.loads(path.read_text())["shop.mail"]["args"]["properties"]
    with pytest.raises(AssertionError, match=r"args\.title: is gone"):
        assert_wire_unbroken(path, registry=registry_of(pydantic.create_model("Mail", name=(str, ""))))


def test_a_pydantic_model_inside_of_other_arguments_is_looked_into(path: Path) -> None:
    class Inner(pydantic.BaseModel):
        number: int

    class Outer(pydantic.BaseModel):
        inner: Inner

    class TextInner(pydantic.BaseModel):
        number: str

    class TextOuter(pydantic.BaseModel):
        inner: TextInner

    with pytest.raises(AssertionError, match=r"args\.it\.inner\.number: was integer, is string"):
        change(path, one(Outer), one(TextOuter))


def test_the_jobs_of_named_packages_count(path: Path) -> None:
    registry = registry_of([("to", str)])

    def elsewhere() -> None: ...

    elsewhere.__module__ = "shop.jobs"
    background_job("shop.other", registry=registry)(elsewhere)
    assert_wire_unbroken(path, registry=registry, packages=["shop"])
    assert set(json.loads(path.read_text())) == {"shop.other"}


def test_the_default_registry_is_the_default(path: Path) -> None:
    assert_wire_unbroken(path, packages=["nowhere"])
    assert not path.exists()  # nothing to write down
