"""Whether all data that fitted one JSON schema still fits another, as far as `schema_of` writes them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

__all__ = ["narrowings"]

Schema = Mapping[str, Any]

_LOWER: Final = ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties")
_UPPER: Final = ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties", "maxDigits", "decimalPlaces")
_TEXT: Final[Schema] = {"type": "string"}
_SAME: Final = ("format", "pattern", "multipleOf", "uniqueItems", "tz", "now")


def narrowings(old: Schema, new: Schema, path: str = "args") -> Iterator[str]:
    """Yield, with its path, each way in which data of the old schema may no longer fit the new one, or be lost."""
    yield from _Comparison(old.get("$defs", {}), new.get("$defs", {})).narrowed(old, new, path)


class _Comparison:
    def __init__(self, old_definitions: Schema, new_definitions: Schema) -> None:
        self._old = old_definitions
        self._new = new_definitions
        self._under_way: set[tuple[str, str]] = set()

    def narrowed(self, old: Schema, new: Schema, path: str) -> Iterator[str]:
        pair = (str(old.get("$ref")), str(new.get("$ref")))
        if "None" not in pair:
            if pair in self._under_way:  # a type that holds itself
                return
            self._under_way.add(pair)
        old, new = _resolved(old, self._old), _resolved(new, self._new)
        old_members, new_members = _members(old), _members(new)
        if len(old_members) == len(new_members) == 1:
            yield from self._member_narrowed(old_members[0], new_members[0], path)
            return
        for member in old_members:
            if not any(self._fits(member, other) for other in new_members):
                yield f"{path}: {_kind(_resolved(member, self._old))} is no longer accepted"

    def _fits(self, old: Schema, new: Schema) -> bool:
        comparison = _Comparison(self._old, self._new)
        comparison._under_way = set(self._under_way)
        return not any(True for _ in comparison.narrowed(old, new, ""))

    def _member_narrowed(self, old: Schema, new: Schema, path: str) -> Iterator[str]:
        if not _constraints(new):
            return
        if not _same_kind(old, new):
            yield f"{path}: was {_kind(old)}, is {_kind(new)}"
            return
        yield from _bounds_narrowed(old, new, path)
        if new.get("type") == "object":
            yield from self._object_narrowed(old, new, path)
        if new.get("type") == "array":
            yield from self._array_narrowed(old, new, path)

    def _object_narrowed(self, old: Schema, new: Schema, path: str) -> Iterator[str]:
        had, has = old.get("properties", {}), new.get("properties", {})
        rest = new.get("additionalProperties")
        for name, schema in had.items():
            if name in has:
                yield from self.narrowed(schema, has[name], f"{path}.{name}")
            elif isinstance(rest, Mapping):
                yield from self.narrowed(schema, rest, f"{path}.{name}")
            else:
                yield f"{path}.{name}: is gone, and what waits in it would be ignored"
        for name in new.get("required", ()):
            if name not in old.get("required", ()):
                yield f"{path}.{name}: {'lost its default' if name in had else 'is new and has no default'}"
        before = old.get("additionalProperties", False)
        if before is not False and isinstance(rest, Mapping):
            yield from self.narrowed({} if before is True else before, rest, f"{path}[...]")
            yield from self.narrowed(old.get("propertyNames", _TEXT), new.get("propertyNames", {}), f"{path}[key]")
        elif before is not False and rest is not True:
            yield f"{path}: takes no further fields, and what waits in them would be ignored"

    def _array_narrowed(self, old: Schema, new: Schema, path: str) -> Iterator[str]:
        had, has = old.get("prefixItems", []), new.get("prefixItems", [])
        for index, (before, now) in enumerate(zip(had, has, strict=False)):
            yield from self.narrowed(before, now, f"{path}[{index}]")
        if isinstance(new.get("items"), Mapping):
            before = old.get("items")
            yield from self.narrowed(before if isinstance(before, Mapping) else {}, new["items"], f"{path}[...]")


def _members(schema: Schema) -> list[Schema]:
    return list(schema.get("anyOf") or schema.get("oneOf") or [schema])


def _resolved(schema: Schema, definitions: Schema) -> Schema:
    while "$ref" in schema:
        schema = definitions[schema["$ref"].rpartition("/")[2]]
    return schema


def _constraints(schema: Schema) -> Schema:
    return {key: value for key, value in schema.items() if key not in ("$defs", "discriminator")}


def _choices(schema: Schema) -> list[Any] | None:
    return [schema["const"]] if "const" in schema else schema.get("enum")


def _same_kind(old: Schema, new: Schema) -> bool:
    had, has = _choices(old), _choices(new)
    if has is not None:
        return had is not None and all(each in has for each in had)
    if had is not None and "type" not in old:
        return all(_KINDS.get(new.get("type", ""), lambda _: False)(each) for each in had)
    return old.get("type") == new.get("type") or (old.get("type"), new.get("type")) == ("integer", "number")


_KINDS: Final[Mapping[str, Callable[[Any], bool]]] = {
    "string": lambda value: isinstance(value, str),
    "integer": lambda value: isinstance(value, int),
    "number": lambda value: isinstance(value, int | float),
}


def _bounds_narrowed(old: Schema, new: Schema, path: str) -> Iterator[str]:
    for key in (*_LOWER, *_UPPER):
        if key not in new:
            continue
        if key not in old or (new[key] > old[key] if key in _LOWER else new[key] < old[key]):
            yield f"{path}: {key} was {old.get(key, 'none')}, is {new[key]}"
    for key in (*_SAME, "contentEncoding"):
        if (key in new or key == "contentEncoding") and new.get(key) != old.get(key):  # base64 is no text to be read
            yield f"{path}: {key} was {old.get(key, 'none')}, is {new.get(key, 'none')}"


def _kind(schema: Schema) -> str:
    choices = _choices(schema)
    if choices is not None:
        return "one of " + ", ".join(map(repr, choices))
    return str(schema.get("format") or schema.get("type") or "anything")
