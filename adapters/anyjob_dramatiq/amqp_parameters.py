"""How a worker connects to RabbitMQ."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import Final

import pika

from anyjob_amqp import AmqpAddress

__all__ = ["HEARTBEAT", "parameters_of"]

HEARTBEAT: Final = 60
"""Seconds, whatever the server would like. RabbitMQ ends a connection that was silent for two of them, and the last
sign of life may be half of one old when a job takes the interpreter's lock."""


def parameters_of(address: AmqpAddress, timeout: float) -> pika.ConnectionParameters:
    """Return the parameters of a connection that is tried once, each answer within `timeout` seconds."""
    return pika.ConnectionParameters(
        host=address.host,
        port=address.port,
        virtual_host=address.vhost,
        credentials=pika.PlainCredentials(address.user, address.password),
        ssl_options=pika.SSLOptions(ssl.create_default_context(), address.host) if address.tls else None,
        connection_attempts=1,
        socket_timeout=timeout / 2,
        stack_timeout=timeout,
        heartbeat=HEARTBEAT,
        client_properties=_CLIENT,
    )


_CLIENT: Final[Mapping[str, str]] = {"connection_name": "anyjob worker"}
