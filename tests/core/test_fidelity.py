"""Arguments arrive as they were given, with the same types, or the enqueue says why not, and where."""

from __future__ import annotations

import math
import re
import threading
from collections import OrderedDict, defaultdict, deque
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, make_dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Generic, Literal, NamedTuple, TypedDict, TypeVar, Unpack
from uuid import UUID, uuid4
from zoneinfo import ZoneInfo

import attrs
import msgspec
import pydantic
import pytest
from pydantic import AliasChoices, AliasPath, BaseModel, ConfigDict, Field, PrivateAttr, SecretStr, field_serializer

from anyjob import InvalidArgsError, JobId, JobManager, JobRegistry, JsonJobSerializer, background_job, override

T = TypeVar("T")
MOMENT = datetime(2026, 1, 2, 3, 4, 5, 6)  # noqa: DTZ001  # naive: it stays so
BERLIN = ZoneInfo("Europe/Berlin")
HAS_NAMES = "by_name" in BaseModel.model_validate_json.__code__.co_varnames  # since pydantic 2.11


class Colour(Enum):
    RED = "red"


class Status(StrEnum):
    PAID = "paid"


class Level(IntEnum):
    HIGH = 3


class Markup(str):
    __slots__ = ()


class Stamp(datetime):
    """As pendulum's, or freezegun's."""


class OwnId(UUID):
    """As asyncpg's."""


@dataclass
class Base:
    a: int = 1


@dataclass
class Child(Base):
    b: int = 2


class BaseStruct(msgspec.Struct):
    a: int = 1


class ChildStruct(BaseStruct):
    b: int = 2


class PlainModel(BaseModel):
    a: int = 1


class ChildModel(PlainModel):
    b: int = 2


class Pair(NamedTuple):
    a: int
    b: Decimal


class Row(TypedDict, total=False):
    a: int


@dataclass
class Box(Generic[T]):
    it: T


@attrs.define
class Private:
    _a: int = 0


@dataclass
class Counts:
    n: int = 0

    def __post_init__(self) -> None:
        self.n += 1


def trip(args: Any, args_type: Any = None) -> Any:
    serializer = JsonJobSerializer()
    args_type = args_type or type(args)
    return serializer.deserialize(serializer.serialize(args, args_type), args_type)


def holder(declared: Any, value: Any) -> Any:
    return make_dataclass("Holder", [("it", declared)])(value)


def model(declared: Any, value: Any, **config: Unpack[ConfigDict]) -> Any:
    return pydantic.create_model("Holder", __config__=config, it=(declared, ...))(it=value)


def refusal(args: Any, args_type: Any = None) -> str:
    with pytest.raises(InvalidArgsError) as caught:
        trip(args, args_type)
    return str(caught.value)


# Untyped places


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (Decimal("1.5"), "`Decimal` would arrive as `str` - at `$.it`. Declare it as `Decimal` alone, or pass `str`."),
        (MOMENT, "`datetime` would arrive as `str`"),
        (date(2026, 1, 2), "`date` would arrive as `str`"),
        (timedelta(1), "`timedelta` would arrive as `str`"),
        (UUID(int=1), "`UUID` would arrive as `str`"),
        (b"x", "`bytes` would arrive as `str`"),
        (Colour.RED, "`Colour` would arrive as `str` - at `$.it`. Declare `Colour`, or pass its value."),
        (Status.PAID, "`Status` would arrive as `str` - at `$.it`. Declare `Status`, or pass its value."),
        (Path("x"), "`PosixPath` would arrive as `str`"),
        ({1, 2}, "`set` would arrive as `list`"),
        (frozenset({1}), "`frozenset` would arrive as `list`"),
        ({1: "a"}, "`int` would arrive as `str` - at `key` in `$.it`. Keys are strings in JSON: declare it as `dict[i"),
        ({"a": [0, {"b": Decimal(1)}]}, "`Decimal` would arrive as `str` - at `$.it.a[1].b`"),
        (Base(), "`Base` would arrive as `dict`"),
        (Pair(1, Decimal(1)), "`Pair` would arrive as `list`"),
        (Markup("x"), "`Markup` would arrive as `str` - at `$.it`. A subclass won't do"),
        (OrderedDict(a=1), "`OrderedDict` would arrive as `dict`"),
    ],
    ids=repr,
)
def test_what_json_cannot_say_where_no_type_is_declared_is_refused(
    registry: JobRegistry, manager: JobManager, value: Any, told: str
) -> None:
    @background_job("take", registry=registry)
    def take(it): ...  # type: ignore[no-untyped-def]

    assert told in refusal(holder(Any, value))
    with override(manager), pytest.raises(InvalidArgsError, match=re.escape(told)):
        take.enqueue(value)


