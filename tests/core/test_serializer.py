"""Whatever goes in comes out the same in the worker, or is refused where it goes in."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum, IntEnum
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, NotRequired, TypedDict
from uuid import UUID

import attrs
import msgspec
import pydantic
import pytest

from anyjob import InvalidArgsError, JobDefinitionError, JsonJobSerializer


class Colour(Enum):
    RED = "red"


class Level(IntEnum):
    HIGH = 3


@dataclass
class Email:
    to: str
    subject: str = ""
    tags: list[str] = field(default_factory=list)


class EmailDict(TypedDict):
    to: str
    subject: NotRequired[str]


class EmailTuple(NamedTuple):
    to: str
    subject: str = ""


class EmailStruct(msgspec.Struct):
    to: str
    subject: str = ""


@attrs.define
class EmailAttrs:
    to: str
    subject: str = ""


class EmailModel(pydantic.BaseModel):
    to: str
    sent_at: datetime | None = None
    ratio: float | None = None
    copies: list[EmailModel] = []


class AliasModel(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")
    sender: str = pydantic.Field(alias="from")

    @pydantic.computed_field  # type: ignore[prop-decorator]
    @property
    def shouted(self) -> str:
        return self.sender.upper()


class OpenModel(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="allow")
    to: str


class ReadByOtherName(pydantic.BaseModel):
    sender: str = pydantic.Field(validation_alias="from")


@dataclass
class Holder:
    """Nests each kind once."""

    email: Email
    struct: EmailStruct
    model: EmailModel
    tuple_: EmailTuple
    dict_: EmailDict
    attrs_: EmailAttrs


@dataclass
class Scalars:
    moment: datetime
    day: date
    clock: time
    span: timedelta
    id: UUID
    price: Decimal
    colour: Colour
    level: Level
    blob: bytes
    ids: set[int]
    pair: tuple[int, str]
    many: tuple[int, ...]
    path: Path
    pure: PurePosixPath
    maybe: float | None = None


@dataclass
class Nested:
    emails: list[Email] = field(default_factory=list)
    by_name: dict[str, Email] | None = None
    pair: tuple[str, Email] | None = None
    model: EmailModel | None = None
    named: EmailTuple | None = None
    anything: Any = None
    ratio: float | None = None


class Cat(msgspec.Struct, tag=True):
    name: str


class Dog(msgspec.Struct, tag="dog", tag_field="kind"):
    name: str


class Bird(msgspec.Struct, tag="bird", tag_field="kind"):
    wings: int


@dataclass
class Pets:
    pets: list[Dog | Bird]
    cat: dict[str, Cat] | None = None


@dataclass
class Ambiguous:
    which: Email | EmailAttrs


@dataclass
class Guarded:
    amount: int

    def __post_init__(self) -> None:
        if self.amount < 0:
            raise KeyError("no such amount")


class Tree(msgspec.Struct):
    children: list[Tree] = []


class Mapped:
    """As SQLAlchemy leaves a class behind."""

    __mapper__ = object()


class DjangoModel:
    """As Django leaves a class behind."""

    _meta = object()
    _base_manager = object()


class Opaque:
    """Nothing that JSON knows."""


@dataclass
class Badly:
    annotated: Nowhere  # type: ignore[name-defined]  # noqa: F821


SCALARS = Scalars(
    moment=datetime(2026, 1, 2, 3, 4, 5, 678901, UTC),
    day=date(2026, 1, 2),
    clock=time(3, 4, 5),
    span=timedelta(days=1, microseconds=3),
    id=UUID(int=7),
    price=Decimal("1.10"),
    colour=Colour.RED,
    level=Level.HIGH,
    blob=b"\x00\xff",
    ids={1, 2},
    pair=(1, "x"),
    many=(1, 2, 3),
    path=Path("a/b"),
    pure=PurePosixPath("/c"),
)


@pytest.fixture
def serializer() -> JsonJobSerializer:
    return JsonJobSerializer()


@pytest.mark.parametrize(
    "args",
    [
        Email("a@b.c", tags=["x"]),
        EmailTuple("a@b.c"),
        EmailStruct("a@b.c"),
        EmailAttrs("a@b.c"),
        EmailModel(to="a@b.c", sent_at=datetime(2026, 1, 1, tzinfo=UTC), copies=[EmailModel(to="d@e.f")]),
        AliasModel(**{"from": "a@b.c"}),
        OpenModel(to="a@b.c", more=1),  # type: ignore[call-arg]
        Holder(
            Email("1"), EmailStruct("2"), EmailModel(to="3"), EmailTuple("4"), {"to": "5"}, EmailAttrs("6", subject="s")
        ),
        SCALARS,
        Pets([Dog("Rex"), Bird(2)], {"c": Cat("Tom")}),
        Nested(anything={"deep": [1, None, True, "x"]}),
    ],
    ids=lambda args: type(args).__name__,
)
def test_what_goes_in_comes_out(serializer: JsonJobSerializer, args: object) -> None:
    data = serializer.serialize(args, type(args))

    assert serializer.deserialize(data, type(args)) == args


@pytest.mark.parametrize(
    ("args", "args_type"),
    [
        ({"to": "a", "subject": "b"}, EmailDict),
        ([Email("a")], list[Email]),
        ({"k": SCALARS}, dict[str, Scalars]),
        (None, None),
        (7, int),
        (Email("a"), Email | None),
    ],
    ids=str,
)
def test_types_without_a_class_of_their_own(serializer: JsonJobSerializer, args: object, args_type: Any) -> None:
    assert serializer.deserialize(serializer.serialize(args, args_type), args_type) == args


def test_the_json_is_what_others_would_write(serializer: JsonJobSerializer) -> None:
    assert msgspec.json.decode(serializer.serialize(SCALARS, Scalars)) == {
        "moment": "2026-01-02T03:04:05.678901Z",
        "day": "2026-01-02",
        "clock": "03:04:05",
        "span": "P1DT0.000003S",
        "id": "00000000-0000-0000-0000-000000000007",
        "price": "1.10",
        "colour": "red",
        "level": 3,
        "blob": "AP8=",
        "ids": [1, 2],
        "pair": [1, "x"],
        "many": [1, 2, 3],
        "path": "a/b",
        "pure": "/c",
        "maybe": None,
    }


def test_raw_json_is_accepted_as_bytes_are(serializer: JsonJobSerializer) -> None:
    assert serializer.deserialize(msgspec.Raw(b'{"to":"a"}'), Email) == Email("a")


@pytest.mark.parametrize(
    ("args", "args_type", "told"),
    [
        (Email(to=3), Email, r"Email: Expected `str`, got `int` - at `\$\.to`"),  # type: ignore[arg-type]
        (EmailStruct(to=None), EmailStruct, r"EmailStruct: .*null.*`\$\.to`"),  # type: ignore[arg-type]
        (Nested(emails=[Email("a"), Email("b", tags=[1])]), Nested, r"at `\$\.emails\[1\]\.tags\[0\]`"),  # type: ignore[list-item]
        ({"subject": "x"}, EmailDict, "missing required field `to`"),
        (EmailModel.model_construct(to=["secret"]), EmailModel, "EmailModel: to: Input should be a valid string"),
        (
            Nested(model=EmailModel.model_construct(to=3)),
            Nested,
            r"to: Input should be a valid string - at `\$\.model`",
        ),
        ("\ud800", str, "surrogates not allowed"),
        (object(), Opaque, "object can't be written as JSON"),
        (Opaque(), Opaque, "Opaque can't be written as JSON"),
    ],
)
def test_wrong_arguments_are_refused_where_they_go_in(
    serializer: JsonJobSerializer, args: object, args_type: Any, told: str
) -> None:
    with pytest.raises(InvalidArgsError, match=told):
        serializer.serialize(args, args_type)


def test_a_refusal_quotes_no_values(serializer: JsonJobSerializer) -> None:
    with pytest.raises(InvalidArgsError) as caught:
        serializer.deserialize(b'{"to": ["hunter2"], "sent_at": "hunter2"}', EmailModel)

    assert "sent_at" in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("data", "args_type"),
    [
        (b'{"to": 3}', Email),
        (b"{}", Email),
        (b"", Email),
        (b"\xff", str),
        (b'{"amount": -1}', Guarded),
        (b'"x"', Opaque),
        (b"7", Path),
    ],
)
def test_bad_messages_are_refused(serializer: JsonJobSerializer, data: bytes, args_type: Any) -> None:
    with pytest.raises(InvalidArgsError, match=f"^{args_type.__qualname__}: "):
        serializer.deserialize(data, args_type)


def test_an_error_of_the_class_itself_is_a_refusal(serializer: JsonJobSerializer) -> None:
    args = Guarded(1)
    args.amount = -1

    with pytest.raises(InvalidArgsError, match="no such amount"):
        serializer.serialize(args, Guarded)


def test_the_limit_counts_bytes_of_json() -> None:
    serializer = JsonJobSerializer(max_size=1000)

    assert len(serializer.serialize("x" * 998, str)) == 1000
    with pytest.raises(
        InvalidArgsError, match=r"str: .* take 1,001 bytes of JSON; the limit is 1,000\. Store the data"
    ):
        serializer.serialize("x" * 999, str)


def test_the_limit_counts_the_defaults_of_plain_data_too() -> None:
    serializer = JsonJobSerializer(max_size=20)

    with pytest.raises(InvalidArgsError, match="limit is 20"):
        serializer.serialize({"to": "a"}, EmailStruct)


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (Nested(ratio=math.nan), r"Nested: nan .*at `\$\.ratio`"),
        (Nested(ratio=-math.inf), r"-inf .*at `\$\.ratio`"),
        (Nested(anything={"a": [1, math.nan]}), r"at `\$\.anything\.a\[1\]`"),
        (Nested(anything=[{"b": None}, {"b": math.inf}]), r"at `\$\.anything\[1\]\.b`"),
        (Nested(model=EmailModel(to="a", ratio=math.inf)), r"at `\$\.model\.ratio`"),
        (EmailModel(to="a", copies=[EmailModel(to="b", ratio=math.nan)]), r"at `\$\.copies\[0\]\.ratio`"),
        ({"ratio": math.nan}, r"at `\$\.ratio`"),
    ],
)
def test_nan_and_infinity_are_refused(serializer: JsonJobSerializer, args: object, told: str) -> None:
    with pytest.raises(InvalidArgsError, match=told):
        serializer.serialize(args, Nested if isinstance(args, dict) else type(args))


def test_nan_is_no_float_of_json_either(serializer: JsonJobSerializer) -> None:
    with pytest.raises(InvalidArgsError, match=r"Expected `float`, got `null` - at `\$\[0\]`"):
        serializer.serialize([math.nan], list[float])


def test_none_stays_none(serializer: JsonJobSerializer) -> None:
    args = Nested(anything=[None, "null"], ratio=None)

    assert serializer.deserialize(serializer.serialize(args, Nested), Nested) == args


@pytest.mark.parametrize("model", [Mapped, DjangoModel])
def test_database_models_are_refused_with_advice(serializer: JsonJobSerializer, model: type[Any]) -> None:
    with pytest.raises(JobDefinitionError, match="database model. Pass its primary key"):
        serializer.prepare(model)
    with pytest.raises(InvalidArgsError, match="database model. Pass its primary key"):
        serializer.serialize(Nested(anything=[model()]), Nested)


@pytest.mark.parametrize(
    ("args_type", "told"),
    [
        (Ambiguous, "Ambiguous can't be job arguments: .*union.*tag=True"),
        (Email | EmailAttrs, "union.*tag=True"),
        (Badly, "'Nowhere' is not defined.*must be importable names"),
    ],
)
def test_types_that_cannot_travel_are_refused(serializer: JsonJobSerializer, args_type: Any, told: str) -> None:
    with pytest.raises(JobDefinitionError, match=told):
        serializer.prepare(args_type)
    with pytest.raises(JobDefinitionError, match=told):
        serializer.serialize(Email("a"), args_type)


def test_the_worker_ignores_unknown_fields(serializer: JsonJobSerializer) -> None:
    assert serializer.deserialize(b'{"to": "a", "gone": 1, "tags": []}', Email) == Email("a")
    assert serializer.deserialize(b'{"to": "a", "gone": 1}', EmailModel) == EmailModel(to="a")


@pytest.mark.parametrize(
    ("data", "args_type", "told"),
    [
        ({"to": "a", "subjet": "b"}, Email, r"Email: unknown field 'subjet' at `\$`\. Did you mean 'subject'\?"),
        ({"to": "a", "subjet": "b"}, EmailDict, "Did you mean 'subject'"),
        ({"to": "a", "xyz": "b"}, EmailStruct, r"unknown field 'xyz' at `\$`\.$"),
        ({"to": "a", "subjet": "b"}, EmailAttrs, "Did you mean 'subject'"),
        ({"to": "a", "sent": None}, EmailModel, "unknown field 'sent'"),
        ({"emails": [{"to": "a"}, {"to": "b", "tag": []}]}, Nested, r"'tag' at `\$\.emails\[1\]`\. .*'tags'"),
        ({"by_name": {"k": {"to": "a", "tag": []}}}, Nested, r"'tag' at `\$\.by_name\[\.\.\.\]`"),
        ({"pair": ["x", {"to": "a", "tag": []}]}, Nested, r"'tag' at `\$\.pair\[1\]`"),
        ({"model": {"to": "a", "too": 1}}, Nested, r"'too' at `\$\.model`\. Did you mean 'to'\?"),
        ({"model": {"to": "a", "copies": [{"to": "b", "too": 1}]}}, Nested, r"'too' at `\$\.model\.copies\[0\]`"),
        ({"pets": [{"kind": "dog", "name": "Rex", "wings": 2}]}, Pets, r"'wings' at `\$\.pets\[0\]`"),
        ({"pets": [], "cat": {"c": {"type": "Cat", "name": "Tom", "nam": ""}}}, Pets, r"'nam' at `\$\.cat\[\.\.\.\]`"),
        ([{"to": "a", "tag": []}], list[Email], r"'tag' at `\$\[0\]`"),
    ],
)
def test_plain_data_with_an_unknown_field_is_refused(
    serializer: JsonJobSerializer, data: object, args_type: Any, told: str
) -> None:
    with pytest.raises(InvalidArgsError, match=told):
        serializer.serialize(data, args_type)


@pytest.mark.parametrize(
    ("data", "args_type", "written"),
    [
        ({"to": "a"}, EmailModel, {"to": "a", "sent_at": None, "ratio": None, "copies": []}),
        ({"to": "a"}, EmailStruct, {"to": "a", "subject": ""}),
        ({"to": "a"}, EmailDict, {"to": "a"}),
        ([{"to": "a"}], list[EmailAttrs], [{"to": "a", "subject": ""}]),
        ({"from": "a"}, AliasModel, {"from": "a"}),
        ({"to": "a", "any": 1}, OpenModel, {"to": "a", "any": 1}),
        ({"pets": [{"kind": "bird", "wings": 2}]}, Pets, {"pets": [{"kind": "bird", "wings": 2}]}),
        ({"any": {"thing": 1}}, dict[str, Any], {"any": {"thing": 1}}),
        ({"a": [1]}, Any, {"a": [1]}),
    ],
    ids=str,
)
def test_plain_data_is_written_with_its_defaults(
    serializer: JsonJobSerializer, data: object, args_type: Any, written: object
) -> None:
    assert msgspec.json.decode(serializer.serialize(data, args_type)) == written


def _nested_lists(depth: int) -> list[Any]:
    nested: list[Any] = []
    for _ in range(depth):
        nested = [nested]
    return nested


def _itself() -> list[Any]:
    endless: list[Any] = []
    endless.append(endless)
    return endless


@pytest.mark.parametrize("make", [lambda: _nested_lists(100_000), _itself], ids=["deep", "endless"])
@pytest.mark.parametrize("as_dict", [True, False])
def test_bottomless_arguments_are_refused(
    serializer: JsonJobSerializer, make: Callable[[], list[Any]], as_dict: bool
) -> None:
    args: object = {"anything": make()} if as_dict else Nested(anything=make())

    with pytest.raises(InvalidArgsError, match="nested too deep"):
        serializer.serialize(args, Nested)


@pytest.mark.parametrize(
    ("bomb", "args_type"),
    [
        (b"[" * 100_000, Any),
        (b'{"children":[' * 100_000, Tree),
        (b'{"anything":' + b"[" * 100_000 + b"]" * 100_000 + b"}", Nested),
        (b'{"to":"a","copies":' + b"[" * 100_000, EmailModel),
    ],
)
def test_a_message_nested_too_deep_is_refused(serializer: JsonJobSerializer, bomb: bytes, args_type: Any) -> None:
    with pytest.raises(InvalidArgsError, match="nested too deep"):
        serializer.deserialize(bomb, args_type)


def test_as_deep_as_can_be_is_taken_or_refused(serializer: JsonJobSerializer) -> None:
    refused = 0
    for depth in (*range(850, 1050, 2), 200_000):  # where Python 3.11's own stack begins to fail, and any other's
        try:
            serializer.serialize(Nested(anything=_nested_lists(depth)), Nested)
        except InvalidArgsError:
            refused += 1

    assert 0 < refused <= 100
