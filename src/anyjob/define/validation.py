"""The checks of classes that msgspec fills without asking them: pydantic's dataclasses, and attrs classes."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from typing import Any

from anyjob.define.fidelity import field_names
from anyjob.define.pydantic_models import is_pydantic_dataclass, is_pydantic_model, validate_dataclass

__all__ = ["asks_for_validation", "validate"]


def asks_for_validation(args_type: Any) -> bool:
    """Whether somewhere in `args_type` there is a class with checks of its own that msgspec doesn't call."""
    if not {"attr", "pydantic.dataclasses"} & {*sys.modules}:
        return False
    from msgspec import inspect  # not light

    try:
        pending: list[Any] = [inspect.type_info(args_type)]
    except TypeError:  # what can be decoded can't always be described
        return True
    seen: set[int] = set()
    while pending:
        info = pending.pop()
        if id(info) in seen:  # a type that holds itself
            continue
        seen.add(id(info))
        if isinstance(info, tuple):
            pending.extend(info)
        elif isinstance(info, inspect.Type | inspect.Field):
            cls = getattr(info, "cls", None)
            if is_pydantic_dataclass(cls) or _has_attrs_validators(cls):
                return True
            pending.extend(getattr(info, name) for name in info.__struct_fields__)
    return False


def validate(value: Any) -> None:
    """Call those checks, from the inside out. Raises what they raise."""
    for part in _parts(value):
        validate(part)
    if is_pydantic_dataclass(type(value)):
        validate_dataclass(value)
    elif _has_attrs_validators(type(value)):
        sys.modules["attr"].validate(value)


def _parts(value: Any) -> Iterable[Any]:
    if isinstance(value, Mapping):
        return value.values()
    if isinstance(value, list | tuple | set | frozenset):
        return value
    kind = type(value)
    names = () if is_pydantic_model(kind) else field_names(kind)  # pydantic checks what its models hold
    return [getattr(value, name) for name in names]


def _has_attrs_validators(cls: Any) -> bool:
    return any(field.validator for field in getattr(cls, "__attrs_attrs__", ()))
