"""Arguments to JSON and back, checked on the way in by the decoder that the worker will use on the way out."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any, Final, Protocol

import msgspec

from anyjob.base.errors import InvalidArgsError, JobDefinitionError
from anyjob.define.fidelity import FidelityCheck
from anyjob.define.plain_data import refuse_plain_changes, refuse_unknown_fields
from anyjob.define.pydantic_models import WAYS, is_pydantic_model, read_model, write_model
from anyjob.define.validation import asks_for_validation, validate

__all__ = ["DEFAULT_MAX_ARGS_SIZE", "JobSerializer", "JsonJobSerializer"]

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

    What it writes comes back as it was given, with the same types, or is refused; `FidelityCheck` has the exceptions.
    Plain JSON data is read as `args_type` declares, and written with the defaults that it left out.

    `max_size`: bytes of JSON at most.
    """

    def __init__(self, *, max_size: int = DEFAULT_MAX_ARGS_SIZE) -> None:
        self._max_size = max_size
        self._encoders = [msgspec.json.Encoder(enc_hook=partial(_encode_other, way)) for way in WAYS]
        self._decoders: dict[Any, _Decoder] = {}
        self._check = FidelityCheck()

    def prepare(self, args_type: Any) -> None:
        self._compiled(args_type)

    def serialize(self, args: object, args_type: Any) -> bytes:
        decoder = self._decoders.get(args_type) or self._compiled(args_type)
        encoders = self._encoders
        try:
            if type(args) is not args_type and isinstance(args, _PLAIN):
                args, encoders = self._read_plain(args, args_type), encoders[_ALL_FIELDS]
            return self._encode_checked(args, decoder, encoders)
        except Exception as error:  # also what a property, __post_init__, validator or model_dump raises
            raise InvalidArgsError(f"{_name(args_type)}: {_told(error)}") from error

    def _encode_checked(self, args: object, decoder: _Decoder, encoders: Sequence[msgspec.json.Encoder]) -> bytes:
        """Return the JSON of the first encoder whose JSON decodes to `args`; raise the error of the last one's."""
        try:
            data = encoders[0].encode(args)
            if len(data) > self._max_size:
                self._refuse_size(data)
            self._check.refuse_changes(args, decoder.decode(data))
        except Exception:
            if len(encoders) == 1 or "pydantic" not in sys.modules:
                raise
        else:
            return data
        return self._encode_checked(args, decoder, encoders[1:])

    def _read_plain(self, data: object, args_type: Any) -> Any:
        """Return the arguments that plain data holds. An unknown field is a slip; defaults are filled in."""
        args = self._compiled(args_type).decode(self._encoders[0].encode(data))
        refuse_unknown_fields(data, args_type)
        refuse_plain_changes(self._check, data, args)
        return args

    def _refuse_size(self, data: bytes) -> None:
        raise ValueError(
            f"the arguments take {len(data):,} bytes of JSON; the limit is {self._max_size:,}. "
            "Store the data and pass its key."
        )

    def deserialize(self, data: bytes | msgspec.Raw, args_type: Any) -> Any:
        decoder = self._decoders.get(args_type) or self._compiled(args_type)
        try:
            return decoder.decode(data)
        except Exception as error:  # also what a __post_init__ or validator raises
            raise InvalidArgsError(f"{_name(args_type)}: {_told(error)}") from error

    def _compiled(self, args_type: Any) -> _Decoder:
        decoder = self._decoders.get(args_type)
        if decoder is None:
            decoder = self._decoders[args_type] = _compile(args_type)
        return decoder


class _Decoder(Protocol):
    def decode(self, data: bytes | msgspec.Raw, /) -> Any: ...


class _ValidatingDecoder:
    def __init__(self, decoder: _Decoder) -> None:
        self._decoder = decoder

    def decode(self, data: bytes | msgspec.Raw, /) -> Any:
        value = self._decoder.decode(data)
        validate(value)
        return value


def _compile(args_type: Any) -> _Decoder:
    if _is_orm_model(args_type):
        raise JobDefinitionError(f"{_name(args_type)} is a database model. {_ORM_ADVICE}")
    try:
        decoder: _Decoder = msgspec.json.Decoder(args_type, dec_hook=_decode_other)
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
    return _ValidatingDecoder(decoder) if asks_for_validation(args_type) else decoder


_PLAIN: Final = (dict, list, str, int, float, type(None))
_ALL_FIELDS: Final = slice(1, None, 2)
_PLAIN_OF: Final[Mapping[type, Callable[[Any], Any]]] = {
    str: str.__str__,
    int: int.__int__,
    float: float.__float__,
    datetime: lambda moment: datetime.combine(moment.date(), moment.timetz()),
}
_ORM_ADVICE: Final = "Pass its primary key and load it in the job."


def _encode_other(way: Mapping[str, bool], value: Any) -> Any:
    """Encode what msgspec doesn't know."""
    for base, plain in _PLAIN_OF.items():
        if isinstance(value, base):
            return plain(value)  # it won't come back as it was, which tells the place
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if is_pydantic_model(type(value)):
        return write_model(value, **way)
    if _is_orm_model(type(value)):
        raise TypeError(f"{_name(type(value))} is a database model. {_ORM_ADVICE}")
    raise TypeError(f"{_name(type(value))} can't be written as JSON")


def _decode_other(wanted: Any, value: Any) -> Any:
    """Decode what msgspec doesn't know."""
    if is_pydantic_model(wanted):
        return read_model(wanted, value)
    is_path = isinstance(wanted, type) and issubclass(wanted, os.PathLike)
    if is_path and isinstance(value, str):
        return wanted(value)
    raise TypeError(f"expected {_name(wanted)}, which can't be read from JSON")


def _is_orm_model(cls: Any) -> bool:
    """Tell SQLAlchemy's mapped classes (dataclasses among them) and Django's models without importing either."""
    return hasattr(cls, "__mapper__") or (hasattr(cls, "_meta") and hasattr(cls, "_base_manager"))


def _told(error: Exception) -> str:
    return f"nested too deep: {error}" if isinstance(error, RecursionError) else str(error)  # each Python words its own


def _name(cls: Any) -> str:
    return getattr(cls, "__qualname__", None) or str(cls)
