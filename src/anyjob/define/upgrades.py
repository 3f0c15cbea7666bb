"""Arguments of an older version made into today's, by the job's own steps: plain JSON data in, plain JSON data out.

The version travels in a header and counts the steps that the arguments have had, so that each step runs once and only
on what it was written for. Looking at the data instead could not tell cents from euros, and trying to decode first
would take an old name for a missing field.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from anyjob.base.errors import InvalidArgsError, JobDefinitionError

__all__ = ["ARGS_VERSION_HEADER", "JobUpgrade", "args_version", "refuse_bad_upgrades", "upgrade_args"]

JobUpgrade = Callable[[Any], Any]
"""One step: takes the JSON data of the version before, mostly a dict, and returns that of its own. It must be pure."""

ARGS_VERSION_HEADER: Final = "anyjob-args"


def args_version(headers: Mapping[str, str]) -> int:
    """Return the version of the arguments that came with these headers; 0 is that of a job without steps."""
    version = headers.get(ARGS_VERSION_HEADER, "0")
    return int(version) if version.isascii() and version.isdigit() and len(version) < 6 else 0


def upgrade_args(data: bytes | msgspec.Raw, version: int, upgrades: Mapping[int, JobUpgrade]) -> bytes | msgspec.Raw:
    """Return the JSON after the steps above `version`; raise `InvalidArgsError` if one fails or is gone."""
    wanted = max(upgrades, default=0)
    if version >= wanted:
        return data
    for step in range(version + 1, wanted + 1):
        if step not in upgrades:
            raise InvalidArgsError(f"arguments of version {version}: the step to version {step} is gone from the job.")
        try:
            data = msgspec.json.encode(upgrades[step](msgspec.json.decode(data)))
        except Exception as error:  # whatever a step raises, it will raise again
            raise InvalidArgsError(f"the step to version {step} of the arguments raised {error!r}") from error
    return data


def refuse_bad_upgrades(upgrades: object, place: str) -> None:
    """Raise `JobDefinitionError` unless these are functions under consecutive versions, from 1 or a later one on."""
    if not isinstance(upgrades, Mapping):
        raise JobDefinitionError(f"{place}: upgrades = {upgrades!r} must map versions to functions, as {{1: rename}}.")
    versions = sorted(upgrades) if all(type(each) is int for each in upgrades) else [0]
    if versions and (versions[0] < 1 or versions != list(range(versions[0], versions[-1] + 1))):
        raise JobDefinitionError(
            f"{place}: upgrades lead to the versions 1, 2, 3, ... without a gap, not {[*upgrades]}."
        )
    for version, step in upgrades.items():
        if not callable(step):
            raise JobDefinitionError(f"{place}: upgrades[{version}] = {step!r} is no function.")
