"""Describes exceptions of jobs, which may lie, and whose attributes may raise."""

from __future__ import annotations

import json
import traceback
from collections.abc import Iterator
from typing import Any, Final

from anyjob.base.errors import UntellableError

__all__ = ["describe_error", "encodable", "format_error", "is_one_line", "tellable", "type_name", "visible"]


def type_name(error: BaseException, *, module: bool = False) -> str:
    """Return the qualified name of the exception's true type, with its module if that is asked for."""
    if type(error) is UntellableError:
        return error.error_type if module else error.error_type.rpartition(".")[2]
    kind: Any = type(error)
    name = encodable(_QUALNAME.__get__(kind))
    if not module:
        return name
    try:
        return encodable(f"{_MODULE.__get__(kind)}.{name}").removeprefix("builtins.")
    except BaseException:  # noqa: BLE001  # it need not be a string
        return name


def tellable(error: BaseException) -> BaseException:
    """Return `error`, or an `UntellableError` in its place if one of its attributes, or of its causes', raises.

    Code that logs, reports or compares an exception reads them, and must be safe from their errors.
    """
    try:
        for each in _chain(error):
            _ask(each)
    except BaseException as refusal:  # noqa: BLE001  # SystemExit and its like: an attribute may raise those as well
        stand_in = UntellableError(type_name(error, module=True), f"it can't be shown: it raised {type_name(refusal)}")
        return BaseException.with_traceback(stand_in, _TRACEBACK.__get__(error))
    return error


def describe_error(error: BaseException, limit: int = 500) -> str:
    """Return type and message, if it has one, of a tellable error on one line of at most `limit` characters."""
    message = visible(" ".join(encodable(str(error)).split()))
    text = f"{type_name(error)}: {message}" if message else type_name(error)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def format_error(error: BaseException, limit: int) -> str:
    """Return the traceback of a tellable error, its last `limit` characters."""
    return encodable("".join(traceback.format_exception(error)))[-limit:]


def encodable(text: str) -> str:
    """Replace lone surrogates (file names have them), which no JSON can hold."""
    return str.encode(text, "utf-8", "backslashreplace").decode("utf-8")


def visible(text: str) -> str:
    """Return foreign text as one line that moves no cursor: what can't be printed is written as JSON escapes it."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else json.dumps(each)[1:-1] for each in text)


def is_one_line(error: BaseException) -> bool:
    """Whether neither a tellable error, nor one that its traceback shows, has a text that `visible` would change."""
    return all(str(each).isprintable() and not hasattr(each, "__notes__") for each in _chain(error))


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield the error and those that its traceback shows, each once, up to a number that no honest chain has."""
    left, seen = [error], set[int]()
    while left and len(seen) < _LONGEST_CHAIN:
        each = left.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        left += [other for other in (each.__cause__, each.__context__) if other is not None]
        if isinstance(each, BaseExceptionGroup):
            left += each.exceptions


def _ask(error: BaseException) -> None:
    encodable(str(error))
    encodable(repr(error))
    kind = type(error)  # a metaclass may lie as well
    encodable(kind.__name__ + kind.__qualname__ + str(kind.__module__))
    _ = (error.__class__, error.__suppress_context__, error.args, getattr(error, "__notes__", ()))
    error.with_traceback(error.__traceback__)


_QUALNAME: Final[Any] = vars(type)["__qualname__"]  # a metaclass may have another
_MODULE: Final[Any] = vars(type)["__module__"]
_TRACEBACK: Final[Any] = vars(BaseException)["__traceback__"]
_LONGEST_CHAIN: Final = 1000
