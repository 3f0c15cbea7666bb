"""Pydantic's models to JSON and back, as pydantic writes and reads them. Never imports pydantic before the application.

A model may read under other names than it writes, and write what it can't read. So there are several ways to write one,
and whoever writes looks whether it came back.
"""

from __future__ import annotations

import dataclasses
import inspect
import sys
import typing
from collections.abc import Callable, Mapping
from datetime import date
from functools import cache
from typing import Any, Final
from uuid import UUID

import msgspec

__all__ = [
    "WAYS",
    "is_pydantic_dataclass",
    "is_pydantic_model",
    "read_model",
    "validate_dataclass",
    "write_model",
]

WAYS: Final[tuple[Mapping[str, bool], ...]] = (
    {"by_alias": True, "only_set": True},  # keeps `model_fields_set`
    {"by_alias": True, "only_set": False},  # a default that was changed in place
    {"by_alias": False, "only_set": True},  # an alias that is written and not read
    {"by_alias": False, "only_set": False},
)
"""How a model can be written, the best way first. The last can write most."""


def is_pydantic_model(cls: Any) -> bool:
    """Tell pydantic's models without importing it."""
    pydantic = sys.modules.get("pydantic")
    return pydantic is not None and isinstance(cls, type) and issubclass(cls, pydantic.BaseModel)


def write_model(value: Any, *, by_alias: bool, only_set: bool) -> msgspec.Raw:
    """Return the JSON of a model; with `only_set` without fields that nobody set and that have a fixed default."""
    unset = _unset(value) if only_set else None
    return msgspec.Raw(
        value.model_dump_json(by_alias=by_alias, round_trip=True, warnings=False, exclude=unset or None).encode()
    )


def read_model(model: Any, value: Any) -> Any:
    """Return the model that JSON data holds, under its fields' aliases or names. Raises `ValueError`.

    By pydantic's rules for JSON, in which a strict model takes the string of a datetime.
    """
    return _read(model, lambda: model.model_validate_json(msgspec.json.encode(value), **_by_name()))


def is_pydantic_dataclass(cls: Any) -> bool:
    """Tell pydantic's dataclasses without importing it."""
    pydantic = sys.modules.get("pydantic.dataclasses")
    return pydantic is not None and isinstance(cls, type) and pydantic.is_pydantic_dataclass(cls)


def validate_dataclass(value: Any) -> None:
    """Have pydantic read the fields of one of its dataclasses, and keep what it makes of them. Raises `ValueError`."""
    from pydantic import TypeAdapter

    names = [field.name for field in dataclasses.fields(value) if field.init]
    given = {name: getattr(value, name) for name in names}
    read = _read(type(value), lambda: TypeAdapter(type(value)).validate_python(given, **_by_name()))
    for name in names:
        object.__setattr__(value, name, getattr(read, name))


def _read(cls: Any, read: Callable[[], Any]) -> Any:
    from pydantic import ValidationError

    try:
        return read()
    except ValidationError as error:  # its own text quotes the input
        faults = error.errors(include_input=False, include_url=False)
        text = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in faults)
        raise ValueError(f"{cls.__qualname__}: {text}") from None


@cache
def _by_name() -> Mapping[str, Any]:
    from pydantic import BaseModel

    known = inspect.signature(BaseModel.model_validate_json).parameters
    return {"by_alias": True, "by_name": True} if "by_name" in known else {}  # since pydantic 2.11


def _unset(value: Any) -> dict[Any, Any]:
    """Return what pydantic should leave out, in its form."""
    if isinstance(value, _LEAVES):
        return {}
    if isinstance(value, dict):
        return {key: nested for key, item in value.items() if (nested := _unset(item))}
    if isinstance(value, list | tuple):
        return {index: nested for index, item in enumerate(value) if (nested := _unset(item))}
    is_set = getattr(value, "__pydantic_fields_set__", None)
    if is_set is None:
        return {}
    if value.__pydantic_root_model__:
        return _unset(value.root)
    unset: dict[Any, Any] = dict.fromkeys(_fixed_fields(value.__class__) - is_set, True)
    for name in is_set:
        if nested := _unset(getattr(value, name)):
            unset[name] = nested
    return unset


@cache
def _fixed_fields(model: Any) -> frozenset[str]:
    """Return the fields whose default comes back when it is left out.

    A factory makes another one, and a Literal is what tells the model from others.
    """
    return frozenset(
        name
        for name, field in model.model_fields.items()
        if field.default_factory is None and typing.get_origin(field.annotation) is not typing.Literal
    )


_LEAVES: Final = (str, int, float, type(None), UUID, date)
