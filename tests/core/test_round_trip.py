"""The rule of arguments, on types that nobody thought of: they arrive as they were given, or are refused."""

from __future__ import annotations

import enum
import math
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, is_dataclass, make_dataclass
from dataclasses import fields as dataclass_fields
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import Path, PurePosixPath
from typing import Any, Final, Generic, Literal, NamedTuple, NotRequired, TypedDict, TypeVar
from uuid import UUID

import attrs
import msgspec
import pydantic
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from anyjob import InvalidArgsError, JobDefinitionError, JsonJobSerializer

T = TypeVar("T")
Typed = Any
"""A tuple: a type, and a value for a place of that type."""


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Status(enum.StrEnum):
    PAID = "paid"


class Text(str):
    __slots__ = ()


class Identity(UUID):
    """A subclass of a value type."""


@dataclass
class Box(Generic[T]):
    it: T


@dataclass
class BiggerBox(Box[T]):
    more: int = 1


class BoxModel(pydantic.BaseModel, Generic[T]):
    it: T


WHOLE_MINUTES: Final = st.integers(-1439, 1439).map(lambda minutes: timezone(timedelta(minutes=minutes)))
SECONDS: Final = st.integers(-86399, 86399).map(lambda seconds: timezone(timedelta(seconds=seconds)))
FINITE: Final = st.floats(allow_nan=False, allow_infinity=False)
SAFE: Final[Mapping[Any, st.SearchStrategy[Any]]] = {
    str: st.text(max_size=8),
    int: st.integers(-(2**70), 2**70),
    bool: st.booleans(),
    float: FINITE,
    Decimal: st.decimals(allow_nan=False, allow_infinity=False),
    datetime: st.datetimes(timezones=st.none() | st.just(UTC) | WHOLE_MINUTES),
    date: st.dates(),
    time: st.times(),
    timedelta: st.timedeltas(timedelta(days=-9999), timedelta(days=9999)),
    UUID: st.uuids(),
    bytes: st.text(max_size=8).map(str.encode),
    Colour: st.sampled_from(Colour),
    Status: st.sampled_from(Status),
    Path: st.sampled_from(["a", "/b/c", "d e"]).map(Path),
    Literal["x", 3]: st.sampled_from(["x", 3]),
}
"""Types that arrive everywhere, with the values of them that do."""
ANY_JSON: Final = st.recursive(
    st.none() | st.booleans() | st.integers() | FINITE | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
WRONG: Final = st.one_of(
    st.floats(),
    st.decimals(),
    st.datetimes(timezones=SECONDS),
    st.times(timezones=SECONDS | st.none()),
    st.binary(max_size=4),
    st.sampled_from(
        [Text("x"), Identity(int=1), PurePosixPath("x"), BiggerBox(1), Box(Decimal(1)), BoxModel(it=b"\xff")]
    ),
    st.sets(st.integers() | st.uuids(), max_size=2),
    st.dictionaries(st.integers() | st.dates() | st.just("it"), st.integers() | st.decimals(), max_size=2),
    st.tuples(st.integers(), st.uuids()),
    st.lists(st.integers() | st.decimals() | st.booleans(), max_size=3),
    *SAFE.values(),
)
"""What may be given where something else is declared."""
KEYS: Final = [str, int, UUID, date, Status]
SHAPES: Final = ["leaf", "leaf", "any", "optional", "list", "tuple", "set", "dict", "record", "record"]
UNIONS: Final = [str | UUID, Decimal | str, float | Decimal, datetime | str, int | str, int | float, bytes | str | None]
NAMES: Final = ["to", "cc", "_own", "fromWhom"]


@dataclass(frozen=True)
class Kinds:
    """What is drawn: with `wild`, also types and values that may be refused."""

    wild: bool
    for_pydantic: bool = False

    @property
    def records(self) -> list[Callable[..., Typed]]:
        mine = [_dataclass, _named_tuple, _model, _box]
        return mine if self.for_pydantic else [*mine, _attrs, _struct, _typed_dict]


@st.composite
def typed(draw: st.DrawFn, kinds: Kinds, depth: int = 2) -> Typed:
    declared, value = draw(_place(kinds, depth))
    if kinds.wild and draw(st.integers(0, 9)) == 0:
        value = draw(WRONG)
    return declared, value


@st.composite
def _place(draw: st.DrawFn, kinds: Kinds, depth: int) -> Typed:
    shape = draw(
        st.sampled_from(["leaf", "leaf", "any", "optional", "list", "tuple", "set", "dict", "record", "record"])
    )
    if depth == 0 or shape == "leaf":
        if kinds.wild and draw(st.booleans()):
            union = draw(st.sampled_from(UNIONS))
            return union, draw(SAFE[draw(st.sampled_from([each for each in union.__args__ if each in SAFE]))])
        leaf = draw(st.sampled_from([*SAFE]))
        return leaf, draw(SAFE[leaf])
    if shape == "any":
        return draw(st.sampled_from([Any, dict[str, Any]])), {"k": draw(ANY_JSON)}
    if shape == "record":
        return draw(record(kinds, depth - 1))
    if shape in ("set", "dict"):
        key = draw(st.sampled_from(KEYS))
        keys = draw(st.lists(SAFE[key], max_size=2, unique=True))
        if shape == "set":
            return draw(st.sampled_from([(_of(set, key), {*keys}), (_of(frozenset, key), frozenset(keys))]))
        declared, value = draw(typed(kinds, depth - 1))
        return _of(dict, key, declared), dict.fromkeys(keys, value)
    declared, value = draw(typed(kinds, depth - 1))
    if shape == "list":
        return _of(list, declared), [value] * draw(st.integers(0, 2))
    if shape == "tuple":
        return draw(
            st.sampled_from([(_of(tuple, declared, int), (value, 1)), (_of(tuple, declared, ...), (value, value))])
        )
    try:
        return declared | None, draw(st.sampled_from([value, None]))
    except TypeError:  # Any
        return declared, value


@st.composite
def record(draw: st.DrawFn, kinds: Kinds, depth: int = 2) -> Typed:
    make = draw(st.sampled_from(kinds.records))
    inner = Kinds(kinds.wild, kinds.for_pydantic or make is _model)
    names = draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=3, unique=True))
    if inner.for_pydantic or make is _named_tuple or (make is _attrs and not kinds.wild):
        names = [name.strip("_") for name in names]  # they keep such names to themselves
    places = {name: draw(typed(inner, depth)) for name in names}
    has_default = {name: draw(st.booleans()) for name in names}
    ordered = dict(sorted(places.items(), key=lambda item: has_default[item[0]]))
    return make(draw, inner, ordered, {name for name in names if has_default[name]})


