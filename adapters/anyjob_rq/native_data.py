"""Reads the calls that RQ wrote without running anything: it makes only harmless objects of a pickle."""

from __future__ import annotations

import io
import json
import pickle
import pickletools
import zlib
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any, Final
from uuid import UUID
from zoneinfo import ZoneInfo

from msgspec import Struct

from anyjob_rq.frame import LONGEST_DATA

__all__ = ["HARMLESS", "NativeCall", "Unfit", "load", "read_call"]


class Unfit(Exception):  # noqa: N818  # it is no error: it says why something stays where it is
    """Why something can't be read, as a sentence."""


class NativeCall(Struct, frozen=True):
    """The call of an RQ job; an `obstacle` is why it can't become a job."""

    task: str
    args: Sequence[Any] = ()
    kwargs: Mapping[str, Any] = {}
    obstacle: str | None = None


def read_call(data: bytes) -> NativeCall:
    """Return the call in a job's `data`, as RQ compresses it. Raises `Unfit` if not even its task can be told."""
    value, foreign = _parse(_decompress(data))
    match value:
        case [str(task), instance, [*args], dict(kwargs)] if all(isinstance(key, str) for key in kwargs):
            unfit = foreign or _find_unfit((args, kwargs))
            if instance is not None:
                unfit = "It calls a method of an object, and a job is a function's."
            return NativeCall(task, obstacle=unfit) if unfit else NativeCall(task, args, kwargs)
    raise Unfit("Its data is no call as RQ writes it.")


def load(data: bytes) -> Any:
    """Return the plain value that one of RQ's serializers wrote. Raises `Unfit`."""
    value, foreign = _parse(data)
    unfit = foreign or _find_unfit(value)
    if unfit:
        raise Unfit(unfit)
    return value


def _decompress(data: bytes) -> bytes:
    unpacker = zlib.decompressobj()
    try:
        message = unpacker.decompress(data, LONGEST_DATA)
    except zlib.error:
        return data  # RQ reads what isn't compressed as well
    if unpacker.unconsumed_tail:
        raise Unfit(f"Its data unpacks into more than {LONGEST_DATA:,} bytes.")
    return message


def _parse(data: bytes) -> tuple[Any, str | None]:
    """Return the value in JSON or a pickle; and why not, if only the application's code could make a part of it."""
    try:
        if not data.startswith(pickle.PROTO):
            return json.loads(data), None
        _refuse_traps(data)
        reader = _Reader(io.BytesIO(data))
        value = reader.load()
    except Unfit:
        raise
    except Exception as error:  # a broken pickle raises anything
        raise Unfit(f"Its data can't be read as JSON or as a pickle: {type(error).__name__}.") from error
    return value, reader.foreign


def _refuse_traps(data: bytes) -> None:
    """Refuse data that makes the unpickler ask for unbounded memory, or bypass `find_class`."""
    for number, (opcode, argument, _) in enumerate(pickletools.genops(data)):
        if opcode.name.startswith("EXT") or number >= _MOST_VALUES:
            raise Unfit("Its data is a pickle too large or too strange to be read.")
        if opcode.name.endswith("PUT") and int(argument or 0) > len(data):
            raise Unfit("Its data is a pickle that would take up all memory.")


class _Foreign:
    """Stands, in data that is thrown away, for an object of a class that isn't harmless: none of its code is run."""

    def __new__(cls, *_args: Any, **_kwargs: Any) -> _Foreign:
        return object.__new__(cls)

    def _pass(self, *_args: Any, **_kwargs: Any) -> None:
        return

    __init__ = __setstate__ = __setitem__ = append = extend = add = update = _pass

    def __call__(self, *_args: Any, **_kwargs: Any) -> _Foreign:
        return self


class _Reader(pickle.Unpickler):
    """Finds only the classes of the table, and imports nothing."""

    foreign: str | None = None

    def find_class(self, module: str, name: str, /) -> Any:
        if (module, name) == ("builtins", "getattr"):
            return self._attribute
        found = HARMLESS.get((module, name))
        return self._refuse(f"{module}.{name}") if found is None else found

    def _attribute(self, owner: object, name: object) -> Any:
        # The one harmless object that is pickled by its state: a time zone.
        return ZoneInfo._unpickle if owner is ZoneInfo and name == "_unpickle" else self._refuse(f"{name}")  # type: ignore[attr-defined]  # noqa: SLF001

    def _refuse(self, name: str) -> Any:
        self.foreign = self.foreign or f"It holds a {name[:200]}, which only the application's own code can make."
        return _Foreign


def _find_unfit(value: Any) -> str | None:
    """Return what in a value is not plain, or too deep: one that contains itself has no end."""
    left, count = [(0, value)], 0
    while left:
        depth, each = left.pop()
        count += 1
        if depth > _DEEPEST or count > _MOST_VALUES:
            return "Its arguments are too many, or nested too deeply."
        if isinstance(each, dict):
            left += _below(depth, (*each.keys(), *each.values()))
        elif isinstance(each, list | tuple | set | frozenset):
            left += _below(depth, each)
        elif not isinstance(each, _PLAIN):
            return f"It holds a {type(each).__name__}, which is no plain value."
    return None


def _below(depth: int, values: Iterable[Any]) -> Iterable[tuple[int, Any]]:
    return ((depth + 1, each) for each in values)


# No `bytearray` or `bytes` by a call: its argument may be a number of bytes to allocate. A pickle needs no call.
HARMLESS: Final[Mapping[tuple[str, str], Any]] = {
    ("datetime", "datetime"): datetime,
    ("datetime", "date"): date,
    ("datetime", "time"): time,
    ("datetime", "timedelta"): timedelta,
    ("datetime", "timezone"): timezone,
    ("zoneinfo", "ZoneInfo"): ZoneInfo,
    ("decimal", "Decimal"): Decimal,
    ("uuid", "UUID"): UUID,
    ("collections", "OrderedDict"): OrderedDict,
    ("builtins", "set"): set,
    ("builtins", "frozenset"): frozenset,
}
"""The only objects made of a pickle besides numbers, texts, bytes, lists, tuples, sets and dicts.

None lets a pickle set an attribute of the class itself: each is immutable, or has a `__setstate__`.
"""

_PLAIN: Final = (type(None), bool, int, float, str, bytes, bytearray, date, time, timedelta, Decimal, UUID)
_DEEPEST: Final = 100
_MOST_VALUES: Final = 1_000_000
