"""Private parts of kombu's Redis transport.

tests/test_private_parts.py says when an upgrade changes any of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from time import monotonic
from typing import Any, Final

from kombu.transport import redis

__all__ = ["ChannelParts", "QoSParts", "restore_period"]


def restore_period(interval: float, throttle: float) -> float:
    """Return the seconds between kombu's looks for crashed workers' messages, by its two options for that.

    Before 5.7 it doesn't know these options, and ignores them.
    """
    is_heeded = hasattr(redis.Channel, "unacked_restore_interval")
    return interval * throttle if is_heeded else _BEFORE_THE_OPTIONS


class QoSParts(redis.QoS):
    """The notes of kombu's channel on the messages that were delivered over it."""

    def forget_delivered(self) -> None:
        """Forget a message: it must not be acknowledged over this channel."""
        self._delivered.clear()


class ChannelParts(redis.Channel):
    """How kombu's poller waits for a message: it sends BRPOP, and reads the answer once there is one."""

    def start_taking(self, timeout: float) -> None:
        """Send a command whose answer is the next message."""
        super()._brpop_start(timeout)

    def read_taken(self, **options: Any) -> Any:
        """Read the answer, and deliver; raise Empty if it is no message."""
        return super()._brpop_read(**options)

    def bind(self, exchange: str, *args: Any) -> None:
        """Note in Redis that an exchange is bound to a queue."""
        super()._queue_bind(exchange, *args)

    def next_queues(self) -> Sequence[str]:
        """Return the queues to take from, beginning with the one whose turn it is."""
        queues: Sequence[str] = self._queue_cycle.consume(len(self.active_queues))
        return queues

    def end_turn(self, queue: str) -> None:
        """Let the other queues be first."""
        self._queue_cycle.rotate(queue)

    def send_to_wait(self, command: Sequence[Any]) -> None:
        """Send a command for the poller to wait on its answer."""
        self._in_poll = self.client.connection
        self._brpop_sent_at = monotonic()  # from kombu 5.7 on: an overdue answer tells a lost connection
        self.client.connection.send_command(*command)

    def end_wait(self) -> None:
        """Note that the answer was read."""
        self._in_poll = None
        flush = getattr(self, "_flush_brpop_reauth", None)  # from kombu 5.7 on: sends a new password now
        if flush is not None:
            flush()

    def deliver(self, payload: Any, queue: str) -> None:
        """Hand a message to the queue's consumer."""
        self.connection._deliver(payload, queue)  # noqa: SLF001

    def lists_of(self, queue: str) -> Sequence[str]:
        """Return the keys of a queue's lists, one for each step of priority."""
        return [self._q_for_pri(queue, step) for step in self.priority_steps]

    def size_of(self, queue: str) -> int:
        """Return how many messages a queue has."""
        return int(super()._size(queue))

    def _size(self, queue: str) -> int:
        return self.size_of(queue)

    def _brpop_start(self, timeout: float | None = None) -> None:
        # Before kombu 5.6 this had a default of 1 s instead.
        self.start_taking(getattr(self, "brpop_timeout", 1) if timeout is None else timeout)

    def _brpop_read(self, **options: Any) -> Any:
        return self.read_taken(**options)

    def _queue_bind(self, exchange: str, *args: Any) -> None:
        self.bind(exchange, *args)


_BEFORE_THE_OPTIONS: Final = 100.0