@pytest.mark.parametrize(
    ("declared", "value"),
    [(dict, {"a": b"x"}), (list, [UUID(int=1)]), (dict[str, Any], {"a": MOMENT}), (tuple, (Colour.RED,))],
    ids=repr,
)
def test_bare_containers_are_untyped_places_too(declared: Any, value: Any) -> None:
    assert "would arrive as `str` - at `$.it" in refusal(holder(declared, value))
    assert "would arrive as `str` - at `$.it" in refusal(model(declared, value))


@pytest.mark.parametrize("declared", [Any, list, list[int], Sequence[int]], ids=str)
def test_a_tuple_may_arrive_as_a_list(declared: Any) -> None:
    assert trip(holder(declared, (1, 2))).it == [1, 2]


# Places of another type


@pytest.mark.parametrize(
    ("declared", "value", "told"),
    [
        (str, UUID(int=1), "`UUID` would arrive as `str`"),
        (str, Status.PAID, "`Status` would arrive as `str`"),
        (int, Level.HIGH, "`Level` would arrive as `int`"),
        (UUID, str(UUID(int=1)), "`str` would arrive as `UUID`"),
        (UUID, OwnId(int=1), "`OwnId` would arrive as `UUID`"),
        (datetime, MOMENT.isoformat(), "`str` would arrive as `datetime`"),
        (datetime, Stamp(2026, 1, 1), "`Stamp` would arrive as `datetime` - at `$.it`. A subclass won't do"),
        (Decimal, 1.5, "`float` would arrive as `Decimal`"),
        (float, 2**53 + 1, "`int` is too large for a `float` - at `$.it`."),
        (tuple[int, ...], [1], "`list` would arrive as `tuple`"),
        (set[int], frozenset({1}), "`frozenset` would arrive as `set`"),
        (AbstractSet[int], frozenset({1}), "`frozenset` would arrive as `set`"),
        (dict[str, int], defaultdict(int, a=1), "`defaultdict` would arrive as `dict`"),
        (Base, {"a": 1}, "`dict` would arrive as `Base`"),
        (Base, {"a": 1, "unknown": 2}, "`dict` would arrive as `Base`"),
        (Base, BaseStruct(), "`BaseStruct` would arrive as `Base`"),
        (Row, {"a": 1, "unknown": 2}, "it would be lost - at `$.it.unknown`. No such key is declared."),
        (Box, Box(Decimal(1)), "`Decimal` would arrive as `str` - at `$.it.it`"),
        (Private, Private(3), "it would arrive with another value - at `$.it._a`"),
        (Counts, Counts(), "it would arrive with another value - at `$.it.n`"),
    ],
    ids=repr,
)
def test_what_would_be_read_as_another_type_is_refused(declared: Any, value: Any, told: str) -> None:
    assert told in refusal(holder(declared, value))


def test_an_int_may_arrive_as_the_float_that_equals_it_and_a_job_id_as_text() -> None:
    assert trip(holder(float, 3)).it == 3.0
    arrived = trip(holder(str, JobId("x", "main"))).it
    assert (type(arrived), arrived) == (str, "x")
    assert trip({"it": [JobId("x", "main")]}, Any) == {"it": ["x"]}


@pytest.mark.parametrize(("base", "child"), [(Base, Child()), (BaseStruct, ChildStruct()), (PlainModel, ChildModel())])
def test_a_subclass_is_refused_where_its_base_is_declared(base: Any, child: Any) -> None:
    told = f"`{type(child).__qualname__}` would arrive as `{base.__qualname__}` - at `$.it"
    places = [(base, child), (list[base], [child]), (dict[str, base], {"k": child}), (tuple[base, int], (child, 1))]
    for declared, value in [*places, (base | None, child)]:
        assert told in refusal(holder(declared, value))
        if base is not BaseStruct:  # of which pydantic knows nothing
            assert told in refusal(model(declared, value))


