"""Dramatiq on Redis: strict levels, exact crash counts, and an inspector of all jobs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any

from dramatiq import Message

from anyjob.extend import BackendConfig, Capabilities, JobEnvelope, SendMarks
from anyjob_dramatiq.backend import Job, OwnDramatiqBackend
from anyjob_dramatiq.frame import encode
from anyjob_dramatiq.messages import Messages, NativeMessage
from anyjob_dramatiq.names import Names, root_of
from anyjob_dramatiq.places import DramatiqPlaces
from anyjob_dramatiq.redis_source import RedisSource
from anyjob_redis.connection import connect
from anyjob_redis.inspector import ON_REDIS, RedisInspector
from anyjob_redis.moved import RedisMarks
from anyjob_redis.parked import ParkedJobs
from anyjob_redis.skew import ClockSkew

__all__ = ["DramatiqRedisBackend"]


class DramatiqRedisBackend(OwnDramatiqBackend):
    """The scheme is `dramatiq+redis:`, `dramatiq+rediss:` or `dramatiq+unix:`; the rest of the URL is redis-py's."""

    inspector: RedisInspector
    marks: RedisMarks

    def __init__(self, config: BackendConfig) -> None:
        super().__init__(config)
        root = root_of(config.namespace)
        self.client = connect(self.native_config, config.url.partition("+")[2])
        self.messages = Messages(self.client, Names(root), config.clock, config.enqueue_timeout)
        self.capabilities = _capabilities(config.lease)
        parked, self.marks = ParkedJobs(self.client, root, config.clock), RedisMarks(self.client, root)
        self.inspector = RedisInspector(
            parked,
            DramatiqPlaces(self.messages, config.lease),
            resend=self.resend,
            clock=config.clock,
            capabilities=self.capabilities,
        )

    def publish(self, jobs: Sequence[Job], *, again: bool, moved: str = "") -> None:
        now = self.config.clock.now()
        messages = [self._native(envelope, message, now) for envelope, message in jobs]
        self.messages.send(messages, again=again, moved=moved)

    def send(self, envelopes: Sequence[JobEnvelope], *, once: str | None = None) -> None:
        self.send_by(partial(self.publish, again=False, moved=self.marks.key_of(once)), envelopes)

    def messages_source(self) -> RedisSource:
        return RedisSource(self.messages, self.config.lease, lambda: self.broker.forbidden)

    def look_for_risks(self) -> Sequence[str]:
        return ClockSkew(self.client, self.config.clock).risks()

    def close(self) -> None:
        self.client.close()

    def _native(self, envelope: JobEnvelope, message: Message[Any], now: Any) -> NativeMessage:
        due = envelope.due_at if envelope.due_at is not None and envelope.due_at > now else None
        level, mark = self.messages.names.level(envelope), SendMarks.key(envelope)
        return NativeMessage(envelope.id, mark, envelope.queue, level, due, encode(message))


def _capabilities(lease: float) -> Capabilities:
    return replace(
        ON_REDIS,
        unique_ids=True,
        # A lease, checked once a second, and another second to give the jobs back (some 40,000 messages).
        redelivery_bound=timedelta(seconds=lease + 2),
        exact_loss_count=True,
        silence_bound=timedelta(seconds=lease * 2 / 3),  # the thread that beats shares the interpreter with it
    )
