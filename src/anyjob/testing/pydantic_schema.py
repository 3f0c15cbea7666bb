"""The JSON schema of a pydantic model with the limits that pydantic's own leaves out: of keys, times and decimals."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, time, timedelta
from functools import cache
from typing import Any, Final

from anyjob.define.pydantic_models import is_pydantic_model

__all__ = ["ANY_KEY", "BOUNDS", "pydantic_schema"]


def pydantic_schema(cls: Any) -> dict[str, Any]:
    """Return the schema of what a model, or a dataclass of pydantic's, reads; a dataclass under its fields' names."""
    if is_pydantic_model(cls):
        schema: dict[str, Any] = cls.model_json_schema(schema_generator=_generator())
        return schema
    from pydantic import TypeAdapter

    return TypeAdapter(cls).json_schema(by_alias=False, schema_generator=_generator())


@cache
def _generator() -> Any:
    from pydantic.json_schema import GenerateJsonSchema

    class Generator(GenerateJsonSchema):
        def generate_inner(self, schema: Any) -> dict[str, Any]:
            written = super().generate_inner(schema)
            if "$ref" in written:
                return written
            if schema["type"] == "dict":
                return _with_keys(written, self.generate_inner(schema.get("keys_schema", {"type": "any"})))
            return {**_INSTEAD.get(schema["type"], written), **_limits(schema)}

    return Generator


def _with_keys(written: Mapping[str, Any], keys: Mapping[str, Any]) -> dict[str, Any]:
    by_pattern = written.get("patternProperties", {})
    whole = {key: value for key, value in written.items() if key != "patternProperties"}
    for values in by_pattern.values():
        whole["additionalProperties"] = values
    return whole if keys in ANY_KEY else {**whole, "propertyNames": keys}


def _limits(schema: Mapping[str, Any]) -> dict[str, Any]:
    if schema["type"] not in _UNLIMITED:
        return {}
    return {name: _plain(schema[key]) for key, name in _LIMITS.items() if schema.get(key) is not None}


def _plain(limit: Any) -> Any:
    """Return a limit as JSON that has the order of what it limits."""
    if isinstance(limit, timedelta):
        return limit.total_seconds()
    if isinstance(limit, date | time):
        return limit.isoformat()
    return limit if isinstance(limit, int | str) else float(limit)


ANY_KEY: Final[tuple[Mapping[str, Any], ...]] = ({}, {"type": "string"})
_INSTEAD: Final = {"decimal": {"type": "string", "format": "decimal"}}
_UNLIMITED: Final = ("decimal", "date", "datetime", "time", "timedelta")
BOUNDS: Final[Mapping[str, str]] = {
    "ge": "minimum",
    "gt": "exclusiveMinimum",
    "le": "maximum",
    "lt": "exclusiveMaximum",
    "multiple_of": "multipleOf",
}
"""The names in JSON Schema of the bounds that msgspec and pydantic call alike."""
_LIMITS: Final = {
    **BOUNDS,
    "max_digits": "maxDigits",
    "decimal_places": "decimalPlaces",
    "tz_constraint": "tz",
    "now_op": "now",
}
