"""The backends of a manager by their aliases, each made on first use."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from anyjob.base.errors import ConfigurationError
from anyjob.base.forks import forks_wait, in_each_process
from anyjob.seams.backend import JobBackend

__all__ = ["JobBackends"]

_FOR_URLS: Final = "For a URL: anyjob.configure(backend=...)."


class JobBackends(Mapping[str, JobBackend]):
    """The backends by alias. A backend that is given as a function is made on first use, so that a process pays only
    for the backends that it uses. Thread-safe.
    """

    def __init__(self, backends: Mapping[str, JobBackend | Callable[[], JobBackend]]) -> None:
        if not isinstance(backends, Mapping):
            raise ConfigurationError(f"JobManager takes a JobBackend, not a {type(backends).__name__}. {_FOR_URLS}")
        for alias, each in backends.items():
            if not isinstance(each, JobBackend) and not callable(each):
                raise ConfigurationError(f"Backend {alias!r} is a {type(each).__name__}, no JobBackend. {_FOR_URLS}")
        self._makers = {alias: each for alias, each in backends.items() if not isinstance(each, JobBackend)}
        self._aliases = tuple(backends)
        in_each_process(self._begin)
        self.made = {alias: each for alias, each in backends.items() if isinstance(each, JobBackend)}

    def _begin(self) -> None:
        self._lock = threading.Lock()

    def __getitem__(self, alias: str) -> JobBackend:
        backend = self.made.get(alias)
        if backend is None:
            with forks_wait(), self._lock:
                backend = self.made.get(alias) or self._makers[alias]()
                self.made[alias] = backend
        return backend

    def __contains__(self, alias: object) -> bool:
        return alias in self._aliases

    def __iter__(self) -> Iterator[str]:
        return iter(self._aliases)

    def __len__(self) -> int:
        return len(self._aliases)
