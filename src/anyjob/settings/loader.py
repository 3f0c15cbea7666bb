"""From a URL's scheme to the backend that an installed package registered for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

from anyjob.base.errors import BackendNotInstalledError, ConfigurationError, did_you_mean
from anyjob.seams.backend import BackendConfig, JobBackend

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

__all__ = ["BackendFactory", "installed_schemes", "load_backend"]

BackendFactory = Callable[[BackendConfig], JobBackend]

GROUP: Final = "anyjob.backends"
_OURS: Final = {
    "memory": "anyjob.stores.store_backend:memory_backend",
    "amqp": "anyjob_amqp.backend:AmqpBackend",
    "amqps": "anyjob_amqp.backend:AmqpBackend",
    "redis": "anyjob_redis.backend:RedisBackend",
    "rediss": "anyjob_redis.backend:RedisBackend",
    "redis+unix": "anyjob_redis.backend:RedisBackend",
    "dramatiq": "anyjob_dramatiq.existing:ExistingDramatiqBackend",
    "dramatiq+amqp": "anyjob_dramatiq.amqp_backend:DramatiqAmqpBackend",
    "dramatiq+amqps": "anyjob_dramatiq.amqp_backend:DramatiqAmqpBackend",
    "dramatiq+redis": "anyjob_dramatiq.redis_backend:DramatiqRedisBackend",
    "dramatiq+rediss": "anyjob_dramatiq.redis_backend:DramatiqRedisBackend",
    "dramatiq+unix": "anyjob_dramatiq.redis_backend:DramatiqRedisBackend",
    "rq+redis": "anyjob_rq:RQBackend",
    "rq+rediss": "anyjob_rq:RQBackend",
    "rq+unix": "anyjob_rq:RQBackend",
    "celery": "anyjob_celery.existing:ExistingCeleryBackend",
    "celery+amqp": "anyjob_celery:AmqpCeleryBackend",
    "celery+amqps": "anyjob_celery:AmqpCeleryBackend",
    "celery+redis": "anyjob_celery:RedisCeleryBackend",
    "celery+rediss": "anyjob_celery:RedisCeleryBackend",
}
"""The entry points of anyjob's own distribution, as pyproject.toml has them."""


def installed_schemes() -> Mapping[str, EntryPoint]:
    """Return the entry points of the group `anyjob.backends` by their name: a URL's scheme, as `memory`, `rq+redis`."""
    from importlib.metadata import EntryPoint, entry_points  # takes longer to import than all of anyjob

    # A frozen application (PyInstaller's and its like) has no metadata of packages, unless it was told to take them.
    ours = {name: EntryPoint(name, where, GROUP) for name, where in _OURS.items()}
    return ours | {each.name: each for each in entry_points(group=GROUP)}


def load_backend(config: BackendConfig) -> JobBackend:
    """Make the backend of `config.url`; import its package, connect to no server.

    Raises `ConfigurationError` for a scheme that no package registered, and `BackendNotInstalledError`, with the pip
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
        if error.name is None or (error.name != package and error.name.startswith(f"{package}.")):
            raise  # the adapter itself is broken: not a missing library
        if error.name == package:
            raise BackendNotInstalledError(
                f"backends.{config.alias}: there is no package {package}. A frozen application has to be told of it, "
                f"as by PyInstaller's --collect-submodules {package}."
            ) from error
        extra = scheme.partition("+")[0].replace("amqps", "amqp").replace("rediss", "redis")
        raise BackendNotInstalledError(
            f"backends.{config.alias} needs {error.name}, which is not installed. Run: pip install 'anyjob[{extra}]'"
        ) from error
    return factory(config)
