"""One schema for settings and several sources; every fault of every source is found at once, with its place."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from msgspec import Struct

from anyjob.base.errors import ConfigurationError, did_you_mean
from anyjob.base.urls import expand_url, hide_password, is_url, refuse_unreadable
from anyjob.define.retry import DEFAULT_RETRY, RetryPolicy
from anyjob.define.serializer import DEFAULT_MAX_ARGS_SIZE
from anyjob.run.executor import DEFAULT_MAX_LOSSES, DEFER_UNKNOWN
from anyjob.run.invoker import JobResolver
from anyjob.seams.backend import ENQUEUE_TIMEOUT
from anyjob.seams.observer import JobObserver
from anyjob.seams.source import DEFAULT_LEASE
from anyjob.seams.worker_options import DEFAULT_STOP_TIMEOUT
from anyjob.send.routing import JobRoute
from anyjob.settings.schema import read_source
from anyjob.settings.sources import CONFIG_VARIABLE, Source, aliases_in, read_environment, read_files, working_directory

__all__ = ["BackendSettings", "Settings", "load_settings"]


class BackendSettings(Struct, frozen=True, kw_only=True):
    """One row of `backends`."""

    url: str
    """With `${...}` filled in: it may hold a password, and is never shown."""
    queues: tuple[str, ...] | None = None
    """All logical queues, if the list is to be closed."""
    options: Mapping[str, Any] = {}
    """Passed to the native library unchanged."""
    unset: str = ""
    """Why the URL can't be used, if it was read without `connects`."""

    def __repr__(self) -> str:
        return f"BackendSettings(url={hide_password(self.url)!r}, queues={self.queues!r})"


class Settings(Struct, frozen=True, kw_only=True):
    """The settings of all sources together."""

    default: str
    """Alias of the backend that new jobs go to, unless a route says otherwise."""
    backends: Mapping[str, BackendSettings]
    worker_backend: str | None = None
    """Alias of the backend that a worker serves, if it is not the default."""
    imports: tuple[str, ...] = ()
    """Modules that define jobs."""
    observers: tuple[JobObserver | str, ...] = ()
    """Observers, each by its name (`shop.tracing:Tracing`) or as an object."""
    resolver: JobResolver | str | None = None
    """The resolver that makes job objects, likewise; None calls the job class without arguments."""
    routes: tuple[JobRoute, ...] = ()
    retry: RetryPolicy | None = DEFAULT_RETRY
    """Policy of the jobs that have none of their own; None is a single try."""
    namespace: str = "anyjob"
    enqueue_only: bool = False
    """Start no worker here."""
    enqueue_timeout: float = ENQUEUE_TIMEOUT
    """Seconds within which an enqueue succeeds or fails."""
    max_args_size: int = DEFAULT_MAX_ARGS_SIZE
    """Bytes of JSON."""
    max_losses: int = DEFAULT_MAX_LOSSES
    """How often a job's process may crash while it runs before the job is given up."""
    defer_unknown: float = DEFER_UNKNOWN
    """Seconds for which a job of an unknown name waits for a process with newer code before it is given up."""
    lease: float = DEFAULT_LEASE
    """Seconds after which a job runs again if its worker didn't renew its lease, where no broker notices the crash."""
    stop_timeout: float = DEFAULT_STOP_TIMEOUT
    """Seconds that running jobs may take to finish when a worker stops."""
    sources: Mapping[str, str] = {}
    """The source of each setting, by path."""


