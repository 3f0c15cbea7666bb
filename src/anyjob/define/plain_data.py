"""Plain JSON data for arguments that have a type: it is read as declared, and nothing of it may be lost on the way."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from typing import Any, Final

from anyjob.base.errors import did_you_mean
from anyjob.define.fidelity import FidelityCheck, Place, field_names
from anyjob.define.pydantic_models import is_pydantic_model

__all__ = ["refuse_plain_changes", "refuse_unknown_fields"]


def refuse_unknown_fields(data: Any, args_type: Any) -> None:
    """Raise `ValueError` at the first key of plain data that no field of `args_type` takes, however deep."""

    def walk(value: Any, info: Any, path: str) -> None:
        for part in _parts(value, info, path):
            walk(*part)

    if isinstance(data, Mapping | list):
        walk(data, _type_info(args_type), "$")


def refuse_plain_changes(check: FidelityCheck, given: Any, arrives: Any, place: Place = None) -> None:
    """Raise `ValueError` at the first part that would arrive as something else.

    JSON's own values may arrive as what is declared for them, as the string of a datetime; all others arrive as given.
    """
    if type(given) in _JSON and given == given:  # noqa: PLR0124  # NaN is none of JSON's
        return
    if type(given) not in _HOLDERS:
        check.refuse_changes(given, arrives, place)
        return
    if isinstance(given, dict) and isinstance(arrives, Mapping):
        for key, other in zip(given, arrives, strict=False):
            if type(key) is not str:
                check.refuse_changes({key: None}, {other: None}, place)
    for name, item, other in _counterparts(given, arrives):
        refuse_plain_changes(check, item, other, (place, name))


_JSON: Final = frozenset({str, int, float, bool, type(None)})
_HOLDERS: Final = (dict, list, tuple)


def _counterparts(given: Any, arrives: Any) -> Iterator[tuple[Any, Any, Any]]:
    """Yield the parts of a JSON object or array, each with its name and with what arrives for it."""
    arrives = arrives.root if getattr(arrives, "__pydantic_root_model__", False) else arrives
    if isinstance(given, dict) and isinstance(arrives, Mapping):
        yield from zip(given, given.values(), arrives.values(), strict=False)
    elif isinstance(given, dict):
        fields = _fields(_type_info(type(arrives))) or {}
        yield from ((key, item, getattr(arrives, fields[key].name)) for key, item in given.items() if key in fields)
    elif isinstance(arrives, Set):
        changed = [item for item in given if type(item) not in (*_JSON, *_HOLDERS) and item not in arrives]
        yield from ((..., item, other) for item, other in zip(changed, arrives, strict=False))
    else:
        names = field_names(type(arrives))
        items = [getattr(arrives, name) for name in names] or (arrives if isinstance(arrives, Iterable) else ())
        yield from zip(itertools.count(), given, items, strict=False)


def _parts(value: Any, info: Any, path: str) -> Iterator[tuple[Any, Any, str]]:
    """Yield what plain data holds, each part with its type and path."""
    if hasattr(info, "types"):  # a union
        yield from ((value, member, path) for member in info.types if _is_meant(member, value))
    elif isinstance(value, Mapping) and hasattr(info, "value_type"):
        yield from ((item, info.value_type, f"{path}[...]") for item in value.values())
    elif isinstance(value, Mapping):
        yield from _known_fields(value, info, path)
    elif isinstance(value, list | tuple):
        for index, (item, item_type) in enumerate(zip(value, _item_types(info), strict=False)):
            yield item, item_type, f"{path}[{index}]"


def _known_fields(value: Mapping[Any, Any], info: Any, path: str) -> Iterator[tuple[Any, Any, str]]:
    fields = _fields(info)
    for key, item in value.items():
        if fields is None:
            return
        if key in fields:
            yield item, fields[key].type, f"{path}.{key}"
        elif key != getattr(info, "tag_field", None):
            raise ValueError(f"unknown field {key!r} at `{path}`.{did_you_mean(str(key), fields)}")


def _is_meant(member: Any, value: Any) -> bool:
    """Whether plain data is for this member of a union, as far as a tag tells; the rest differ in kind."""
    tag = getattr(member, "tag", None)
    return tag is None or (isinstance(value, Mapping) and value.get(member.tag_field) == tag)


@dataclass(frozen=True, slots=True)
class _Field:
    name: str
    type: Any


def _fields(info: Any) -> dict[str, _Field] | None:
    """Return the fields that a type has, by their names on the wire; None if it has none, or takes any."""
    model: Any = getattr(info, "cls", None)
    if not is_pydantic_model(model):
        fields = getattr(info, "fields", None)
        return None if fields is None else {each.encode_name: _Field(each.name, each.type) for each in fields}
    if model.model_config.get("extra") == "allow" or model.__pydantic_root_model__:
        return None
    return {
        alias: _Field(name, _type_info(field.annotation))
        for name, field in model.model_fields.items()
        for alias in (name, field.alias, field.validation_alias)
        if isinstance(alias, str)
    }


def _type_info(annotation: Any) -> Any:
    from msgspec import inspect  # only plain data needs it, and it is not light

    try:
        return inspect.type_info(annotation)
    except TypeError:  # pydantic understands more than msgspec
        return inspect.AnyType()


def _item_types(info: Any) -> Iterable[Any]:
    """Return the types of the items that a JSON array holds, one for each."""
    if hasattr(info, "item_type"):
        return itertools.repeat(info.item_type)
    return getattr(info, "item_types", None) or [field.type for field in getattr(info, "fields", ())]
