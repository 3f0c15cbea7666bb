"""Where settings come from: the environment and the files, each read into the one schema's shape."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from anyjob.base.errors import did_you_mean
from anyjob.base.urls import is_url
from anyjob.settings.schema import FIELDS

__all__ = [
    "APP_VARIABLE",
    "CONFIG_VARIABLE",
    "Source",
    "aliases_in",
    "read_environment",
    "read_files",
    "working_directory",
]

Source = tuple[str, Mapping[str, Any]]
"""A source's name for messages, and its settings."""

APP_VARIABLE: Final = "ANYJOB_APP"
CONFIG_VARIABLE: Final = "ANYJOB_CONFIG"
_PREFIX: Final = "ANYJOB_"
_RESERVED: Final = "ANYJOB_TEST_"
# Kubernetes sets variables for each service: those of one called `anyjob`, or `anyjob-redis`, begin as ours do.
_OF_KUBERNETES: Final = re.compile(
    r".*_(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT(_\d+_[A-Z]+(_PROTO|_PORT|_ADDR)?)?)", re.DOTALL
)
_ROW: Final = re.compile(r"backends__([a-z0-9_]+?)__(url|queues)")

# Variables that hold an alias or a URL; a URL becomes a backend of this alias.
_CHOICES: Final = {"backend": ("default", "default"), "worker_backend": ("worker_backend", "worker")}
_PLAIN: Final = sorted(FIELDS.keys() - {"routes", "worker_backend"})


def read_environment(environ: Mapping[str, str], aliases: Collection[str], faults: list[str]) -> Source:
    """Read the `ANYJOB_*` variables; `__` leads into tables, as in ANYJOB_BACKENDS__MAIN__URL.

    A variable has neither small letters nor '-': of the `aliases` of other sources it means the one that it fits.
    """
    said: dict[str, Any] = {}
    backends: dict[str, Any] = {}
    for variable in sorted(environ):
        if not _is_setting(variable):
            continue
        key, value = variable.removeprefix(_PREFIX).lower(), environ[variable]
        if key in _CHOICES:
            target, alias = _CHOICES[key]
            if is_url(value):
                backends[alias] = {**backends[alias], "url": value} if alias in backends else value
                value = alias
            said[target] = value
        elif row := _ROW.fullmatch(key):
            alias = _fitting(row[1], aliases, variable, faults)
            said_already = backends.get(alias, {})
            if isinstance(said_already, str):  # by ANYJOB_BACKEND
                said_already = {"url": said_already}
            backends[alias] = {**said_already, row[2]: _list(value) if row[2] == "queues" else value}
        elif key in _PLAIN:
            said[key] = _list(value) if key in ("imports", "observers") else value
        else:
            known = [f"{_PREFIX}{each.upper()}" for each in (*_CHOICES, *_PLAIN, "app", "config")]
            if key.startswith("backends__"):
                row_name = variable.rpartition("__")[0]
                known = [f"{row_name}__URL", f"{row_name}__QUEUES"]
            faults.append(f"environment: unknown variable {variable}.{did_you_mean(variable, known)}")
    return "environment", said | ({"backends": backends} if backends else {})


def _is_setting(variable: str) -> bool:
    if not variable.startswith(_PREFIX) or variable.startswith(_RESERVED):
        return False
    if variable in (APP_VARIABLE, CONFIG_VARIABLE):  # where to find them
        return False
    return _OF_KUBERNETES.fullmatch(variable) is None


def aliases_in(sources: Iterable[Source]) -> Collection[str]:
    """Return the aliases that these sources name."""
    said: list[Any] = [each for _, each in sources]
    tables = [each.get("backends") for each in said if isinstance(each, Mapping)]
    return {str(alias) for table in tables if isinstance(table, Mapping) for alias in table}


def working_directory() -> Path | None:
    """Return the current directory, or None if it was deleted."""
    try:
        return Path.cwd()
    except OSError:
        return None


def read_files(directory: Path | None, config: Path | None, faults: list[str]) -> list[Source]:
    """Read `config`, else what the nearest folder from `directory` upwards has: anyjob.toml, [tool.anyjob], or both."""
    if config is not None:
        if not config.is_file():
            faults.append(f"{config}: there is no such file.")
        return _read(config, faults)
    for folder in () if directory is None else (directory, *directory.parents):
        sources = [*_read(folder / "anyjob.toml", faults), *_read(folder / "pyproject.toml", faults)]
        if sources:
            return sources
    return []


def _read(path: Path, faults: list[str]) -> list[Source]:
    if not path.is_file():
        return []
    import tomllib  # imported only if there is a file

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


def _fitting(spelt: str, aliases: Collection[str], variable: str, faults: list[str]) -> str:
    if spelt in aliases:
        return spelt
    fitting = sorted(alias for alias in aliases if alias.lower().replace("-", "_") == spelt)
    if len(fitting) > 1:
        faults.append(f"environment: {variable} fits {' and '.join(map(repr, fitting))}. Rename one of them.")
    return fitting[0] if fitting else spelt


def _list(value: str) -> list[str]:
    return [item.strip() for item in value.split(",") if item.strip()]
