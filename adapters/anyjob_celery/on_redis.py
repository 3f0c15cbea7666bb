"""Celery over Redis."""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

from redis.exceptions import RedisError

from anyjob.backend import BackendConfig
from anyjob.capabilities import Quality
from anyjob.envelope import JobEnvelope
from anyjob.errors import EnqueueError
from anyjob_celery.backend import OwnCeleryBackend
from anyjob_celery.redis_messages import HeldMessages, RedisMessages
from anyjob_celery.redis_places import CeleryPlaces
from anyjob_celery.redis_wire import LEVELS
from anyjob_redis import ON_REDIS, Moves, ParkedJobs, RedisShelf, connect

__all__ = ["RedisCeleryBackend"]


class RedisCeleryBackend(OwnCeleryBackend):
    """Celery over Redis: `celery+redis://` and `celery+rediss://`."""

    moves: Moves

    def __init__(self, config: BackendConfig) -> None:
        super().__init__(config)
        options = {**self.options.get("broker_use_ssl", {}), **self.transport_options}
        client = self.client = connect(replace(config, options=options), self.url)
        self.messages = RedisMessages(client, config.namespace, config.clock, config.enqueue_timeout)
        self.held = HeldMessages(self.messages, config.lease)
        self.moves = Moves(client, config.namespace)
        can = replace(
            ON_REDIS,
            delay=Quality.APPROXIMATE if self.native_delay else Quality.EXACT,
            # A lease, looked at three times in its length, and a second for the way back (some 15,000 messages); a dead
            # child of a pool that lives on is noticed by Celery, within 5 s.
            redelivery_bound=timedelta(seconds=max(config.lease * 4 / 3 + 1, 6)),
            exact_loss_count=False,  # a worker may be killed between taking a job and beginning it
        )
        # A sign of life is given three times in a lease: the last one may be a third of it old.
        self.capabilities = self.pooled(can, timedelta(seconds=config.lease * 2 / 3))
        self.shelf = RedisShelf(
            ParkedJobs(client, config.namespace, config.clock),
            CeleryPlaces(self.messages, config.lease),
            resend=self.resend,
            clock=config.clock,
            capabilities=self.capabilities,
        )

    def send(self, envelopes: Sequence[JobEnvelope]) -> None:
        self._send(envelopes)

    def send_moved(
        self,
        envelopes: Sequence[JobEnvelope],
        move: str,
        *,
        gone: Collection[str] = (),  # noqa: ARG002  # a mark lasts until the move is over
    ) -> Collection[str]:
        self._send(envelopes, moved=self.moves.key(move))
        return ()

    def resend(self, envelope: JobEnvelope) -> None:
        self._send([envelope], even_if_full=True)

    def _send(self, envelopes: Sequence[JobEnvelope], **options: Any) -> None:
        publications = [self.publication(envelope) for envelope in envelopes]
        headers = [each.headers for each in publications]
        self.messages.send(envelopes, headers, at_once=self.native_delay, **options)
        for each in publications:
            each.done()

    def close(self) -> None:
        self.client.close()

    def native_queue(self, logical: str) -> Mapping[str, Any]:
        return {"name": logical, "routing_key": logical}

    def transport_settings(self, stop: threading.Event) -> Mapping[str, Any]:
        from anyjob_celery.redis_transport import TransportPart  # with kombu, which enqueuing does without

        return {
            "broker_transport": "anyjob_celery.redis_transport:JobTransport",
            "broker_transport_options": {
                "socket_connect_timeout": self.config.enqueue_timeout,
                "socket_timeout": self.config.enqueue_timeout,
                "socket_keepalive": True,
                **self.transport_options,
                "global_keyprefix": f"{self.config.namespace}:celery:",
                "priority_steps": list(LEVELS.values()),
                "anyjob": TransportPart(self.held, stop),
            },
            "task_default_exchange": "",
        }

    def worker_steps(self) -> Sequence[Any]:
        from anyjob_celery.redis_steps import TendMessages

        return (TendMessages,)

    def holds(self, message: Any) -> bool:
        try:
            return self.messages.holds(message.delivery_tag)
        except RedisError as error:
            raise EnqueueError(f"Redis could not say who has it: {error}") from error

    def give_back_held(self) -> None:
        self.held.give_back_all()

    def keep_held(self, tags: Collection[str]) -> None:
        self.held.keep(tags)
