"""To which queues jobs were ever sent: RabbitMQ can't tell, so it is noted there, in a queue of its own.

That holds one message with all the names. A reader is its exclusive consumer, so that none sees a part while another
holds the rest. A reader that finds the queue taken adds a message with the names that it knows, and the next reader
makes one message of all. So the queue grows with the names, however often processes are restarted.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from threading import Event
from typing import Any, Final

import msgspec
from amqp import Message
from amqp.exceptions import AccessRefused, AMQPError, NotFound

from anyjob.extend import UNREADABLE, EnqueueError, describe_error
from anyjob_amqp.deadline import Deadline
from anyjob_amqp.topology import QueueDeclaration

__all__ = ["is_away", "note_names", "noted_names"]


def note_names(
    connection: Any, queue: QueueDeclaration, names: Collection[str], write: Callable[[Message], None]
) -> frozenset[str]:
    """Note names, unless they are noted; return the noted names, as far as can be seen. Raises what py-amqp raises.

    `write` puts a message into the queue, which it makes if it has to, and returns when the broker has it.
    """
    with _channel(connection) as channel:
        notes: dict[int, frozenset[str]] = {}
        with suppress(NotFound, _TakenError):
            notes = _look(channel, queue.name)
        known = frozenset[str]().union(*notes.values())
        if len(notes) != 1 or not known.issuperset(names):
            known = known.union(names)
            write(Message(msgspec.json.encode(sorted(known)), content_type="application/json", delivery_mode=2))
            for tag in notes:  # the new one holds their names
                channel.basic_ack(tag)
    return known


def noted_names(connection: Any, queue: QueueDeclaration, deadline: Deadline) -> frozenset[str]:
    """Return all noted names. Raises what py-amqp raises, and `EnqueueError` if the notes can't be read in time."""
    while True:
        with _channel(connection) as channel:
            try:
                return frozenset[str]().union(*_look(channel, queue.name).values())
            except NotFound as error:
                if is_away(error):
                    raise EnqueueError(f"RabbitMQ can't tell what was noted: {describe_error(error)}") from error
                return frozenset()  # nothing was ever sent
            except _TakenError as error:
                if deadline.is_over():
                    raise EnqueueError(
                        f"Which queues there are is noted in the queue {queue.name!r}, and can't be read: {error}. "
                        "It needs the permission to read, and nobody else who keeps its messages."
                    ) from error
        _pause.wait(_BETWEEN_LOOKS)


def is_away(error: NotFound) -> bool:
    """Whether there is such a queue, on a node that is down."""
    return "no queue" not in str(error)


class _TakenError(Exception):
    pass


def _look(channel: Any, queue: str) -> dict[int, frozenset[str]]:
    """Return the notes, by their tags; they are held until the channel closes."""
    messages: list[Message] = []
    try:
        channel.basic_consume(queue, "look", callback=messages.append, exclusive=True, nowait=True)
        for _ in range(_MOST_LOOKS):
            if channel.queue_declare(queue, passive=True).message_count == 0:
                channel.queue_declare(queue, passive=True)  # messages on their way to us arrive before this answer
                return dict(_names_in(messages))
    except AccessRefused as error:  # another reader has it, or we lack the permission
        raise _TakenError(str(error)) from error
    raise _TakenError("it holds more than is handed out")


def _names_in(messages: Sequence[Message]) -> Iterator[tuple[int, frozenset[str]]]:
    for message in messages:
        with suppress(*UNREADABLE):  # foreign messages stay as they are
            yield message.delivery_tag, frozenset(_decoder.decode(bytes(message.body)))


@contextmanager
def _channel(connection: Any) -> Iterator[Any]:
    channel = connection.channel()
    try:
        yield channel
    finally:
        with suppress(AMQPError, OSError):
            channel.close()


_decoder: Final = msgspec.json.Decoder(list[str])
_pause: Final = Event()
_BETWEEN_LOOKS: Final = 0.02
_MOST_LOOKS: Final = 100
