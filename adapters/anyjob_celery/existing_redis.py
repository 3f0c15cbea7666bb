"""An application of the user's own on Redis: shows its lists, and takes messages out of them, from outside."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any, Final

from anyjob.extend import (
    ALL_STATES,
    BackendConfig,
    Capabilities,
    JobEnvelope,
    JobInspector,
    JobPriority,
    JobState,
    Quality,
    StoredJob,
)
from anyjob_celery.existing_queues import AppQueues, ReadCarried, read_jobs
from anyjob_celery.frame import ForeignMessageError
from anyjob_celery.native_messages import CarriedMessage
from anyjob_celery.overtaking import priority_steps, redis_levels
from anyjob_celery.redis_wire import read_item
from anyjob_celery.safety import restore_period_of
from anyjob_celery.settings import Settings, transport_option
from anyjob_redis import (
    NativeKey,
    NativeLayout,
    NativePlaces,
    NotedNames,
    ParkedJobs,
    RedisInspector,
    RedisMarks,
    connect,
    inspector_of_natives,
    risks_of_held,
)

__all__ = ["AppOnRedis"]


class AppOnRedis:
    """The queues of an application on Redis: their capabilities, risks and inspectors."""

    def __init__(self, config: BackendConfig, conf: Settings, queues: AppQueues, connection: Any) -> None:
        self._config = config
        self._conf = conf
        self._queues = queues
        self._client = connect(replace(config, options={}), connection.as_uri(include_password=True))
        # A name of its own: `celery+redis://` under this namespace is another backend.
        native = f"{config.namespace}:native:{transport_option(conf, 'global_keyprefix', '')}"
        self.marks = RedisMarks(self._client, native)
        queues.noted = NotedNames(self._client, f"{native}:queues")
        self.levels = redis_levels(conf)
        self.longest_eta = _visibility_timeout(conf) / 2  # held for longer, it would be redelivered
        self.close = self._client.close

    def capabilities(self, can: Capabilities) -> Capabilities:
        """Return `can` with this transport's capabilities."""
        conf = self._conf
        exact = len(set(self.levels.values())) == len(JobPriority) and conf["worker_prefetch_multiplier"] == 1
        return replace(
            can,
            priority=Quality.EXACT if exact else Quality.APPROXIMATE,
            listing=_SEEN,
            removal=_SEEN,
            redelivery_bound=_visibility_timeout(conf) + timedelta(seconds=restore_period_of(conf)),
        )

    def risks(self) -> Iterable[str]:
        """Return the server's risks. Raises `EnqueueError`."""
        return risks_of_held(self._client, self._config.namespace)

    def inspect(self, can: Capabilities, resend: Callable[[JobEnvelope], None]) -> RedisInspector:
        """Return the inspector of our jobs in the application's queues."""
        client, namespace, clock = self._client, self._config.namespace, self._config.clock
        places = NativePlaces(client, namespace, _AppLists(self._conf, self._queues, read_jobs(clock)), clock)
        parked = ParkedJobs(client, namespace, clock)
        return RedisInspector(parked, places, resend=resend, clock=clock, capabilities=can)

    def native_inspector(
        self, queues: Iterable[str], read: ReadCarried, resend: Callable[[JobEnvelope], None]
    ) -> JobInspector:
        """Return the inspector of the messages that `read` shows in these queues."""
        lists = _AppLists(self._conf, queues, read)
        return inspector_of_natives(
            self._client, self._config.namespace, lists, resend=resend, clock=self._config.clock
        )


class _AppLists(NativeLayout):
    """kombu's lists: one for each queue and step of priority, the right end next. Messages of workers are in none."""

    forget = "local function forget(key, item) end\n"  # the item is the whole message

    def __init__(self, conf: Settings, queues: Iterable[str], read: ReadCarried) -> None:
        self._conf = conf
        self._queues = queues
        self._read = read

    def waiting(self) -> Iterable[NativeKey]:
        prefix = transport_option(self._conf, "global_keyprefix", "")
        separator = transport_option(self._conf, "sep", "\x06\x16")
        queues = list(self._queues)
        for step in priority_steps(self._conf):
            for queue in queues:
                yield NativeKey(f"{prefix}{queue}{separator}{step}" if step else f"{prefix}{queue}", "right", queue)

    def read(self, place: NativeKey, items: Sequence[bytes]) -> Sequence[StoredJob | None]:
        return [self._read(_carried_in(item, place.queue)) for item in items]


def _carried_in(item: bytes, queue: str) -> CarriedMessage:
    other_id = f"unreadable-{hashlib.sha256(item).hexdigest()[:16]}"
    try:
        wire = read_item(item)
    except ForeignMessageError as error:
        return CarriedMessage(queue=queue, other_id=other_id, headers={}, body=item, fault=str(error))
    body, fault = item, None
    try:
        body = wire.body_bytes()
    except ForeignMessageError as error:
        fault = str(error)
    return CarriedMessage(
        queue=queue,
        other_id=other_id,
        headers=wire.headers,
        body=body,
        content_type=wire.content_type,
        content_encoding=wire.content_encoding,
        expiration=wire.properties.get("expiration"),
        fault=fault,
    )


def _visibility_timeout(conf: Settings) -> timedelta:
    return timedelta(seconds=float(transport_option(conf, "visibility_timeout", 3600)))


_SEEN: Final = ALL_STATES - {JobState.RUNNING}
"""A job that a worker prefetched, due or not, is that worker's, and counts as running."""
