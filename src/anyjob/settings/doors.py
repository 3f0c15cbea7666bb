"""Where settings come from: the environment and the files, each read into the one schema's shape."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from anyjob.errors import did_you_mean
from anyjob.settings.schema import FIELDS
from anyjob.urls import is_url

__all__ = ["APP_VARIABLE", "CONFIG_VARIABLE", "Door", "read_environment", "read_files"]

Door = tuple[str, Mapping[str, Any]]
"""A source's name for messages, and what it says."""

APP_VARIABLE: Final = "ANYJOB_APP"
CONFIG_VARIABLE: Final = "ANYJOB_CONFIG"
_PREFIX: Final = "ANYJOB_"
_RESERVED: Final = "ANYJOB_TEST_"
_ROW: Final = re.compile(r"backends__([a-z0-9_]+?)__(url|queues)")

# Variables that hold an alias or a URL; a URL becomes a backend of this alias.
_CHOICES: Final = {"backend": ("default", "default"), "worker_backend": ("worker_backend", "worker")}
_PLAIN: Final = sorted(FIELDS.keys() - {"routes", "worker_backend"})


def read_environment(environ: Mapping[str, str], faults: list[str]) -> Door:
    """Read the `ANYJOB_*` variables; `__` leads into tables, as in ANYJOB_BACKENDS__MAIN__URL."""
    said: dict[str, Any] = {}
    backends: dict[str, Any] = {}
    for variable in sorted(environ):
        if not variable.startswith(_PREFIX) or variable.startswith(_RESERVED):
            continue
        if variable in (APP_VARIABLE, CONFIG_VARIABLE):  # no settings: where to find them
            continue
        key, value = variable.removeprefix(_PREFIX).lower(), environ[variable]
        if key in _CHOICES:
            target, alias = _CHOICES[key]
            if is_url(value):
                backends[alias] = {**backends[alias], "url": value} if alias in backends else value
                value = alias
            said[target] = value
        elif row := _ROW.fullmatch(key):
            said_already = backends.get(row[1], {})
            if isinstance(said_already, str):  # by ANYJOB_BACKEND
                said_already = {"url": said_already}
            backends[row[1]] = {**said_already, row[2]: _list(value) if row[2] == "queues" else value}
        elif key in _PLAIN:
            said[key] = _list(value) if key in ("imports", "observers") else value
        else:
            known = [f"{_PREFIX}{each.upper()}" for each in (*_CHOICES, *_PLAIN, "app", "config")]
            if key.startswith("backends__"):
                row_name = variable.rpartition("__")[0]
                known = [f"{row_name}__URL", f"{row_name}__QUEUES"]
            faults.append(f"environment: unknown variable {variable}.{did_you_mean(variable, known)}")
    return "environment", said | ({"backends": backends} if backends else {})


def read_files(directory: Path, config: Path | None, faults: list[str]) -> list[Door]:
    """Read `config`, else what the nearest folder from `directory` upwards has: anyjob.toml, [tool.anyjob], or both."""
    if config is not None:
        if not config.is_file():
            faults.append(f"{config}: there is no such file.")
        return _read(config, faults)
    for folder in (directory, *directory.parents):
        doors = [*_read(folder / "anyjob.toml", faults), *_read(folder / "pyproject.toml", faults)]
        if doors:
            return doors
    return []


def _read(path: Path, faults: list[str]) -> list[Door]:
    if not path.is_file():
        return []
    import tomllib  # only who has a file pays for it

    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        faults.append(f"{path.name}: {error}")
        return []
    if path.name != "pyproject.toml":
        return [(path.name, content)]
    tool = content.get("tool")
    if not isinstance(tool, Mapping) or "anyjob" not in tool:
        return []
    return [("pyproject.toml [tool.anyjob]", tool["anyjob"])]


def _list(value: str) -> list[str]:
    return [item.strip() for item in value.split(",") if item.strip()]
