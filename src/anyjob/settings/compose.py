"""The composition root: settings in, a manager with its backends out."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, Final

from anyjob.base.clock import Clock, SystemClock
from anyjob.base.errors import ConfigurationError, NotConfiguredError
from anyjob.base.named import NamedObject
from anyjob.define.registry import JobRegistry
from anyjob.define.serializer import JsonJobSerializer
from anyjob.run.invoker import JobResolver, NamedResolver, construct
from anyjob.seams.backend import BackendConfig, JobBackend
from anyjob.seams.worker_options import WorkerOptions
from anyjob.send.manager import JobManager
from anyjob.settings import Settings, load_settings
from anyjob.settings.loader import installed_schemes, load_backend
from anyjob.settings.sources import working_directory

__all__ = ["build", "load"]


def load(
    given: Mapping[str, Any] | None = None,
    *,
    registry: JobRegistry,
    clock: Clock | None = None,
    connects: bool = True,
) -> JobManager:
    """Read the settings from all sources, `given` the strongest, and return the manager they describe.

    Raises `NotConfiguredError` if no source names a backend, `ConfigurationError` with all faults otherwise. Backends
    are made on first use; none connects before it is used. Without `connects`, in a test's sandbox, a URL may name a
    variable that isn't set: its backend raises `ConfigurationError` if it is used all the same.
    """
    settings = load_settings(given, schemes=installed_schemes(), connects=connects)
    if settings is None:
        raise NotConfiguredError(
            "No backend is configured, so there is nowhere to enqueue to. Set ANYJOB_BACKEND=memory: in the "
            'environment, or write [tool.anyjob.backends.main] with url = "memory:" into pyproject.toml, or call '
            'anyjob.configure(backend="memory:").' + ("" if working_directory() else _NO_DIRECTORY)
        )
    return build(settings, registry=registry, clock=clock)


def build(
    settings: Settings,
    *,
    registry: JobRegistry,
    clock: Clock | None = None,
) -> JobManager:
    """Return the manager that `settings` describe."""
    clock = clock or SystemClock()
    configs = {
        alias: BackendConfig(
            alias=alias,
            url=row.url,
            namespace=settings.namespace,
            queues=row.queues,
            options=row.options,
            enqueue_timeout=settings.enqueue_timeout,
            lease=settings.lease,
            clock=clock,
            known_queues=registry.queues,
        )
        for alias, row in settings.backends.items()
    }
    return JobManager(
        {alias: partial(_make, config, settings.backends[alias].unset) for alias, config in configs.items()},
        registry=registry,
        default=settings.default,
        worker_backend=settings.worker_backend,
        routes=settings.routes,
        queues={alias: row.queues for alias, row in settings.backends.items()},
        clock=clock,
        serializer=JsonJobSerializer(max_size=settings.max_args_size),
        resolver=_resolver(settings),
        observers=[
            _named(settings, "observers", each) if isinstance(each, str) else each for each in settings.observers
        ],
        retry=settings.retry,
        max_losses=settings.max_losses,
        defer_unknown=settings.defer_unknown,
        worker_options=WorkerOptions(stop_timeout=settings.stop_timeout),
        enqueue_only=settings.enqueue_only,
        enqueue_timeout=settings.enqueue_timeout,
        imports=settings.imports,
    )


def _resolver(settings: Settings) -> JobResolver:
    given = settings.resolver
    return NamedResolver(_named(settings, "resolver", given)) if isinstance(given, str) else given or construct


def _named(settings: Settings, path: str, text: str) -> NamedObject:
    return NamedObject(text, f"{settings.sources.get(path, 'arguments')}: {path}")


def _make(config: BackendConfig, unset: str) -> JobBackend:
    if unset:
        raise ConfigurationError(f"backends.{config.alias}.url: {unset}")
    return load_backend(config)


_NO_DIRECTORY: Final = " No file was read: the working directory was deleted."