@pytest.mark.parametrize(
    "value",
    [
        MOMENT.replace(tzinfo=timezone(timedelta(hours=1, seconds=30))),
        datetime(1900, 1, 1, tzinfo=ZoneInfo("Europe/Amsterdam")),
        time(1, 2, tzinfo=timezone(timedelta(seconds=3601))),
        time(1, 2, tzinfo=BERLIN),
    ],
    ids=str,
)
def test_what_json_cannot_say_of_a_time_zone_is_refused(value: Any) -> None:
    assert re.search(
        r"its (UTC offset|`fold`) would be lost - at `\$\.it`.* use UTC", refusal(holder(type(value), value))
    )
    if type(value) is datetime and value.tzinfo:
        assert "its UTC offset would be lost" in refusal(model(datetime, value))


@pytest.mark.parametrize(
    "moment", [datetime(2026, 7, 1, tzinfo=BERLIN), datetime(2026, 10, 25, 2, 30, tzinfo=BERLIN, fold=1)]
)
def test_a_datetime_arrives_with_its_instant_and_its_offset(moment: datetime) -> None:
    for args in (holder(datetime, moment), model(datetime, moment)):
        arrived = trip(args).it
        assert arrived.astimezone(UTC) == moment.astimezone(UTC)
        assert arrived.utcoffset() == moment.utcoffset()


# pydantic


@pytest.mark.parametrize(
    ("declared", "value"),
    [
        (str | UUID, UUID(int=1)),
        (Decimal | str, Decimal("1.50")),
        (float | Decimal, Decimal("1.5")),
        (datetime | str, MOMENT),
        (int | str, "1"),
        (deque[int], deque([1])),
        (frozenset[int], frozenset({1})),
        (pydantic.AnyUrl, pydantic.AnyUrl("http://a.b/")),
        (Decimal, Decimal("1.00")),
    ],
    ids=repr,
)
def test_a_model_keeps_types_that_pydantic_can_tell_apart(declared: Any, value: Any) -> None:
    arrived = trip(model(declared, value)).it
    assert type(arrived) is type(value)
    assert arrived == value


def test_nan_in_a_model_that_writes_it_as_text() -> None:
    assert math.isnan(trip(model(float, math.nan, ser_json_inf_nan="strings")).it)
    assert "nan can't be written as JSON - at `$.it`" in refusal(model(float | None, math.nan))


@pytest.mark.parametrize(
    ("declared", "value", "told"),
    [
        (bytes | str, "x", "`str` would arrive as `bytes`"),
        (str | UUID, str(UUID(int=1)), "`str` would arrive as `UUID`"),
        (
            SecretStr,
            SecretStr("hunter2"),
            "another value - at `$.it`. Its class doesn't read back",
        ),
        (re.Pattern[str], re.compile("a", re.IGNORECASE), "it would arrive with another value"),
        (Any, Decimal(1), "`Decimal` would arrive as `str`"),
        (dict[Any, Any], {1: 2}, "`int` would arrive as `str` - at `key` in `$.it`"),
    ],
    ids=repr,
)
def test_a_model_that_would_arrive_as_another_is_refused(declared: Any, value: Any, told: str) -> None:
    message = refusal(model(declared, value))
    assert told in message
    assert "hunter2" not in message


@pytest.mark.parametrize(
    ("declared", "value"),
    [
        (datetime, MOMENT),
        (date, MOMENT.date()),
        (timedelta, timedelta(days=1, microseconds=1)),
        (UUID, UUID(int=1)),
        (Colour, Colour.RED),
        (Decimal, Decimal("1.0")),
        (bytes, b"x"),
        (Path, Path("a")),
        (tuple[int, str], (1, "a")),
        (set[int], {1}),
    ],
    ids=repr,
)
def test_strict_models_are_read_by_the_rules_for_json(declared: Any, value: Any) -> None:
    args = model(declared, value, strict=True)
    assert trip(args) == args
    assert trip(holder(type(args), args)).it == args


