"""The stable names under which jobs travel: given by `@job_name`, or made of where the job is defined."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final, TypeVar

from anyjob.base.errors import JobDefinitionError, shown
from anyjob.base.plain import plain_text, plain_texts
from anyjob.define.signature import source_location_of

__all__ = ["as_aliases", "job_name", "name_after", "names_of", "refuse_bad_name"]

T = TypeVar("T", bound=type)

_MAX_NAME: Final = 128
_RESERVED: Final = "anyjob."
_NAME_ATTRIBUTE: Final = "__anyjob_name__"


def job_name(name: str, *, aliases: Iterable[str] = ()) -> Callable[[T], T]:
    """Give an args class (or a job class) the stable name under which its jobs travel, and the names it had before.

    The name is the contract with queued messages and with other deployments: it stays when the class is renamed or
    moved. Up to 128 characters. Subclasses don't inherit it.
    """
    names = (plain_text(name), *as_aliases(aliases))
    for each in names:
        refuse_bad_name(each)

    def decorate(cls: T) -> T:
        setattr(cls, _NAME_ATTRIBUTE, names)
        return cls

    return decorate


def names_of(cls: Any) -> tuple[str, ...]:
    """Return the name and aliases that `@job_name` gave `cls` itself, or nothing."""
    names: tuple[str, ...] = getattr(cls, "__dict__", {}).get(_NAME_ATTRIBUTE, ())
    return names


def name_after(owner: Any) -> str:
    """Return the default name of a job: where its function or class is; refuse one that is inside a function.

    Each call of that function makes another job, which would replace the one before; and a process that only imports
    the module has none.
    """
    if "<" in owner.__qualname__:
        raise JobDefinitionError(
            f"{source_location_of(owner)} is defined in a function, or has no name: no name leads to it. Give the job "
            'one: @background_job("mail.send"), or @job_name("mail.send") for a class.'
        )
    return f"{owner.__module__}.{owner.__qualname__}"


def refuse_bad_name(name: object) -> None:
    """Raise `JobDefinitionError` for a value that can't be a job's name."""
    if not isinstance(name, str) or not 0 < len(name) <= _MAX_NAME or not name.isprintable() or " " in name:
        raise JobDefinitionError(
            f"{name!r} can't be a job's name: 1 to {_MAX_NAME} printable characters without spaces, as 'mail.send'."
        )
    if name.startswith(_RESERVED):
        raise JobDefinitionError(f"{name!r}: names that begin with {_RESERVED!r} are anyjob's own, on every broker.")


def as_aliases(aliases: Iterable[str]) -> tuple[str, ...]:
    """Return the aliases; refuse a string, which is an iterable of its letters."""
    texts: Any = plain_texts(aliases)
    if not isinstance(texts, tuple):
        raise JobDefinitionError(f"aliases = {shown(texts)} must be a list, as [{shown(aliases)}].")
    return texts
