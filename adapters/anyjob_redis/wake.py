"""Tells the workers of a process by a channel that jobs were sent: an idle worker need not ask again and again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from redis import Redis
from redis.exceptions import RedisError

from anyjob.extend import Listeners, SystemClock, in_each_process
from anyjob_redis.recurring import RecurringThread

__all__ = ["WakeListener"]


class WakeListener:
    """Listens to `channel` on a connection of its own, in a thread, once a listener is added. Thread-safe.

    While the server is unreachable no listener is called: workers look by themselves.
    """

    def __init__(self, client: Redis, channel: str) -> None:
        self._client = client
        self._channel = channel
        in_each_process(self._begin)

    def _begin(self) -> None:
        self._listeners = Listeners()
        self._thread: RecurringThread | None = None
        self._subscribed: Any = None

    def add(self, wake: Callable[[], None]) -> None:
        """Call `wake` from now on whenever jobs were sent."""
        self._listeners.add(wake)
        if self._thread is None:
            self._thread = RecurringThread("anyjob-wake", self._listen, SystemClock()).start()

    def close(self) -> None:
        """End the thread; it begins anew when a listener is added."""
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.stop()
            self._leave()

    def _listen(self) -> float:
        try:
            if self._subscribed is None:
                self._subscribed = self._client.pubsub()
                self._subscribed.subscribe(self._channel)
            if self._subscribed.get_message(timeout=_LONGEST_WAIT) is not None:  # the first confirms the subscription
                self._listeners.tell()
        except RedisError:
            self._leave()
            raise
        return 0.0

    def _leave(self) -> None:
        subscribed, self._subscribed = self._subscribed, None
        if subscribed is not None:
            subscribed.close()


_LONGEST_WAIT: Final = 0.5