@pytest.mark.parametrize(
    ("options", "given"),
    [
        ({"serialization_alias": "written"}, {"it": 1}),
        ({"validation_alias": "read"}, {"read": 1}),
        ({"validation_alias": AliasChoices("x", "y")}, {"y": 1}),
        ({"validation_alias": AliasPath("x", 0)}, {"x": [1]}),
    ],
    ids=repr,
)
@pytest.mark.parametrize("default", [5, ...])
def test_a_model_that_writes_other_names_than_it_reads_arrives(options: Any, given: Any, default: Any) -> None:
    kind = pydantic.create_model("Aliased", it=(int, Field(default, **options)))
    outer = pydantic.create_model("Outer", inner=(kind, ...), more=(list[kind], []))  # type: ignore[valid-type]
    args = kind(**given)
    if not HAS_NAMES and "validation_alias" in options:  # nobody can ask such a model to be read by names
        assert refusal(args)
        return
    assert trip(args) == args
    nested = outer(inner=args, more=[args])
    assert trip(nested) == nested
    assert trip(holder(dict[str, kind], {"k": args})).it["k"] == args  # type: ignore[valid-type]


class Hidden(BaseModel):
    a: int = 1
    excluded: int = Field(default=5, exclude=True)
    _private: int = PrivateAttr(0)
    _lock: Any = PrivateAttr(default_factory=threading.Lock)


def test_what_a_model_hides_is_refused_once_it_is_another_than_the_reader_makes() -> None:
    assert trip(Hidden(a=3)).a == 3  # each has a lock of its own
    assert "another value - at `$.excluded`" in refusal(Hidden(excluded=3))
    args = Hidden()
    args._private = 7  # noqa: SLF001
    assert "it would be lost - at `$._private`. Private attributes don't travel." in refusal(args)
    assert "at `$.it[0]._private`" in refusal(holder(list[Hidden], [args]))


class OneWay(BaseModel):
    a: int = 1

    @field_serializer("a")
    def _write(self, a: int) -> int:
        return a + 1


def test_a_serializer_that_no_validator_undoes_is_refused() -> None:
    assert "it would arrive with another value - at `$.a`" in refusal(OneWay(a=3))
    assert "it would arrive with another value - at `$.a`" in refusal({"a": 3}, OneWay)


class Patch(BaseModel):
    name: str | None = None
    tags: list[str] = []
    inner: list[Patch] = []
    more: dict[str, Patch] | None = None


class Event(BaseModel):
    kind: Literal["event"] = "event"
    id: UUID = Field(default_factory=uuid4)
    note: str = ""


def test_what_was_set_stays_told_from_defaults() -> None:
    args = Patch(inner=[Patch(name=None), Patch()], more={"k": Patch(tags=[])})
    arrived = trip(args)
    assert arrived == args
    assert arrived.model_fields_set == {"inner", "more"}
    assert [each.model_fields_set for each in arrived.inner] == [{"name"}, set()]
    assert arrived.more["k"].model_fields_set == {"tags"}


def test_a_default_that_no_reader_would_make_again_is_written() -> None:
    args = Event()
    assert trip(args) == args
    changed = Patch()
    changed.tags.append("x")
    assert trip(changed).tags == ["x"]


def test_plain_data_is_written_with_all_fields() -> None:
    written = msgspec.json.decode(JsonJobSerializer().serialize({"name": "x"}, Patch))
    assert written == {"name": "x", "tags": [], "inner": [], "more": None}


class Product(BaseModel):
    it: int

    @pydantic.model_validator(mode="before")
    @classmethod
    def _read(cls, data: Any) -> Any:
        return {"it": math.prod(data)} if isinstance(data, list) else data


class Node(BaseModel):
    children: list[Node] = []
    parent: Node | None = Field(default=None, exclude=True, repr=False)

    @pydantic.model_validator(mode="after")
    def _tie(self) -> Node:
        for child in self.children:
            child.parent = self
        return self


def test_models_that_know_their_parent() -> None:
    arrived = trip(Node(children=[Node(children=[Node()]), Node()]))
    assert arrived.children[0].children[0].parent.parent is arrived


# Classes that msgspec would fill without asking them


