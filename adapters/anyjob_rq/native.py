"""The waiting jobs that an application enqueued by RQ alone: read by RQ's documented keys and fields, and taken out."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from redis import Redis
from rq import Queue
from rq.job import Job
from rq.registry import ScheduledJobRegistry
from rq.results import Result
from rq.scheduler import RQScheduler

from anyjob.extend import NativeMessage, ReadNative, StoredJob
from anyjob_redis import NativeKey, NativeLayout
from anyjob_rq.frame import unpack
from anyjob_rq.names import Names
from anyjob_rq.native_data import NativeCall, Unfit, load, read_call

__all__ = ["RQNatives"]


class RQNatives(NativeLayout):
    """The foreign jobs in RQ's queues, and those scheduled for them.

    Deferred, started and failed jobs are in other keys, and not touched.
    """

    # Not the hash of a job that was enqueued twice and runs: RQ writes into it.
    forget = f"""
    local function forget(key, item)
        local job = '{Job.redis_job_namespace_prefix}' .. item
        local status = fits('hash', job) and redis.call('HGET', job, 'status')
        if status == 'queued' or status == 'scheduled' then
            redis.call('DEL', job, '{Result.get_key("")}' .. item)
        end
    end
    """

    def __init__(self, client: Redis, names: Names, read: ReadNative, queues: Collection[str] | None) -> None:
        self._client: Any = client
        self._names = names
        self._read = read
        self._queues = queues

    def waiting(self) -> Iterable[NativeKey]:
        queues = self._known() if self._queues is None else list(self._queues)
        for queue in queues:
            yield NativeKey(ScheduledJobRegistry(queue, connection=self._client).key, "zset", queue)
        for queue in queues:
            yield NativeKey(f"{Queue.redis_queue_namespace_prefix}{queue}", "left", queue)

    def read(self, place: NativeKey, items: Sequence[bytes]) -> Sequence[StoredJob | None]:
        with self._client.pipeline(transaction=False) as pipe:
            for item in items:
                pipe.hgetall(_JOB + item)
                pipe.exists(_JOB + item + b":dependents")
            answers = pipe.execute(raise_on_error=False)  # a key may be of another type
        due = self._client.zmscore(place.key, items) if place.kind == "zset" else [None] * len(items)
        found = zip(items, answers[::2], answers[1::2], due, strict=True)
        is_scheduled = place.kind == "zset" and self._is_scheduled(place.queue)
        soon = time.time() + _MARGIN if is_scheduled else -math.inf
        return [None if each[-1] is not None and each[-1] < soon else self._shown(place.queue, *each) for each in found]

    def _is_scheduled(self, queue: str) -> bool:
        """Whether RQ's scheduler runs: it may have read due jobs, and would enqueue them though they are removed."""
        return bool(self._client.exists(RQScheduler.get_locking_key(queue)))

    def _known(self) -> Sequence[str]:
        prefix = Queue.redis_queue_namespace_prefix
        keys = (key.decode("utf-8", "replace") for key in self._client.smembers(Queue.redis_queues_keys))
        queues = (key.removeprefix(prefix) for key in keys if key.startswith(prefix))
        return sorted(queue for queue in queues if not self._names.has(queue))

    def _shown(self, queue: str, item: bytes, fields: Any, has_dependents: int, due: float | None) -> StoredJob | None:
        data = fields.get(b"data") if isinstance(fields, dict) else None
        if data is None or unpack(data)[1] is None:
            return None  # an id without a job, which RQ skips; or a job of ours, of any namespace
        call, headers = _call_in(data, fields), _headers_in(fields)
        unfit = call.obstacle or _obstacle_in(fields) or (_HAS_DEPENDENTS if has_dependents else None)
        due_at = None
        try:
            due_at = None if due is None else datetime.fromtimestamp(due, UTC)
        except (ValueError, OverflowError, OSError):
            unfit = f"RQ has it as due at {due!r}, which is no time."
        if isinstance(headers, str):
            unfit, headers = unfit or headers, {}
        return self._read(
            NativeMessage(
                id=item.decode("utf-8", "replace"),
                task=call.task,
                queue=queue,
                args=() if unfit else call.args,
                kwargs={} if unfit else call.kwargs,
                created_at=_moment(fields.get(b"created_at", b"")),
                due_at=due_at,
                tries=_number(fields.get(b"number_of_retries", b"")),
                headers=headers,
                obstacle=unfit,
            )
        )


def _call_in(data: bytes, fields: Mapping[bytes, bytes]) -> NativeCall:
    try:
        return read_call(data)
    except Unfit as unfit:
        # How RQ describes a call, unless the application said otherwise: it begins with the function's name.
        described = fields.get(b"description", b"").decode("utf-8", "replace")
        return NativeCall(described.partition("(")[0], obstacle=str(unfit))


def _headers_in(fields: Mapping[bytes, bytes]) -> Mapping[str, str] | str:
    """Return the application's `meta`, or why it can't be kept."""
    try:
        meta = load(fields[b"meta"]) if fields.get(b"meta") else {}
    except Unfit:
        return _NO_HEADERS
    is_text = isinstance(meta, dict) and all(isinstance(each, str) for pair in meta.items() for each in pair)
    return meta if is_text else _NO_HEADERS


def _obstacle_in(fields: Mapping[bytes, bytes]) -> str | None:
    status = fields.get(b"status", b"").decode("utf-8", "replace")
    if status not in ("queued", "scheduled"):
        return f"RQ has it as {status!r}, not as one that waits."
    return next((why for field, why in _OBSTACLES.items() if fields.get(field, b"") not in _NOTHING), None)


def _moment(text: bytes) -> datetime | None:
    try:
        return datetime.fromisoformat(text.decode()).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _number(text: bytes) -> int:
    return int(text) if text.isdigit() and len(text) < 10 else 0


_MARGIN: Final = 5.0
_JOB: Final = Job.redis_job_namespace_prefix.encode()
_HAS_DEPENDENTS: Final = "Other jobs depend on it."
_NO_HEADERS: Final = "Its meta holds more than texts by name, and headers don't."
_NOTHING: Final = (b"", b"0", b"[]")
_OBSTACLES: Final[Mapping[bytes, str]] = {
    b"dependency_ids": "It depends on other jobs.",
    b"dependency_id": "It depends on another job.",
    b"success_callback_name": "It has a callback, on_success.",
    b"failure_callback_name": "It has a callback, on_failure.",
    b"stopped_callback_name": "It has a callback, on_stopped.",
    b"webhooks": "It has webhooks.",
    b"repeats_left": "It is to be repeated.",
    b"group_id": "It is one of a group.",
    b"rate_limit_key": "It has a rate limit.",
    b"ttl": "It has a ttl: RQ drops it when it has waited for so long, and a job waits.",
}
