"""Sending by a script, once: what became of each job when it failed is told, never guessed."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Sequence
from typing import Any, Final

from redis import Redis
from redis.commands.core import Script
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    NoScriptError,
    RedisError,
    ResponseError,
)
from redis.exceptions import TimeoutError as RedisTimeoutError

from anyjob.errors import DuplicateJobIdError, EnqueueError

__all__ = ["send_in_batches"]


def send_in_batches(
    client: Redis,
    script: Script,
    start: Sequence[Any],
    jobs: Sequence[tuple[str, Sequence[Any]]],
    *,
    within: float | None = None,
) -> None:
    """Send jobs (id, arguments) by a script, each batch of them all or none, never twice.

    Each batch has to succeed or fail `within` so many seconds: a million jobs may take longer, as long as they go.
    The script takes `start`, then the arguments of each job, and returns the ids that are taken, if it minds. Raises
    `EnqueueError`, or `DuplicateJobIdError`.
    """
    ids = [job_id for job_id, _ in jobs]
    for first in range(0, len(jobs), _BATCH):
        after = first + _BATCH
        arguments = [*start, *(part for _, each in jobs[first:after] for part in each)]
        batch = _Batch(accepted=ids[:first], ids=ids[first:after], rest=ids[after:])
        until = None if within is None else time.monotonic() + within
        taken = batch.send(client, script, arguments, until)
        if taken:
            which = ", ".join(each.decode() for each in taken[:10])
            raise DuplicateJobIdError(
                f"Already enqueued, or parked: {which}.", accepted=ids[:first], rejected=ids[first:]
            )


class _Batch:
    """Some jobs of a call: `accepted` were sent before them, `rest` come after them."""

    def __init__(self, *, accepted: Sequence[str], ids: Sequence[str], rest: Sequence[str]) -> None:
        self._accepted = accepted
        self._ids = ids
        self._rest = rest

    def send(self, client: Redis, script: Script, args: Sequence[Any], until: float | None) -> Any:
        """Run the script, never twice, whatever the client's own retries are; return its answer.

        Raises `EnqueueError`: what failed before a byte was sent, or was refused before anything was written, is
        rejected; what was sent and not answered, or failed who knows where, is in doubt.
        """
        pool = client.connection_pool
        try:
            connection = pool.get_connection()
        except RedisError as error:
            raise self._rejected(f"Redis can't be reached: {error}") from error
        if until is not None and time.monotonic() >= until:
            pool.release(connection)
            raise self._rejected("Redis can't be reached: the time was up before there was a connection.")
        try:
            return _run(connection, script, args, until)
        except (ResponseError, BusyLoadingError, AuthenticationError) as error:
            if wrote_nothing(error):
                raise self._rejected(f"Redis refused: {error}") from error
            raise self._in_doubt(f"Redis failed over it, so these may be there or not: {error}") from error
        except RedisError as error:
            connection.disconnect()
            raise self._in_doubt(f"Redis did not answer, so these may be there or not: {error}") from error
        except BaseException:
            connection.disconnect()  # the answer is still to come, and would be taken for the next command's
            raise
        finally:
            pool.release(connection)

    def _rejected(self, message: str) -> EnqueueError:
        return EnqueueError(message, accepted=self._accepted, rejected=[*self._ids, *self._rest])

    def _in_doubt(self, message: str) -> EnqueueError:
        return EnqueueError(message, accepted=self._accepted, rejected=self._rest, in_doubt=self._ids)


def wrote_nothing(error: RedisError) -> bool:
    """Whether a script's error reply tells that nothing was written.

    Redis names the script in an error of a command in it; anything else was refused before it began, or refused by the
    script itself.
    """
    text = str(error)
    return "user_script" not in text or _BEFORE_THE_FIRST_WRITE.search(text) is not None


def _run(connection: Any, script: Script, args: Sequence[Any], until: float | None) -> Any:
    connection.send_command("EVALSHA", script.sha, 0, *args)
    try:
        return _answer(connection, until)
    except NoScriptError:
        connection.send_command("EVAL", script.script, 0, *args)
        return _answer(connection, until)


def _answer(connection: Any, until: float | None) -> Any:
    if until is not None:
        left = max(0.0, until - time.monotonic())
        # The connection's own time-out is mostly the shorter one; to ask it as well would be a system call more.
        if left < (connection.socket_timeout or math.inf) and not connection.can_read(left):
            raise RedisTimeoutError("the time was up")
    return connection.read_response()


_BATCH: Final = 500
# What Redis minds at the first write of a script, and at no later one.
_BEFORE_THE_FIRST_WRITE: Final = re.compile("used memory > 'maxmemory'|read only replica|MISCONF|NOREPLICAS")
