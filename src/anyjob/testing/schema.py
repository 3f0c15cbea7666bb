"""The JSON schema of a job's arguments, written so that a snapshot stays the same from one library version to the next.

msgspec's own can't be used: it shows a datetime as any string.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, Final

from msgspec import inspect

from anyjob.define.pydantic_models import is_pydantic_dataclass, is_pydantic_model
from anyjob.testing.pydantic_schema import ANY_KEY, BOUNDS, pydantic_schema

__all__ = ["schema_of"]


def schema_of(args_type: Any) -> dict[str, Any]:
    """Return the JSON schema of a job's arguments, without titles, texts and default values."""
    writer = _Writer()
    schema = writer.write(inspect.type_info(args_type))
    return {**schema, "$defs": writer.definitions} if writer.definitions else schema


class _Writer:
    """Writes types where they are used; only one that holds itself is a definition."""

    def __init__(self) -> None:
        self.definitions: dict[str, Any] = {}
        self._under_way: list[str] = []
        self._recursive: set[str] = set()

    def write(self, info: Any) -> dict[str, Any]:
        for kinds, write in _WRITERS.items():
            if isinstance(info, kinds):
                return write(self, info)
        return {}

    def plain(self, info: Any) -> dict[str, Any]:
        return {**_PLAIN[type(info)], **_said({key: getattr(info, name, None) for name, key in _LIMITS.items()})}

    def choice(self, info: Any) -> dict[str, Any]:
        values = [each.value for each in info.cls] if isinstance(info, inspect.EnumType) else info.values
        return {"enum": sorted(values, key=repr)}

    def union(self, info: Any) -> dict[str, Any]:
        return {"anyOf": [self.write(each) for each in info.types]}

    def metadata(self, info: Any) -> dict[str, Any]:
        return self.write(info.type)

    def array(self, info: Any) -> dict[str, Any]:
        is_set = isinstance(info, inspect.SetType | inspect.FrozenSetType)
        bounds = {"minItems": info.min_length, "maxItems": info.max_length, "uniqueItems": is_set or None}
        return {"type": "array", "items": self.write(info.item_type), **_said(bounds)}

    def tuple(self, info: Any) -> dict[str, Any]:
        fields = getattr(info, "fields", ())
        types = [field.type for field in fields] if fields else info.item_types
        return {
            "type": "array",
            "prefixItems": [self.write(each) for each in types],
            "minItems": sum(field.required for field in fields) if fields else len(types),
            "maxItems": len(types),
        }

    def mapping(self, info: Any) -> dict[str, Any]:
        keys = self.write(info.key_type)
        bounds = {"minProperties": info.min_length, "maxProperties": info.max_length}
        names = {} if keys in ANY_KEY else {"propertyNames": keys}
        return {"type": "object", "additionalProperties": self.write(info.value_type), **_said(bounds), **names}

    def record(self, info: Any) -> dict[str, Any]:
        if getattr(info, "array_like", False):
            return self.tuple(info)
        if is_pydantic_dataclass(info.cls):
            return self._of_pydantic(info.cls)
        return self._named(info.cls.__qualname__, lambda: self._fields(info))

    def custom(self, info: Any) -> dict[str, Any]:
        """Describe a type that msgspec doesn't know; one that can't be described fits everything."""
        cls = info.cls
        if isinstance(cls, type) and issubclass(cls, os.PathLike):
            return {"type": "string"}
        return self._of_pydantic(cls) if is_pydantic_model(cls) else {}

    def _of_pydantic(self, cls: Any) -> dict[str, Any]:
        whole = pydantic_schema(cls)
        return self._named(cls.__qualname__, lambda: self._rewritten(whole, whole.get("$defs", {})))

    def _fields(self, info: Any) -> dict[str, Any]:
        properties = {field.encode_name: self.write(field.type) for field in info.fields}
        required = [field.encode_name for field in info.fields if field.required]
        if getattr(info, "tag", None) is not None:
            properties[info.tag_field] = {"enum": [info.tag]}
            required.append(info.tag_field)
        return {"type": "object", "properties": properties, "required": sorted(required)}

    def _named(self, name: str, write: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        if name in self._under_way:
            self._recursive.add(name)
            return {"$ref": f"#/$defs/{name}"}
        self._under_way.append(name)
        schema = write()
        self._under_way.pop()
        if name in self._recursive:
            self.definitions[name] = schema
        return schema

    def _rewritten(self, schema: Any, definitions: Mapping[str, Any]) -> Any:
        """Return a schema of pydantic's in the same form: without words, its definitions where they are used."""
        if isinstance(schema, list):
            return [self._rewritten(each, definitions) for each in schema]
        if not isinstance(schema, Mapping):
            return schema
        if "$ref" in schema:
            name = schema["$ref"].rpartition("/")[2]
            return self._named(name, lambda: self._rewritten(definitions[name], definitions))
        return {
            key: {name: self._rewritten(each, definitions) for name, each in value.items()}
            if key == "properties"
            else self._rewritten(value, definitions)
            for key, value in schema.items()
            if key not in _LEFT_OUT
        }


def _said(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


_LEFT_OUT: Final = frozenset({"title", "description", "default", "examples", "discriminator", "$defs"})

_LIMITS: Final = {
    **BOUNDS,
    "min_length": "minLength",
    "max_length": "maxLength",
    "pattern": "pattern",
    "tz": "tz",
}

_PLAIN: Final[Mapping[type[Any], Mapping[str, str]]] = {
    inspect.NoneType: {"type": "null"},
    inspect.BoolType: {"type": "boolean"},
    inspect.IntType: {"type": "integer"},
    inspect.FloatType: {"type": "number"},
    inspect.StrType: {"type": "string"},
    inspect.BytesType: {"type": "string", "contentEncoding": "base64"},
    inspect.ByteArrayType: {"type": "string", "contentEncoding": "base64"},
    inspect.MemoryViewType: {"type": "string", "contentEncoding": "base64"},
    inspect.DateTimeType: {"type": "string", "format": "date-time"},
    inspect.TimeType: {"type": "string", "format": "time"},
    inspect.DateType: {"type": "string", "format": "date"},
    inspect.TimeDeltaType: {"type": "string", "format": "duration"},
    inspect.UUIDType: {"type": "string", "format": "uuid"},
    inspect.DecimalType: {"type": "string", "format": "decimal"},
}

_WRITERS: Final[Mapping[Any, Callable[[_Writer, Any], dict[str, Any]]]] = {
    tuple(_PLAIN): _Writer.plain,
    (inspect.EnumType, inspect.LiteralType): _Writer.choice,
    inspect.UnionType: _Writer.union,
    inspect.Metadata: _Writer.metadata,
    inspect.CollectionType: _Writer.array,
    (inspect.TupleType, inspect.NamedTupleType): _Writer.tuple,
    inspect.DictType: _Writer.mapping,
    (inspect.StructType, inspect.DataclassType, inspect.TypedDictType): _Writer.record,
    inspect.CustomType: _Writer.custom,
}
