"""Celery over Redis."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any, Final
from urllib.parse import urlsplit

from msgspec import Struct
from redis.exceptions import RedisError

from anyjob.extend import (
    BackendConfig,
    ConfigurationError,
    EnqueueError,
    JobEnvelope,
    JobExecutor,
    Quality,
    describe_error,
    hide_in,
    read_query,
)
from anyjob_celery.backend import OwnCeleryBackend
from anyjob_celery.redis_messages import HeldMessages, RedisMessages
from anyjob_celery.redis_places import CeleryPlaces
from anyjob_celery.redis_wire import LEVELS
from anyjob_redis import ON_REDIS, ParkedJobs, RedisInspector, RedisMarks, connect, split_url, with_plain_ssl

__all__ = ["RedisCeleryBackend"]


class RedisCeleryBackend(OwnCeleryBackend):
    """Celery over Redis: `celery+redis://` and `celery+rediss://`."""

    marks: RedisMarks

    def __init__(self, config: BackendConfig) -> None:
        super().__init__(config)
        ssl = {key: value for key, value in self.transport_options.items() if key.startswith("ssl_")}
        use_ssl = self.options.get("broker_use_ssl")
        ssl |= use_ssl if isinstance(use_ssl, Mapping) else {}
        address = self._address = _read_address(super().url, ssl, config.alias)
        others = {key: value for key, value in self.transport_options.items() if key not in ssl}
        self.transport_options = {**address.options, **others}
        options = {**address.ssl, **self.transport_options}
        client = self.client = connect(replace(config, options=options), self.url)
        self.messages = RedisMessages(client, config.namespace, config.clock, config.enqueue_timeout)
        self.held = HeldMessages(self.messages, config.lease)
        self.marks = RedisMarks(client, config.namespace)
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
        self.inspector = RedisInspector(
            ParkedJobs(client, config.namespace, config.clock),
            CeleryPlaces(self.messages, config.lease),
            resend=self.resend,
            clock=config.clock,
            capabilities=self.capabilities,
        )

    @property
    def url(self) -> str:
        return self._address.url

    def send(self, envelopes: Sequence[JobEnvelope], *, once: str | None = None) -> None:
        self._send(envelopes, moved=self.marks.key_of(once))

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

    def application(self, executor: JobExecutor, *, stop_timeout: float) -> Any:
        from anyjob_celery.application import make_application  # with Celery, which a producer needs not

        return make_application(self, executor, stop_timeout=stop_timeout)

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
            "broker_use_ssl": dict(self._address.ssl) or None,  # kombu's client has TLS if this says something
            "task_default_exchange": "",
        }

    def worker_steps(self) -> Sequence[Any]:
        from anyjob_celery.redis_steps import TendMessages

        return (TendMessages,)

    def holds(self, message: Any) -> bool:
        try:
            return self.messages.holds(message.delivery_tag)
        except RedisError as error:
            raise EnqueueError(f"Redis could not say who has it: {describe_error(error)}") from error

    def give_back_held(self) -> None:
        self.held.give_back_all()

    def keep_held(self, tags: Collection[str]) -> None:
        self.held.keep(tags)


def _switch(value: str) -> bool:
    return value.lower() not in ("0", "f", "false", "n", "no")


# What the client and kombu's transport both take.
_READERS: Final[Mapping[str, Callable[[str], Any]]] = {
    "client_name": str,
    "db": int,
    "health_check_interval": int,
    "retry_on_timeout": _switch,
    "socket_connect_timeout": float,
    "socket_keepalive": _switch,
    "socket_timeout": float,
}


def _read(name: str, value: str) -> Any:
    try:
        return _READERS[name](value)
    except ValueError:
        raise ValueError(f"{name} is a number.") from None


class _Address(Struct, frozen=True):
    """A Redis URL, told apart as kombu wants it: in a query it knows next to nothing."""

    url: str
    """Without a query."""
    ssl: Mapping[str, Any]
    options: Mapping[str, Any]


def _read_address(url: str, options: Mapping[str, Any], alias: str) -> _Address:
    """Read a URL that the client and the worker are to understand alike; raise `ConfigurationError` for another."""
    try:
        bare, query = split_url(url)
        ssl = {name: query.pop(name) for name in [*query] if name.startswith("ssl_")}
        ssl = with_plain_ssl({**ssl, **options})
        if bare.startswith("rediss:"):
            ssl.setdefault("ssl_cert_reqs", "required")
        read_query(url, [*_READERS, *ssl])
        said = {name: _read(name, value) for name, value in query.items()}
    except ValueError as error:
        raise ConfigurationError(f"backends.{alias}.url: {hide_in(str(error), url)}") from None
    if "db" in said:
        bare = urlsplit(bare)._replace(path=f"/{said.pop('db')}").geturl()
    return _Address(bare, ssl, said)