@pydantic.dataclasses.dataclass
class Amount:
    cents: Annotated[int, Field(gt=0)]
    at: datetime | None = None
    note: Annotated[str, Field(max_length=5)] = ""
    _made: int = 0


@pydantic.dataclasses.dataclass(frozen=True)
class Upper:
    name: str

    @pydantic.field_validator("name")
    @classmethod
    def _up(cls, name: str) -> str:
        return name.upper()


@attrs.define
class Positive:
    cents: int = attrs.field(validator=attrs.validators.gt(0))


@dataclass
class Bill:
    amounts: list[Amount] = field(default_factory=list)
    by_name: dict[str, Positive] = field(default_factory=dict)


def test_pydantic_dataclasses_and_attrs_classes_are_validated() -> None:
    args = Bill([Amount(3, MOMENT)], {"a": Positive(1)})
    assert trip(args) == args
    assert trip({"name": "x"}, Upper) == Upper("X")
    assert trip(Upper("x")) == Upper("X")
    assert "Amount: cents: Input should be greater than 0" in refusal({"cents": -1}, Amount)
    assert "Amount: note: String should have at most 5" in refusal({"amounts": [{"cents": 1, "note": "x" * 9}]}, Bill)
    assert "'cents' must be > 0" in refusal({"by_name": {"a": {"cents": 0}}}, Bill)
    args.amounts[0].cents = -1
    assert "Amount: cents" in refusal(args)
    with pytest.raises(InvalidArgsError, match="Amount: cents"):
        JsonJobSerializer().deserialize(b'{"cents":-1}', Amount)


# Plain data


@pytest.mark.parametrize(
    ("data", "args_type", "arrives"),
    [
        ({"it": "2026-01-02T03:04:05.000006"}, Box[datetime], Box(MOMENT)),
        ({"it": MOMENT}, Box[datetime], Box(MOMENT)),
        ({"it": [1]}, Box[set[int]], Box({1})),
        ({"it": [[1, "x"]]}, Box[set[tuple[int, str]]], Box({(1, "x")})),
        ({"it": [2, 3]}, Box[Product], Box(Product(it=6))),
        ({"it": {"1": "x"}}, Box[dict[int, str]], Box({1: "x"})),
        ({"it": [1, "2"]}, Box[Pair], Box(Pair(1, Decimal(2)))),
        ({"it": {"a": 2}}, Box[PlainModel], Box(PlainModel(a=2))),
        ([str(UUID(int=1))], list[UUID], [UUID(int=1)]),
        (str(UUID(int=1)), UUID, UUID(int=1)),
        ([Base(2)], list[Base], [Base(2)]),
    ],
    ids=repr,
)
def test_plain_data_is_read_as_declared(data: Any, args_type: Any, arrives: Any) -> None:
    assert trip(data, args_type) == arrives


@pytest.mark.parametrize(
    ("data", "args_type", "told"),
    [
        ({"it": Decimal(1)}, Any, "`Decimal` would arrive as `str` - at `$.it`"),
        ({"it": [Decimal(1)]}, Box[list[str]], "`Decimal` would arrive as `str` - at `$.it[0]`"),
        ({"it": {1: 1}}, Box[dict[str, int]], "`int` would arrive as `str` - at `key` in `$.it`"),
        ({"it": {"it": Decimal(1)}}, Box[Box[Any]], "`Decimal` would arrive as `str` - at `$.it.it`"),
        ({"it": [Decimal(1)]}, Box[set[str]], "`Decimal` would arrive as `str` - at `$.it[...]`"),
        ({"it": [Child()]}, Box[list[Base]], "`Child` would arrive as `Base` - at `$.it[0]`"),
        ([Child()], list[Base], "`Child` would arrive as `Base` - at `$[0]`"),
        ({"a": 1}, make_dataclass("Empty", []), "unknown field 'a'"),
        (Status.PAID, str, "`Status` would arrive as `str` - at `$`"),
    ],
    ids=repr,
)
def test_plain_data_that_holds_more_than_its_place_can_is_refused(data: Any, args_type: Any, told: str) -> None:
    assert told in refusal(data, args_type)


def test_what_is_no_mapping_of_json_is_refused() -> None:
    assert "can't be written as JSON" in refusal(holder(Any, MappingProxyType({})))
