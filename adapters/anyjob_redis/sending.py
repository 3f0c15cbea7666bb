"""Sends by a script, never twice: if that fails, the error says of each job whether it was sent; it never guesses."""

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

from anyjob.extend import DuplicateJobIdError, EnqueueError
from anyjob.extend import describe_error as why
from anyjob_redis.private import take_connection

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

    Each batch has to succeed or fail `within` that many seconds: a million jobs may take longer, while batches succeed.
    The script takes `start`, then the arguments of each job, and returns the taken ids, if it refuses these. Raises
    `EnqueueError`, or `DuplicateJobIdError`: a job is rejected if its batch failed before a byte was sent, or was
    refused before a write; it is in doubt if its batch was sent and not answered, or failed at an unknown step.
    """
    for first in range(0, len(jobs), _BATCH):
        after = first + _BATCH
        arguments = list(start)
        for _, each in jobs[first:after]:
            arguments += each
        try:
            taken = _send(client.connection_pool, script, arguments, within)
        except _SendError as error:
            rest = after if error.in_doubt else first
            told = _ids(jobs[:first]), _ids(jobs[rest:]), _ids(jobs[first:rest])
            raise EnqueueError(str(error), accepted=told[0], rejected=told[1], in_doubt=told[2]) from error.__cause__
        if taken:
            which = ", ".join(each.decode() for each in taken[:10])
            raise DuplicateJobIdError(
                f"Already enqueued, or parked: {which}.", accepted=_ids(jobs[:first]), rejected=_ids(jobs[first:])
            )


class _SendError(Exception):
    """A batch failed; `in_doubt` if it is unknown whether it was written."""

    def __init__(self, message: str, *, in_doubt: bool) -> None:
        super().__init__(message)
        self.in_doubt = in_doubt


def _send(pool: Any, script: Script, args: Sequence[Any], within: float | None) -> Any:
    """Run the script, never twice, whatever the client's own retries are; return its answer."""
    until = None if within is None else time.monotonic() + within
    try:
        connection = take_connection(pool)
    except RedisError as error:
        raise _SendError(f"Redis can't be reached: {why(error)}", in_doubt=False) from error
    if until is not None and time.monotonic() >= until:
        pool.release(connection)
        raise _SendError("Redis can't be reached: the time was up before there was a connection.", in_doubt=False)
    try:
        return _run(connection, script, args, until)
    except (ResponseError, BusyLoadingError, AuthenticationError) as error:
        if wrote_nothing(error):
            raise _SendError(f"Redis refused: {why(error)}", in_doubt=False) from error
        raise _SendError(f"Redis failed over it, so these may be there or not: {why(error)}", in_doubt=True) from error
    except RedisError as error:
        connection.disconnect()
        raise _SendError(f"Redis did not answer, so these may be there or not: {why(error)}", in_doubt=True) from error
    except BaseException:
        connection.disconnect()  # the answer may still arrive, and would be taken for the next command's
        raise
    finally:
        pool.release(connection)


def _ids(jobs: Sequence[tuple[str, Sequence[Any]]]) -> list[str]:
    return [job_id for job_id, _ in jobs]


def wrote_nothing(error: RedisError) -> bool:
    """Whether a script's error reply tells that nothing was written.

    Redis names the script in an error of a command in it; any other script was refused before it began, or refused by
    itself.
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
# Errors that Redis raises at the first write of a script, and at no later one.
_BEFORE_THE_FIRST_WRITE: Final = re.compile("used memory > 'maxmemory'|read only replica|MISCONF|NOREPLICAS")
