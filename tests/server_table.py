"""The table of docs/capabilities.md that says on which servers this library was run."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

__all__ = ["ServerVersion", "ranges", "server_versions"]

PAGE: Final = Path(__file__).parents[1] / "docs" / "capabilities.md"


class ServerVersion(NamedTuple):
    """One line of it."""

    name: str
    version: str
    source: str
    """Where its program is from: a release of Debian, or PyPI."""

    @property
    def minor(self) -> str:
        """The version without its patch level."""
        return ".".join(self.version.split(".")[:2])

    def __str__(self) -> str:
        return f"{self.name}-{self.minor}"


def server_versions() -> Sequence[ServerVersion]:
    """Return its lines, in their order: oldest first."""
    table = PAGE.read_text(encoding="utf-8").partition("| Server |")[2].partition("\n\n")[0]
    return [
        ServerVersion(*found) for found in re.findall(r"^\| (\w+) \| ([\d.]+) \| ([\w ]+) \|$", table, re.MULTILINE)
    ]


def ranges(*names: str) -> str:
    """Return the versions of servers as pages state them: `Redis 6.2 to 8.0, Valkey 8.1 to 9.1`."""
    run = {name: [each.minor for each in server_versions() if each.name == name] for name in names}
    return ", ".join(f"{name} {minors[0]} to {minors[-1]}" for name, minors in run.items())
