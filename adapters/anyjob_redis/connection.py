"""Connects to a Redis server: bounded in time, fork-safe, its errors raised as ours."""

from __future__ import annotations

import os
import sys
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Final
from urllib.parse import urlencode

from redis import BlockingConnectionPool, ConnectionPool, Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from anyjob.extend import BackendConfig, ConfigurationError, EnqueueError, describe_error, hide_in
from anyjob_redis.urls import split_url, with_plain_ssl

__all__ = ["connect", "refuse_decoding", "translated"]


def connect(config: BackendConfig, url: str) -> Redis:
    """Return a client for `url` (redis:, rediss: or unix:), which connects when it is first used, anew in a child.

    It has up to `max_connections` (100), and a call that finds none free waits for one: half of `enqueue_timeout` for
    that, half for connecting, half for an answer; no command is tried twice. `options` go to the client and win. Raises
    `ConfigurationError` for a URL or an option that it can't use.
    """
    half = config.enqueue_timeout / 2
    defaults = {"socket_connect_timeout": half, "socket_timeout": half, "retry": Retry(NoBackoff(), 0)}
    defaults |= {"timeout": half, "max_connections": _CONNECTIONS}
    try:
        bare, query = split_url(url)
        options = with_plain_ssl(config.options)
        query = {name: value for name, value in with_plain_ssl(query).items() if name not in options}
        plain = f"{bare}?{urlencode(query)}"
        new_pool: Callable[[], ConnectionPool] = partial(
            BlockingConnectionPool.from_url, plain, **{**defaults, **options}
        )
        client = Redis.from_pool(new_pool())
        pool = client.connection_pool
        pool.connection_class(**pool.connection_kwargs)  # only now are options looked at; nothing connects
    except (TypeError, ValueError, RedisError) as error:
        told = hide_in(str(error), url)
        raise ConfigurationError(f"backends.{config.alias}: the redis client can't use this: {told}") from None
    refuse_decoding(client, config.alias)
    _renew_in_children(client, new_pool)
    return client


def _renew_in_children(client: Redis, new_pool: Callable[[], ConnectionPool]) -> None:
    """Give the client a new pool in every child: redis-py 8 goes on with the parent's pool, whose lock a thread of the
    parent may have held at the fork. No thread of the child would release it, and the child's first command would hang.
    """
    known = weakref.ref(client)

    def in_child() -> None:
        if (there := known()) is not None:
            there.connection_pool = new_pool()

    if sys.platform != "win32":
        os.register_at_fork(after_in_child=in_child)


def refuse_decoding(client: Redis, alias: str) -> None:
    """Raise `ConfigurationError` if the client turns bytes into str: undecodable bytes must be returned as they are."""
    if client.connection_pool.connection_kwargs.get("decode_responses"):
        raise ConfigurationError(f"backends.{alias}: decode_responses must be off: messages are bytes.")


@contextmanager
def translated() -> Iterator[None]:
    """Raise `EnqueueError` for whatever the client raises in the body."""
    try:
        yield
    except RedisError as error:
        raise EnqueueError(f"Redis can't be reached, or refused: {describe_error(error)}") from error


_CONNECTIONS: Final = 100
