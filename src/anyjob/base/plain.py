"""Texts and numbers that users give, made plain: envelopes carry Python's own types.

Encoders don't know a subclass (an Enum's member, Markup, a number of numpy's), and an f-string may format it as
something else than its text.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable
from contextlib import suppress
from numbers import Number
from typing import Any

__all__ = ["plain_number", "plain_text", "plain_texts"]


def plain_text(value: Any) -> Any:
    """Return a str of any subclass as a plain one, anything else as it is: for the check that follows."""
    return str.__str__(value) if isinstance(value, str) else value


def plain_texts(values: Any) -> Any:
    """Return what a list or set holds as a tuple of plain texts; a text, or anything else, as it is."""
    if isinstance(values, str) or not isinstance(values, Iterable):
        return values
    return tuple(plain_text(each) for each in values)


def plain_number(value: Any) -> Any:
    """Return a number of any type as a plain int or float, anything else as it is. A bool is no number."""
    if type(value) in _NUMBERS or isinstance(value, bool):
        return value
    if isinstance(value, float):
        return float.__float__(value)
    if isinstance(value, int):
        return int.__int__(value)
    if isinstance(value, Number):
        for make in (operator.index, float):
            with suppress(TypeError, ValueError, OverflowError):
                return make(value)  # type: ignore[arg-type]  # a complex number is none of both
    return value


_NUMBERS = (int, float)
