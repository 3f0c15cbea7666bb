"""From a URL's scheme to the backend that an installed package registered for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from anyjob.backend import BackendConfig, JobBackend
from anyjob.errors import BackendNotInstalledError, ConfigurationError, did_you_mean

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

__all__ = ["BackendFactory", "installed_schemes", "load_backend"]

BackendFactory = Callable[[BackendConfig], JobBackend]

GROUP = "anyjob.backends"


def installed_schemes() -> Mapping[str, EntryPoint]:
    """Return the entry points of the group `anyjob.backends` by their name: a URL's scheme, as `memory`, `rq+redis`."""
    from importlib.metadata import entry_points  # takes longer to import than all of anyjob

    return {each.name: each for each in entry_points(group=GROUP)}


def load_backend(config: BackendConfig) -> JobBackend:
    """Make the backend of `config.url`; imports its package, connects to nothing.

    Raises `ConfigurationError` for a scheme that nobody registered, and `BackendNotInstalledError`, with the pip
    command, when the library behind it is missing.
    """
    scheme = config.url.partition(":")[0]
    known = installed_schemes()
    if scheme not in known:
        raise ConfigurationError(
            f"backends.{config.alias}.url: unknown scheme {scheme!r}.{did_you_mean(scheme, known)} "
            f"Known: {', '.join(sorted(known))}."
        )
    try:
        factory: BackendFactory = known[scheme].load()
    except ModuleNotFoundError as error:
        package = known[scheme].module.partition(".")[0]
        if error.name is None or error.name.partition(".")[0] == package:
            raise  # the adapter itself is broken: not a missing library
        extra = scheme.partition("+")[0]
        raise BackendNotInstalledError(
            f"backends.{config.alias} needs {error.name}, which is not installed. Run: pip install 'anyjob[{extra}]'"
        ) from error
    return factory(config)
