"""Arguments to JSON and back, checked on the way in by the decoder that the worker will use on the way out."""

from __future__ import annotations

import itertools
import math
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, Protocol

import msgspec

from anyjob.errors import InvalidArgsError, JobDefinitionError, did_you_mean
from anyjob.job_id import JobId

__all__ = ["DEFAULT_MAX_ARGS_SIZE", "JobSerializer", "JsonJobSerializer", "is_pydantic_model"]

DEFAULT_MAX_ARGS_SIZE: Final = 1024 * 1024


class JobSerializer(Protocol):
    """Turns arguments into JSON and back. Thread-safe; never imports or builds what a message names."""

    def serialize(self, args: object, args_type: Any) -> bytes:
        """Return the JSON of `args`, which `deserialize` is sure to accept; raise `InvalidArgsError` otherwise."""
        ...

    def deserialize(self, data: bytes | msgspec.Raw, args_type: Any) -> Any:
        """Return the `args_type` that `data` holds, ignoring unknown fields; raise `InvalidArgsError` if it can't."""
        ...

    def prepare(self, args_type: Any) -> None:
        """Compile what `args_type` needs; raise `JobDefinitionError` if it can't travel. Costs nothing again."""
        ...


class JsonJobSerializer:
    """The JSON codec of msgspec: dataclass, TypedDict, NamedTuple, Struct, attrs, pydantic models when installed, and
    datetime, date, time, timedelta, UUID, Decimal, Enum, bytes (base64), set, tuple, Path inside of them.

    `max_size`: bytes of JSON at most.
    """

    def __init__(self, *, max_size: int = DEFAULT_MAX_ARGS_SIZE) -> None:
        self._max_size = max_size
        self._encoder = msgspec.json.Encoder(enc_hook=_encode_other)
        self._decoders: dict[Any, msgspec.json.Decoder[Any]] = {}

    def prepare(self, args_type: Any) -> None:
        self._compiled(args_type)

    def serialize(self, args: object, args_type: Any) -> bytes:
        decoder = self._decoders.get(args_type) or self._compiled(args_type)
        try:
            data = self._encode(args)
            value = decoder.decode(data)
            if data.find(b"null") >= 0:  # what JSON makes of NaN, without a word
                _refuse_nan(msgspec.to_builtins(args, enc_hook=_encode_other), "$")
            if isinstance(args, _PLAIN):  # plain data: an unknown field is a slip; a function's defaults travel along
                refuse_unknown_fields(args, args_type)
                data = self._encode(value)
                decoder.decode(data)
        except Exception as error:  # also what a property, __post_init__, validator or model_dump raises
            raise InvalidArgsError(f"{_name(args_type)}: {_told(error)}") from error
        return data

    def deserialize(self, data: bytes | msgspec.Raw, args_type: Any) -> Any:
        decoder = self._decoders.get(args_type) or self._compiled(args_type)
        try:
            return decoder.decode(data)
        except Exception as error:  # also what a __post_init__ or validator raises
            raise InvalidArgsError(f"{_name(args_type)}: {_told(error)}") from error

    def _encode(self, args: object) -> bytes:
        data = self._encoder.encode(args)
        if len(data) > self._max_size:
            raise ValueError(
                f"the arguments take {len(data):,} bytes of JSON; the limit is {self._max_size:,}. "
                "Store the data and pass its key."
            )
        return data

    def _compiled(self, args_type: Any) -> msgspec.json.Decoder[Any]:
        decoder = self._decoders.get(args_type)
        if decoder is None:
            decoder = self._decoders[args_type] = _compile(args_type)
        return decoder


def _compile(args_type: Any) -> msgspec.json.Decoder[Any]:
    if _is_orm_model(args_type):
        raise JobDefinitionError(f"{_name(args_type)} is a database model. {_ORM_ADVICE}")
    try:
        return msgspec.json.Decoder(args_type, dec_hook=_decode_other)
    except TypeError as error:
        advice = ""
        if "union" in str(error):
            advice = (
                " JSON can't tell the members apart: make them msgspec.Struct classes with tag=True, "
                "or give each a field of its own."
            )
        raise JobDefinitionError(f"{_name(args_type)} can't be job arguments: {error}.{advice}") from error
    except NameError as error:
        raise JobDefinitionError(
            f"{_name(args_type)} can't be job arguments: {error}. "
            "Its annotations must be importable names, not only under TYPE_CHECKING."
        ) from error