def load_settings(
    given: Mapping[str, Any] | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    directory: Path | None = None,
    config: Path | None = None,
    schemes: Collection[str] | None = None,
    connects: bool = True,
) -> Settings | None:
    """Return the settings, or None if no source names a backend. The strongest first: `given`, environment, files.

    Of files, `config` (else `ANYJOB_CONFIG`) is read, else anyjob.toml and [tool.anyjob] of pyproject.toml in the
    nearest of `directory` (default: the current one) and its parents that has any. `schemes`: the URL schemes to
    accept; None accepts all. Without `connects`, a URL may name a variable that isn't set. Raises `ConfigurationError`
    with every fault that there is.
    """
    environ = os.environ if environ is None else environ
    faults: list[str] = []
    if config is None and environ.get(CONFIG_VARIABLE):
        config = Path(environ[CONFIG_VARIABLE])
    arguments: Source = ("arguments", given or {})
    files = read_files(directory or working_directory(), config, faults)
    said_by = [arguments, read_environment(environ, aliases_in([arguments, *files]), faults), *files]
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for source, said in reversed(said_by):
        for path, value in read_source(source, said, faults):
            if value is None and path.startswith("backends."):
                for weaker in [each for each in values if each.startswith(f"{path}.")]:
                    del values[weaker], sources[weaker]
            else:
                values[path], sources[path] = value, source
    settings = _assemble(values, sources, partial(_finish_row, environ, schemes, connects), faults, schemes)
    if faults:
        raise ConfigurationError(*faults)
    return settings


def _assemble(
    values: Mapping[str, Any],
    sources: Mapping[str, str],
    finish_row: Callable[[dict[str, Any]], BackendSettings],
    faults: list[str],
    schemes: Collection[str] | None,
) -> Settings | None:
    """Put the parts together; note the faults that show only now: names that lead nowhere."""
    rows, plain = _split(values)
    backends: dict[str, BackendSettings] = {}
    for alias, row in rows.items():
        try:
            backends[alias] = finish_row(row)
        except ValueError as error:
            faults.append(f"{sources[f'backends.{alias}.{next(iter(row))}']}: backends.{alias}{error}")

    def refuse_unknown_alias(path: str, key: str, alias: str) -> None:
        if alias not in rows:
            known = ", ".join(rows) or "none"
            url = f" Did you mean the URL '{alias}:'?" if alias in (schemes or ()) else ""
            hint = url or did_you_mean(alias, rows)
            faults.append(
                f"{sources[key]}: {path} = {hide_password(alias)!r} names no backend.{hint} Defined: {known}."
            )

    for key in ("default", "worker_backend"):
        if key in plain:
            refuse_unknown_alias(key, key, plain[key])
    for index, route in enumerate(plain.get("routes", ())):
        refuse_unknown_alias(f"routes[{index}].backend", "routes", route.backend)
    if not rows or faults:
        return None
    default = plain.pop("default", None) or _only_candidate(rows, plain.get("worker_backend"), faults)
    if default is None:
        return None
    return Settings(**plain, default=default, backends=backends, sources=dict(sources))


def _only_candidate(aliases: Collection[str], worker_backend: str | None, faults: list[str]) -> str | None:
    """Return the default for new jobs if none is set: the only backend, except the worker's."""
    candidates = [alias for alias in aliases if alias != worker_backend] or list(aliases)
    if len(candidates) == 1:
        return candidates[0]
    faults.append(f"default is missing: which of {', '.join(candidates)} do new jobs go to?")
    return None


def _split(values: Mapping[str, Any]) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """Return the rows of `backends` by alias, and the rest."""
    rows: dict[str, dict[str, Any]] = {}
    plain: dict[str, Any] = {}
    for path, value in values.items():
        if path.startswith("backends."):
            alias, name = path.removeprefix("backends.").rsplit(".", 1)
            rows.setdefault(alias, {})[name] = value
        else:
            plain[path] = value
    return rows, plain


def _finish_row(
    environ: Mapping[str, str], schemes: Collection[str] | None, connects: bool, row: dict[str, Any]
) -> BackendSettings:
    if "url" not in row:
        raise ValueError(": url is missing, as 'memory:'.")
    try:
        url = expand_url(row["url"], environ)
    except ValueError as error:
        if connects:
            raise ValueError(f".url: {error}") from error
        return BackendSettings(**row, unset=str(error))
    return BackendSettings(**{**row, "url": _known(url, schemes)})


def _known(url: str, schemes: Collection[str] | None) -> str:
    try:
        refuse_unreadable(url)
    except ValueError as error:
        raise ValueError(f".url: {error}") from None
    scheme = url.partition(":")[0]
    if schemes is not None and (not is_url(url) or scheme not in schemes):
        known = sorted(schemes)
        raise ValueError(f".url: unknown scheme {scheme!r}.{did_you_mean(scheme, known)} Known: {', '.join(known)}.")
    return url
