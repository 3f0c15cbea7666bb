"""Whether a message is still the worker's that took it, asked of the server, on the connection it came over."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from amqp import spec
from amqp.exceptions import AMQPError

from anyjob.extend import EnqueueError, describe_error

__all__ = ["IS_HELD", "is_held_on_amqp"]


def is_held_on_amqp(message: Any, timeout: float) -> bool:
    """Whether the channel that delivered the message lives: with it, RabbitMQ takes all back that it delivered.

    Only the broker knows, so it is asked something that has an answer and no effect (`channel.flow`, which is on). A
    dead connection is told to the event loop, which would find that out later.
    """
    channel = message.channel
    if channel.connection is None:  # known to be closed
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
    """Whether kombu has a note that the message is out: as good as kombu can tell, for the note doesn't say to whom."""
    channel = message.channel
    try:
        with channel.conn_or_acquire() as client:
            # Not HEXISTS: kombu's client puts a `global_keyprefix` before the keys of the commands that it uses itself.
            return client.hget(channel.unacked_key, message.delivery_tag) is not None
    except channel.connection_errors as error:
        raise EnqueueError(f"Redis could not say whether it is out: {describe_error(error)}") from error


def _tell_loop(message: Any, error: Exception) -> None:
    """Raise, if the loop still listens there: if it has found out meanwhile, its new connection is well."""
    listening = message.consumer.task_consumer
    if listening is not None and listening.channel is message.channel:
        raise error


IS_HELD: Final[Mapping[str, Callable[[Any, float], bool]]] = {"amqp": is_held_on_amqp, "redis": _is_held_on_redis}
"""By the transport of kombu's."""
