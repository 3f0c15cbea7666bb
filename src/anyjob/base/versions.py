"""Refuses at once, and in words, a library in a version that an adapter isn't made for.

The extras in pyproject.toml are the one table of what is supported; it is read from anyjob's own metadata.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from importlib import metadata
from typing import Final

from anyjob.base.errors import ConfigurationError

__all__ = ["check_versions"]


def check_versions(extra: str) -> None:
    """Raise `ConfigurationError` if a library that `anyjob[extra]` asks for is here in a version that it excludes.

    Imports no library. One that is missing is left to whoever imports it; a pre-release counts as what it precedes.
    """
    faults = [
        f"anyjob[{extra}] supports {library} {wanted}, and {version} is installed: pip install '{library}{wanted}'"
        for library, wanted, version in _installed(extra)
        if not _is_within(version, wanted)
    ]
    if faults:
        raise ConfigurationError(*faults)


def _installed(extra: str) -> Iterator[tuple[str, str, str]]:
    """Yield the libraries of an extra that are installed: name, supported range, version."""
    for requirement in _requirements():
        found = _REQUIREMENT.fullmatch(requirement)
        if found is not None and found["extra"] == extra:
            wanted = ",".join(sorted(found["wanted"].split(","), reverse=True))  # as one reads it, the floor first
            with suppress(metadata.PackageNotFoundError):
                version: str | None = metadata.version(found["library"])
                if version is not None:  # as of what a half removed library left behind
                    yield found["library"], wanted, version


def _requirements() -> Sequence[str]:
    try:
        return metadata.requires("anyjob") or ()
    except metadata.PackageNotFoundError:  # a copy that nobody installed
        return ()


def _is_within(version: str, wanted: str) -> bool:
    """Whether `version` is at least, or less than, what each part of `wanted` says: `>=5.4,<6`."""
    there = _numbers(version)
    return all((there < _numbers(limit)) == (sign == "<") for sign, limit in _LIMIT.findall(wanted))


def _numbers(version: str) -> tuple[int, ...]:
    """Return what a version begins with; 5.4.0rc1 and 5.4 are the same here."""
    numbers = re.match(r"[\d.]*\d", version)
    return tuple(int(each) for each in re.sub(r"(\.0+)+$", "", numbers[0]).split(".")) if numbers else ()


_REQUIREMENT: Final = re.compile(r"(?P<library>[\w.-]+) *(?P<wanted>[<>=\d.,]+); extra == ['\"](?P<extra>\w+)['\"]")
_LIMIT: Final = re.compile(r"(>=|<)([\d.]+)")