Places = Mapping[str, Any]


def _always(value: Any) -> Callable[[], Any]:
    return lambda: value


def _of(generic: Any, *arguments: Any) -> Any:
    return generic[arguments if len(arguments) > 1 else arguments[0]]


def _dataclass(draw: st.DrawFn, kinds: Kinds, places: Places, defaults: set[str]) -> Typed:
    fields = [
        (name, declared, field(default_factory=_always(value)) if name in defaults else field())
        for name, (declared, value) in places.items()
    ]
    options: Any = draw(st.sampled_from([{}, {"frozen": True}, {"slots": True}, {"eq": False}, {"kw_only": True}]))
    return _made(make_dataclass("Data", fields, **options), draw, places, defaults)


def _attrs(draw: st.DrawFn, kinds: Kinds, places: Places, defaults: set[str]) -> Typed:
    fields = {
        name: attrs.field(
            type=declared, alias=name, default=attrs.Factory(_always(value)) if name in defaults else attrs.NOTHING
        )
        for name, (declared, value) in places.items()
    }
    return _made(attrs.make_class("Attrs", fields, slots=draw(st.booleans())), draw, places, defaults)


def _struct(draw: st.DrawFn, kinds: Kinds, places: Places, defaults: set[str]) -> Typed:
    fields = [
        (name, declared, *((msgspec.field(default_factory=_always(value)),) if name in defaults else ()))
        for name, (declared, value) in places.items()
    ]
    options: Any = draw(
        st.fixed_dictionaries(
            {},
            optional={
                "rename": st.sampled_from(["camel", "upper", {"to": "cc2"}]),
                "tag": st.booleans(),
                "array_like": st.booleans(),
                "omit_defaults": st.booleans(),
                "forbid_unknown_fields": st.booleans(),
            },
        )
    )
    return _made(msgspec.defstruct("Record", fields, **options), draw, places, defaults)


def _named_tuple(draw: st.DrawFn, kinds: Kinds, places: Places, defaults: set[str]) -> Typed:
    def fill(body: dict[str, Any]) -> None:
        body["__module__"] = __name__
        body["__annotations__"] = {name: declared for name, (declared, _) in places.items()}
        body.update({name: value for name, (_, value) in places.items() if name in defaults})

    return _made(types.new_class("Row", (NamedTuple,), {}, fill), draw, places, defaults)


def _typed_dict(draw: st.DrawFn, kinds: Kinds, places: Places, defaults: set[str]) -> Typed:
    hints = {name: NotRequired[declared] if name in defaults else declared for name, (declared, _) in places.items()}
    given = {name: value for name, (_, value) in places.items() if name not in defaults or draw(st.booleans())}
    return TypedDict("Keys", hints), given  # type: ignore[operator]


