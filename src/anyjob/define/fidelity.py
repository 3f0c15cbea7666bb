"""Whether arguments arrive as they were given: the same types, the same values, all the way down.

One walk over both, side by side, so that a refusal names the place. It quotes no value: that may be a secret.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence, Set
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from functools import partial
from operator import is_
from typing import Any, Final
from uuid import UUID

import msgspec

from anyjob.base.job_id import JobId
from anyjob.define.pydantic_models import is_pydantic_model

__all__ = ["FidelityCheck", "Place", "field_names"]

Place = tuple[Any, Any] | None
"""A linked list of names, indexes and keys, the innermost first: it costs nothing until a refusal reads it."""

Walk = Callable[[Any, Any, Place, list[tuple[Any, Any, Place]]], None]


class FidelityCheck:
    """Compares what was given with what arrives. Thread-safe; learns each type once.

    Three differences are no loss: a tuple may arrive as a list, where the type says nothing else, an int that is given
    for a float as the float that equals it, and a `JobId` as its text. A datetime arrives with its UTC offset; the
    zone's name is not kept.
    """

    def __init__(self) -> None:
        self._walks: dict[type, Walk] = dict(_WALKS)
        self._models: set[type] = set()

    def refuse_changes(self, given: Any, arrives: Any, place: Place = None) -> None:
        """Raise `ValueError` at the first part that would arrive as something else."""
        pending: list[tuple[Any, Any, Place]] = []  # not recursive: as deep as JSON goes
        seen: set[tuple[int, int]] = set()
        while True:
            kind = type(given)
            if kind is not type(arrives):
                _other_type(given, arrives, place, pending)
            else:
                walk = self._walks.get(kind) or self._learn(kind)
                if kind in self._models:  # a validator may have tied a child to its parent
                    walk = walk if (id(given), id(arrives)) not in seen else _nothing
                    seen.add((id(given), id(arrives)))
                walk(given, arrives, place, pending)
            if not pending:
                return
            given, arrives, place = pending.pop()

    def _learn(self, kind: type) -> Walk:
        if is_pydantic_model(kind):
            self._models.add(kind)
        walk = self._walks[kind] = _walk_of(kind)
        return walk


def field_names(kind: type) -> tuple[str, ...]:
    """Return the attributes that hold the fields of a class that has fields; of another, nothing."""
    if issubclass(kind, msgspec.Struct):
        return kind.__struct_fields__
    if dataclasses.is_dataclass(kind):
        return tuple(field.name for field in dataclasses.fields(kind))
    if is_pydantic_model(kind):
        return tuple(kind.model_fields)  # type: ignore[attr-defined]
    return tuple(each.name for each in getattr(kind, "__attrs_attrs__", ())) or getattr(kind, "_fields", ())


def _place(place: Place) -> str:
    """Return a place as msgspec writes one."""
    parts: list[str] = []
    key = ""
    while place is not None:
        place, part = place
        if part is _KEY:
            key = "key` in `"
        else:
            parts.append(f".{part}" if isinstance(part, str) else f"[{part if isinstance(part, int) else '...'}]")
    return f"`{key}${''.join(reversed(parts))}`"


def _walk_of(kind: type) -> Walk:
    if is_pydantic_model(kind):
        return partial(_model, field_names(kind))
    if names := field_names(kind):
        return partial(_fields, names)
    for family, walk in _FAMILIES.items():
        if issubclass(kind, family):
            return walk
    return _value


def _nothing(*_: Any) -> None:
    """Walk no further."""


def _fields(names: Sequence[str], given: Any, arrives: Any, place: Place, pending: list[Any]) -> None:
    for name in names:
        one, other = getattr(given, name, _MISSING), getattr(arrives, name, _MISSING)
        if one is other:
            continue
        kind = type(one)
        if kind in _PLAIN and kind is type(other) and one == other:
            continue
        pending.append((one, other, (place, name)))


def _model(names: Sequence[str], given: Any, arrives: Any, place: Place, pending: list[Any]) -> None:
    _fields(names, given, arrives, place, pending)
    extra = given.__pydantic_extra__
    if extra:
        _entries(extra, arrives.__pydantic_extra__, place, pending)
    private = given.__pydantic_private__
    for name, value in private.items() if private else ():
        # They don't travel. What a default makes anew on the other side is no loss, be it a lock or a cache.
        other = (arrives.__pydantic_private__ or {}).get(name, _MISSING)
        if type(value) is not type(other) or (_has_equality(value) and not _is_equal(value, other)):
            raise ValueError(f"it would be lost - at {_place((place, name))}. Private attributes don't travel.")


def _items(given: Any, arrives: Any, place: Place, pending: list[Any]) -> None:
    if len(given) != len(arrives):
        raise _changed(place)
    kinds = {*map(type, given)}
    if kinds <= _PLAIN and given == arrives:
        if kinds == {*map(type, arrives)} and len(kinds) == 1:
            return
        if all(map(is_, map(type, given), map(type, arrives))):
            return
    for index, (one, other) in enumerate(zip(given, arrives, strict=True)):
        if one is not other:
            pending.append((one, other, (place, index)))


def _entries(given: Mapping[Any, Any], arrives: Mapping[Any, Any], place: Place, pending: list[Any]) -> None:
    for key in given if len(given) > len(arrives) else ():
        if key not in arrives:
            raise ValueError(f"it would be lost - at {_place((place, key))}. No such key is declared.")
    if len(given) != len(arrives):
        raise _changed(place)
    for (key, one), (other_key, other) in zip(given.items(), arrives.items(), strict=True):
        if key is not other_key and not (type(key) is type(other_key) is str and key == other_key):
            pending.append((key, other_key, (place, _KEY)))
        if one is not other:
            pending.append((one, other, (place, key)))


def _members(given: Set[Any], arrives: Set[Any], place: Place, pending: list[Any]) -> None:
    counterparts = {each: each for each in arrives}
    if len(given) != len(arrives):
        raise _changed(place)
    pending.extend((each, counterparts.get(each, _MISSING), (place, ...)) for each in given)


def _moment(given: Any, arrives: Any, place: Place, _: list[Any]) -> None:
    """Ask for the same instant at the same offset; where it has none, for the same time on the wall."""
    if given.tzinfo is arrives.tzinfo and given == arrives:
        return
    if (given.tzinfo is None) is not (arrives.tzinfo is None) or given.utcoffset() != arrives.utcoffset():
        raise ValueError(f"its UTC offset would be lost - at {_place(place)}. {_OFFSET}")
    if given.replace(tzinfo=None) != arrives.replace(tzinfo=None):
        raise _changed(place)


def _float(given: float, arrives: float, place: Place, _: list[Any]) -> None:
    if given != arrives and given == given:  # noqa: PLR0124  # NaN
        raise _changed(place)


def _decimal(given: Decimal, arrives: Decimal, place: Place, _: list[Any]) -> None:
    if given.as_tuple() != arrives.as_tuple():  # 1.0 is not 1.00, and NaN is NaN
        raise _changed(place)


def _value(given: Any, arrives: Any, place: Place, _: list[Any]) -> None:
    if not _has_equality(given):  # it says only whether it is itself
        given, arrives = object.__getstate__(given), object.__getstate__(arrives)
    if not _is_equal(given, arrives):
        raise _changed(place)


def _other_type(given: Any, arrives: Any, place: Place, pending: list[Any]) -> None:
    kinds = (type(given), type(arrives))
    if kinds == (tuple, list):
        _items(given, arrives, place, pending)
    elif kinds not in _AS_GOOD or given != arrives:
        raise ValueError(_told(given, arrives, place))


def _told(given: Any, arrives: Any, place: Place) -> str:
    one, other = _name(type(given)), _name(type(arrives))
    if given is _MISSING or arrives is _MISSING:
        return str(_changed(place))
    if isinstance(given, float) and arrives is None:  # what JSON makes of NaN, without a word
        return f"{given} can't be written as JSON - at {_place(place)}. Pass None or a string."
    if isinstance(given, int) and isinstance(arrives, float):
        return f"`{one}` is too large for a `{other}` - at {_place(place)}."
    if isinstance(given, Enum):
        advice = f"Declare `{one}`, or pass its value."
    elif isinstance(given, type(arrives)):
        advice = f"A subclass won't do: what is its own would be lost. Pass `{other}`"
        advice += "." if type(arrives) in _WALKS else f", or declare `{one}`."
    elif place is not None and place[1] is _KEY:
        advice = f"Keys are strings in JSON: declare it as `dict[{one}, ...]`."
    else:
        advice = f"Declare it as `{one}` alone, or pass `{other}`."
    return f"`{one}` would arrive as `{other}` - at {_place(place)}. {advice}"


def _changed(place: Place) -> ValueError:
    return ValueError(f"it would arrive with another value - at {_place(place)}. {_ONE_WAY}")


def _name(kind: type) -> str:
    return kind.__qualname__


def _has_equality(value: Any) -> bool:
    equality: Any = type(value).__eq__
    return equality is not object.__eq__


def _is_equal(one: Any, other: Any) -> bool:
    try:
        return bool(one == other)
    except RecursionError:
        raise
    except Exception:  # noqa: BLE001  # an array's == says neither yes nor no
        return False


_MISSING: Final = object()
_KEY: Final = object()
_OFFSET: Final = "JSON has offsets of whole minutes, and nothing else of a zone: use UTC."
_ONE_WAY: Final = (
    "Its class doesn't read back what it writes: a mask, an excluded field, an alias, a serializer or a __post_init__."
)

_AS_GOOD: Final = frozenset({(int, float), (JobId, str)})  # another job's id is a text like any
_PLAIN: Final = frozenset({str, int, bool, float, type(None), bytes, UUID, date, timedelta})
"""Types whose objects are the same if they are equal; checked where they are found, without a call."""

_WALKS: Final[Mapping[type, Walk]] = {
    **dict.fromkeys((list, tuple), _items),
    dict: _entries,
    float: _float,
    **dict.fromkeys((datetime, time), _moment),
    Decimal: _decimal,
    **dict.fromkeys((str, bytes, bytearray, memoryview, range), _value),  # sequences, too
}
_FAMILIES: Final[Mapping[Any, Walk]] = {Mapping: _entries, Set: _members, Sequence: _items}
