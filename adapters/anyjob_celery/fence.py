"""Asks the server whether a worker still holds a message, over the connection that delivered it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from amqp import spec
from amqp.exceptions import AMQPError

from anyjob.extend import EnqueueError, describe_error

__all__ = ["IS_HELD", "is_held_on_amqp"]


def is_held_on_amqp(message: Any, timeout: float) -> bool:
    """Whether the channel that delivered the message is open: when it closes, RabbitMQ takes back all its deliveries.

    Only the broker knows, so it is asked by a call that has an answer and no effect (`channel.flow`, which is on). The
    event loop is told of a lost connection, which it would find out later.
    """
    channel = message.channel
    if channel.connection is None:  # known as closed
        return False
    try:
        channel.send_method(spec.Channel.Flow, "b", (True,))
        channel.wait(spec.Channel.FlowOk, timeout=timeout)
    except TimeoutError as error:
        raise EnqueueError(f"RabbitMQ did not say within {timeout:g} s whether it is connected") from error
    except (AMQPError, OSError) as error:
        message.consumer.call_soon(_tell_loop, message, error)
        return False
    return True


def _is_held_on_redis(message: Any, _timeout: float) -> bool:
    """Whether kombu has a note of the delivery: it tells no more, because the note names no worker."""
    channel = message.channel
    try:
        with channel.conn_or_acquire() as client:
            # Not HEXISTS: kombu's client puts a `global_keyprefix` before the keys of the commands that it uses itself.
            return client.hget(channel.unacked_key, message.delivery_tag) is not None
    except channel.connection_errors as error:
        raise EnqueueError(f"Redis could not say whether it is out: {describe_error(error)}") from error


def _tell_loop(message: Any, error: Exception) -> None:
    """Raise, if the loop still listens there: if it has noticed meanwhile, its new connection works."""
    listening = message.consumer.task_consumer
    if listening is not None and listening.channel is message.channel:
        raise error


IS_HELD: Final[Mapping[str, Callable[[Any, float], bool]]] = {"amqp": is_held_on_amqp, "redis": _is_held_on_redis}
"""By kombu's name of the transport."""
