"""Reads a RabbitMQ URL."""

from __future__ import annotations

from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from anyjob.extend import ConfigurationError, refuse_unreadable

__all__ = ["AmqpAddress", "read_url"]


@dataclass(frozen=True, slots=True)
class AmqpAddress:
    """The address of a broker, and our login there."""

    host: str
    port: int
    user: str
    password: str = field(repr=False)
    vhost: str
    tls: bool


def read_url(url: str, alias: str) -> AmqpAddress:
    """Return the address in `amqp(s)://user:password@host:port/vhost`; raise `ConfigurationError` if it is unreadable.

    An empty path is the vhost `/`, as Celery and kombu read it.
    """
    try:
        refuse_unreadable(url)
    except ValueError as error:
        raise ConfigurationError(f"backends.{alias}.url: {error}") from None
    parts = urlsplit(url)
    if parts.scheme not in _PORTS or ";" in url or parts.query:
        raise ConfigurationError(
            f"backends.{alias}.url: must be amqp(s)://user:password@host:port/vhost, one address and no query; what "
            "else a connection needs goes into the backend's options."
        )
    return AmqpAddress(
        host=parts.hostname or "localhost",
        port=parts.port or _PORTS[parts.scheme],
        user=unquote(parts.username or "guest"),
        password=unquote(parts.password or "guest"),
        vhost=unquote(parts.path[1:]) or "/",
        tls=parts.scheme == "amqps",
    )


_PORTS = {"amqp": 5672, "amqps": 5671}