def _model(draw: st.DrawFn, kinds: Kinds, places: Places, defaults: set[str]) -> Typed:
    fields: dict[str, Any] = {}
    for name, (declared, value) in places.items():
        kinds_of_alias = ["alias", "serialization_alias", "validation_alias", "exclude"] if kinds.wild else ["alias"]
        said: Any = {draw(st.sampled_from(kinds_of_alias)): f"{name}_2"} if draw(st.booleans()) else {}
        default: Any = draw(st.sampled_from([{"default_factory": _always(value)}, {"default": value}]))
        if "exclude" in said:
            said, default = {"exclude": True}, {"default": None}
        fields[name] = (declared, pydantic.Field(**said, **(default if name in defaults or "exclude" in said else {})))
    options: Any = draw(st.sampled_from([{}, {"strict": True}, {"extra": "forbid"}, {"frozen": True}]))
    model = pydantic.create_model("Model", __config__=options, **fields)
    is_set = {name for name in places if not fields[name][1].get_default() or draw(st.booleans())}
    values = {name: value for name, (_, value) in places.items() if name in is_set or name not in defaults}
    return model, model.model_construct(_fields_set={*values}, **values)


def _box(draw: st.DrawFn, kinds: Kinds, places: Places, defaults: set[str]) -> Typed:
    declared, value = next(iter(places.values()))
    if not kinds.for_pydantic and draw(st.booleans()):
        return _of(Box, declared), Box(value)
    inner = _model(draw, Kinds(kinds.wild, for_pydantic=True), {"it": (int, 1)}, set())
    model = _of(BoxModel, inner[0])
    return model, model.model_construct(it=inner[1])


def _made(kind: Any, draw: st.DrawFn, places: Places, defaults: set[str]) -> Typed:
    return kind, kind(
        **{name: value for name, (_, value) in places.items() if name not in defaults or draw(st.booleans())}
    )


def same(given: Any, arrives: Any) -> bool:
    """The rule, said once more: slowly, and by other means than the code."""
    if isinstance(given, tuple) and type(arrives) is list and type(given) is tuple:
        return len(given) == len(arrives) and all(map(same, given, arrives))
    if type(given) is int and type(arrives) is float:
        return bool(given == arrives)
    if type(given) is not type(arrives):
        return False
    if isinstance(given, datetime | time):
        return bool(given.isoformat() == arrives.isoformat())  # with the offset
    if isinstance(given, float):
        return repr(given) == repr(arrives)
    if isinstance(given, Decimal):
        return str(given) == str(arrives)
    if isinstance(given, dict):
        return same([*given.items()], [*arrives.items()])
    if isinstance(given, list | tuple):
        return len(given) == len(arrives) and all(map(same, given, arrives))
    if isinstance(given, set | frozenset):
        return given == arrives and {*map(type, given)} == {*map(type, arrives)}
    names = _names(given)
    return (
        all(same(getattr(given, name), getattr(arrives, name)) for name in names) if names else bool(given == arrives)
    )


def _names(value: Any) -> list[str]:
    if is_dataclass(value):
        return [each.name for each in dataclass_fields(value)]
    if isinstance(value, pydantic.BaseModel):
        return [*type(value).model_fields]
    if attrs.has(type(value)):
        return [each.name for each in attrs.fields(type(value))]
    return [*getattr(value, "__struct_fields__", ())]


def in_a_job(place: Typed) -> Typed:
    """Return arguments that hold the value where its type is declared."""
    return (kind := make_dataclass("Arguments", [("it", place[0])])), kind(place[1])


QUICK: Final = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


@QUICK
@given(record(Kinds(wild=True)).map(in_a_job))
def test_arguments_arrive_as_they_were_given_or_are_refused(arguments: Typed) -> None:
    declared, args = arguments
    serializer = JsonJobSerializer()
    try:
        data = serializer.serialize(args, declared)
    except (InvalidArgsError, JobDefinitionError) as refusal:
        event(type(refusal).__name__)
        return
    arrived = serializer.deserialize(data, declared)
    assert same(args, arrived), (args, arrived)
    event("arrived")


@QUICK
@given(record(Kinds(wild=False)).map(in_a_job))
def test_common_arguments_are_not_refused(arguments: Typed) -> None:
    declared, args = arguments
    serializer = JsonJobSerializer()
    arrived = serializer.deserialize(serializer.serialize(args, declared), declared)
    assert same(args, arrived), (args, arrived)


def test_the_rule_itself_sees_differences() -> None:
    unlike = [(1, 1.5), (1, True), (1.0, 1), ([1], (1,)), ({1}, {True}), (0.0, -0.0), (Decimal("1.0"), Decimal(1))]
    assert not any(same(*pair) for pair in unlike)
    assert same(math.nan, math.nan)
