"""The way to a Redis server: bounded in time, fork-safe, its errors told as ours."""

from __future__ import annotations

import os
import sys
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Final
from urllib.parse import urlsplit

from redis import Redis
from redis.backoff import NoBackoff
from redis.commands.core import Script
from redis.exceptions import BusyLoadingError, NoScriptError, RedisError, ResponseError
from redis.retry import Retry

from anyjob.backend import BackendConfig
from anyjob.errors import ConfigurationError, DuplicateJobIdError, EnqueueError

__all__ = ["connect", "refuse_decoding", "run_each", "send_in_batches", "translated"]


def connect(config: BackendConfig, url: str) -> Redis:
    """Return a client for `url` (redis:, rediss: or unix:), which connects when it is first used, anew in a child.

    Half of `enqueue_timeout` is for connecting, half for an answer, and nothing is tried twice; `options` go to the
    client and win. Raises `ConfigurationError` for a URL or an option that it can't use.
    """
    half = config.enqueue_timeout / 2
    defaults = {"socket_connect_timeout": half, "socket_timeout": half, "retry": Retry(NoBackoff(), 0)}
    try:
        _refuse_wrong_database(url)
        new_client: Callable[[], Redis] = partial(Redis.from_url, url, **{**defaults, **config.options})
        client = new_client()
        pool = client.connection_pool
        pool.connection_class(**pool.connection_kwargs)  # only now are options looked at; nothing connects
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"backends.{config.alias}: the redis client can't use this: {error}") from None
    refuse_decoding(client, config.alias)
    _renew_in_children(client, new_client)
    return client


def _renew_in_children(client: Redis, new_client: Callable[[], Redis]) -> None:
    """Give the client a new pool in every child: redis-py 8 goes on with the parent's, whose lock a thread of the
    parent's may have held just then. Nobody in the child would ever release it, and its first command would hang.
    """
    known = weakref.ref(client)

    def in_child() -> None:
        if (there := known()) is not None:
            there.connection_pool = new_client().connection_pool

    if sys.platform != "win32":
        os.register_at_fork(after_in_child=in_child)


def _refuse_wrong_database(url: str) -> None:
    """Raise ValueError for a path that is no number: the client would take database 0, in silence."""
    database = urlsplit(url).path.strip("/")
    if database and not database.isdecimal() and not url.startswith("unix:"):
        raise ValueError(f"{database!r} is no database's number, as in /0")


def refuse_decoding(client: Redis, alias: str) -> None:
    """Raise `ConfigurationError` if the client turns bytes into str: what can't be decoded must come out as it is."""
    if client.connection_pool.connection_kwargs.get("decode_responses"):
        raise ConfigurationError(f"backends.{alias}: decode_responses must be off: messages are bytes.")


def send_in_batches(
    client: Redis, script: Script, start: Sequence[Any], jobs: Sequence[tuple[str, Sequence[Any]]]
) -> None:
    """Send jobs (id, arguments) by a script, each batch of them all or none, never twice.

    The script takes `start`, then the arguments of each job, and returns the ids that are taken, if it minds. Raises
    `EnqueueError`, or `DuplicateJobIdError`.
    """
    ids = [job_id for job_id, _ in jobs]
    for first in range(0, len(jobs), _BATCH):
        after = first + _BATCH
        arguments = [*start, *(part for _, each in jobs[first:after] for part in each)]
        taken = _run_once(client, script, arguments, accepted=ids[:first], ids=ids[first:after], rest=ids[after:])
        if taken:
            which = ", ".join(each.decode() for each in taken[:10])
            raise DuplicateJobIdError(
                f"Already enqueued, or parked: {which}.", accepted=ids[:first], rejected=ids[first:]
            )


def run_each(
    client: Redis, script: Script, calls: Iterable[Sequence[Any]], *, keys: Sequence[str] = ()
) -> Sequence[bool]:
    """Run a script once for the arguments of each call, in one round trip; return whether each returned 1."""
    with client.pipeline(transaction=False) as pipe:
        for args in calls:
            script(keys, args, client=pipe)
        return [bool(each) for each in pipe.execute()]


def _run_once(
    client: Redis,
    script: Script,
    args: Sequence[Any],
    *,
    accepted: Sequence[str],
    ids: Sequence[str],
    rest: Sequence[str],
) -> Any:
    """Run a script that sends the jobs `ids`, never twice, whatever the client's own retries are; return its answer.

    Raises `EnqueueError`: what failed before a byte was sent, or was refused by the server, is rejected; what was sent
    and not answered is in doubt. `accepted` and `rest` are the jobs of the same call before and after these.
    """
    try:
        connection = client.connection_pool.get_connection()
    except RedisError as error:
        raise EnqueueError(f"Redis can't be reached: {error}", accepted=accepted, rejected=[*ids, *rest]) from error
    try:
        return _run(connection, script, args)
    except (ResponseError, BusyLoadingError) as error:
        raise EnqueueError(f"Redis refused: {error}", accepted=accepted, rejected=[*ids, *rest]) from error
    except RedisError as error:
        _drop(connection)
        raise EnqueueError(
            f"Redis did not answer, so these may be there or not: {error}",
            accepted=accepted,
            rejected=rest,
            in_doubt=ids,
        ) from error
    except BaseException:
        _drop(connection)  # the answer is still to come, and would be taken for the next command's
        raise
    finally:
        client.connection_pool.release(connection)


def _drop(connection: Any) -> None:
    connection.disconnect()


def _run(connection: Any, script: Script, args: Sequence[Any]) -> Any:
    connection.send_command("EVALSHA", script.sha, 0, *args)
    try:
        return connection.read_response()
    except NoScriptError:
        connection.send_command("EVAL", script.script, 0, *args)
        return connection.read_response()


@contextmanager
def translated() -> Iterator[None]:
    """Raise `EnqueueError` for whatever the client raises in the body."""
    try:
        yield
    except RedisError as error:
        raise EnqueueError(f"Redis can't be reached, or refused: {error}") from error


_BATCH: Final = 500