_PLAIN: Final = (dict, list)
_ORM_ADVICE: Final = "Pass its primary key and load it in the job."


def _encode_other(value: Any) -> Any:
    """Encode what msgspec doesn't know."""
    if type(value) is JobId:  # another job's id is a text like any
        return str(value)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if is_pydantic_model(type(value)):
        return value.model_dump(mode="json", by_alias=True, round_trip=True, warnings=False)
    if _is_orm_model(type(value)):
        raise TypeError(f"{_name(type(value))} is a database model. {_ORM_ADVICE}")
    raise TypeError(f"{_name(type(value))} can't be written as JSON")


def _decode_other(wanted: Any, value: Any) -> Any:
    """Decode what msgspec doesn't know."""
    if is_pydantic_model(wanted):
        return _validate(wanted, value)
    is_path = isinstance(wanted, type) and issubclass(wanted, os.PathLike)
    if is_path and isinstance(value, str):
        return wanted(value)
    raise TypeError(f"expected {_name(wanted)}, which can't be read from JSON")


def _validate(model: Any, value: Any) -> Any:
    from pydantic import ValidationError

    try:
        return model.model_validate(value)
    except ValidationError as error:  # its own text quotes the input
        faults = error.errors(include_input=False, include_url=False)
        text = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in faults)
        raise ValueError(f"{_name(model)}: {text}") from None


def is_pydantic_model(cls: Any) -> bool:
    """Tell pydantic's models without importing it."""
    pydantic = sys.modules.get("pydantic")
    return pydantic is not None and isinstance(cls, type) and issubclass(cls, pydantic.BaseModel)


def _is_orm_model(cls: Any) -> bool:
    """Tell SQLAlchemy's mapped classes (dataclasses among them) and Django's models without importing either."""
    return hasattr(cls, "__mapper__") or (hasattr(cls, "_meta") and hasattr(cls, "_base_manager"))


def _told(error: Exception) -> str:
    return f"nested too deep: {error}" if isinstance(error, RecursionError) else str(error)  # each Python words its own


def _name(cls: Any) -> str:
    return getattr(cls, "__qualname__", None) or str(cls)


def refuse_unknown_fields(data: Any, args_type: Any) -> None:
    """Raise `ValueError` at the first key of plain data that no field of `args_type` takes, however deep."""

    def walk(value: Any, info: Any, path: str) -> None:
        for part in _parts(value, info, path):
            walk(*part)

    walk(data, _type_info(args_type), "$")


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
    for key, item in value.items() if fields else ():
        if key in fields:
            yield item, fields[key], f"{path}.{key}"
        elif key != getattr(info, "tag_field", None):
            raise ValueError(f"unknown field {key!r} at `{path}`.{did_you_mean(str(key), fields)}")


def _is_meant(member: Any, value: Any) -> bool:
    """Whether plain data is for this member of a union, as far as a tag tells; the rest differ in kind."""
    tag = getattr(member, "tag", None)
    return tag is None or (isinstance(value, Mapping) and value.get(member.tag_field) == tag)


def _fields(info: Any) -> dict[str, Any]:
    """Return the fields that a type has on the wire, with the type of each; empty if it has none, or any."""
    model: Any = getattr(info, "cls", None)
    if not is_pydantic_model(model):
        return {field.encode_name: field.type for field in getattr(info, "fields", ())}
    if model.model_config.get("extra") == "allow":
        return {}
    return {
        alias: _type_info(field.annotation)
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


def _refuse_nan(value: Any, path: str) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{value} can't be written as JSON - at `{path}`. Pass None or a string.")
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else ()
    for key, item in items:
        _refuse_nan(item, f"{path}.{key}" if isinstance(value, dict) else f"{path}[{key}]")
