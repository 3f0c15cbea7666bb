"""The one place of module state: the default registry, and the manager that jobs enqueue to by default."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from anyjob.base.clock import Clock
from anyjob.base.errors import ConfigurationError, NotConfiguredError
from anyjob.base.forks import forks_wait, in_each_process
from anyjob.base.named import import_application
from anyjob.base.plain import plain_text
from anyjob.define.registry import JobRegistry
from anyjob.run.invoker import JobResolver
from anyjob.seams.backend import JobBackend
from anyjob.seams.observer import JobObserver
from anyjob.send.manager import JobManager
from anyjob.send.wiring import JobWiring

__all__ = [
    "configure",
    "default_registry",
    "get_manager",
    "load_application",
    "load_served",
    "override",
    "redirect",
]

TBackend = TypeVar("TBackend", bound=JobBackend)

default_registry = JobRegistry()
"""Where job classes and functions register themselves unless they name another registry."""

_lock: threading.RLock
_manager: JobManager | None = None
_overrides: list[JobManager] = []
_redirects: list[Callable[[JobManager], JobWiring]] = []
_stand_in: JobManager | None = None


def _begin() -> None:
    global _lock
    _lock = threading.RLock()


in_each_process(_begin)


def get_manager() -> JobManager:
    """Return the manager in force: an override's, else the configured one, else one made from the settings now.

    Raises `NotConfiguredError`, saying how to configure, if no settings name a backend.
    """
    global _manager
    for override_in_force in _overrides[-1:]:
        return override_in_force
    if _manager is None:
        with forks_wait(), _lock:  # it imports what settings need
            if _manager is None:
                if _redirects and _stand_in is not None:
                    return _stand_in
                try:
                    _manager = _load({})
                except NotConfiguredError:
                    if not _redirects:
                        raise
                    return _stood_in()
    return _manager


def configure(
    manager: JobManager | None = None,
    *,
    resolver: JobResolver | str | None = None,
    observers: Iterable[JobObserver | str] | None = None,
    clock: Clock | None = None,
    **settings: Any,
) -> JobManager:
    """Set the default manager and return it: the given one, or one made from `settings` over environment and files.

    `settings` have the keys of the schema, and `backend="memory:"` (a URL) or `backend="main"` (an alias) for short.
    `resolver` makes job objects and `observers` are told of events; each replaces that of the other sources, and is an
    object or a name, as `"shop.container:resolver"`, which is imported on first use.
    """
    global _manager
    made = _given_or_made(manager, resolver, observers, clock, settings)
    with _lock:
        _manager = made
    return made


@contextmanager
def override(
    manager: JobManager | None = None,
    *,
    resolver: JobResolver | str | None = None,
    observers: Iterable[JobObserver | str] | None = None,
    clock: Clock | None = None,
    **settings: Any,
) -> Iterator[JobManager]:
    """Put another manager in force, in all threads, for the length of the context: for tests.

    Takes what `configure` takes. Closes a manager that it made.
    """
    made = _given_or_made(manager, resolver, observers, clock, settings)
    with _lock:
        _overrides.append(made)
    try:
        yield made
    finally:
        with _lock:  # the last of them: the same manager may be in force further out as well
            del _overrides[max(index for index, each in enumerate(_overrides) if each is made)]
        if manager is None:
            made.close()


@contextmanager
def redirect(wiring_of: Callable[[JobManager], JobWiring]) -> Iterator[None]:
    """Send the jobs of every manager, and of those made meanwhile, elsewhere, in all threads: for test sandboxes.

    Meanwhile an application that configured nothing has a manager all the same. Contexts nest; the last one counts.
    """
    with _lock:
        _redirects.append(wiring_of)
        JobManager.redirection = wiring_of
    try:
        yield
    finally:
        with _lock:
            _redirects.remove(wiring_of)
            JobManager.redirection = _redirects[-1] if _redirects else None


def load_application(app: str | None = None) -> JobManager:
    """Return the manager of the application that `app` names, as `module[:manager]`, with its jobs imported.

    For the processes that run jobs. Default is the environment's `ANYJOB_APP`; without either it is the manager in
    force, and so the settings'. Raises `ConfigurationError` if there is no such module, or no manager of that name.
    """
    from anyjob.settings.sources import APP_VARIABLE

    app = app or os.environ.get(APP_VARIABLE)
    manager = None
    if app:
        module_name, _, attribute = app.partition(":")
        module = import_application(module_name, f"-A {app}")
        manager = getattr(module, attribute, None) if attribute else get_manager()
        if not isinstance(manager, JobManager):
            raise ConfigurationError(f"-A {app}: {attribute!r} is no JobManager in {module_name}.")
    manager = manager or get_manager()
    manager.import_jobs()
    return manager


def load_served(kind: type[TBackend]) -> tuple[JobManager, TBackend]:
    """Return the application's manager and the backend that a worker of this process is to serve, which is a `kind`.

    For the entry points of native workers. Raises `ConfigurationError` if that backend is none, or if no worker may
    start here; `JobDefinitionError` if some registered job can't travel.
    """
    manager = load_application()
    if manager.enqueue_only:
        raise ConfigurationError("enqueue_only is set (ANYJOB_ENQUEUE_ONLY?): no worker starts here.")
    backend = manager.backend(manager.worker_backend)
    if not isinstance(backend, kind):
        raise ConfigurationError(
            f"Backend {manager.worker_backend!r}, which this worker is to serve, is no {kind.__name__}. Set "
            "ANYJOB_WORKER_BACKEND to the alias of one that is, or run `anyjob worker --backend ALIAS`."
        )
    manager.registry.check(manager.executor.serializer)
    return manager, backend


def _given_or_made(
    manager: JobManager | None,
    resolver: JobResolver | str | None,
    observers: Iterable[JobObserver | str] | None,
    clock: Clock | None,
    settings: Mapping[str, Any],
) -> JobManager:
    named = {"resolver": resolver, "observers": observers}
    settings = {**settings, **{key: value for key, value in named.items() if value is not None}}
    if manager is None:
        return _load(settings, clock)
    if not isinstance(manager, JobManager):
        raise ConfigurationError(f"{manager!r} is no JobManager. A backend alone: JobManager(backend, registry=...).")
    if settings or clock is not None:
        said = [*settings, *(() if clock is None else ("clock",))]
        raise ConfigurationError(f"Settings ({', '.join(said)}) can't change a manager that is made already.")
    return manager


def _stood_in() -> JobManager:
    """Return the manager of an application without settings; made once, because looking for settings is slow."""
    global _stand_in
    _stand_in = _load({"backends": {"default": "memory:"}})
    return _stand_in


def _load(settings: Mapping[str, Any], clock: Clock | None = None) -> JobManager:
    from anyjob.settings import compose  # with all that settings need, when they are needed

    return compose.load(_spelt_out(settings), registry=default_registry, clock=clock, connects=not _redirects)


def _spelt_out(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    from anyjob.base.urls import is_url

    rest = {key: value for key, value in settings.items() if key != "backend"}
    backend = plain_text(settings.get("backend"))
    if backend is None:
        return rest
    if not is_url(str(backend)):
        return {**rest, "default": backend}
    return {**rest, "default": "default", "backends": {**rest.get("backends", {}), "default": backend}}
