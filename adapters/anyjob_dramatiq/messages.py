"""Our messages in Redis: sent, taken, acknowledged, given back. `scripts` has the Lua of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from msgspec import Struct
from redis import Redis
from redis.commands.core import Script

from anyjob.extend import Clock
from anyjob_dramatiq import scripts
from anyjob_dramatiq.names import Names
from anyjob_redis.levels import KnownQueues
from anyjob_redis.presence import LapsedError
from anyjob_redis.scheduled import ScheduledMessages, score_of
from anyjob_redis.scripts import register, run_each, run_in_slices
from anyjob_redis.sending import send_in_batches

__all__ = ["HeldMessage", "Messages", "NativeMessage"]


class NativeMessage(Struct, frozen=True):
    """A message to be sent."""

    id: str
    mark: str
    queue: str
    level: str
    due: datetime | None
    """When it is due, if that is later."""
    data: bytes


class HeldMessage(Struct, frozen=True):
    """A message that a worker took: it goes back unless it is acknowledged."""

    entry: str
    queue: str
    native_id: bytes
    data: bytes | None
    """None: the queue has an id, and no message of that id."""
    redelivered: bool
    """Whether a worker had it before and crashed with it."""


class Messages:
    """The messages of a namespace. Thread-safe. `send` raises `EnqueueError`, `within` so many seconds; the rest raises
    what redis raises.
    """

    def __init__(self, client: Redis, names: Names, clock: Clock, within: float | None = None) -> None:
        self.client: Any = client  # redis-py's types can't tell that nothing is decoded
        self.names = names
        self.clock = clock
        self._prelude = scripts.functions(names.root)
        self.scheduled = ScheduledMessages(client, names.root, self._prelude + scripts.PUSH_DUE, clock)
        self._within = within
        self._queues = KnownQueues(client, names.queues)
        self._send = register(client, self._prelude + scripts.SEND)
        self._scripts: dict[str, Script] = {}

    # Senders

    def send(self, messages: Sequence[NativeMessage], *, again: bool = False, moved: str = "") -> None:
        """Put messages into their queues, in batches that are atomic. `again`: in place of messages with the same ids;
        `moved`: the key of the move that sends them.
        """
        jobs = [
            (each.id, (each.id, each.mark, each.queue, each.level, score_of(each.due) if each.due else "", each.data))
            for each in messages
        ]
        # A worker holds the job that it sends again, and then releases it: that must work on a full server, too.
        script = self._script(scripts.SEND) if again else self._send
        send_in_batches(self.client, script, ["again" if again else "new", moved], jobs, within=self._within)

    # Workers

    def take(
        self, holder: str, queues: Sequence[str], count: int, turn: int, known: Iterable[str]
    ) -> Sequence[HeldMessage]:
        """Take up to `count` messages of `queues`, the highest levels first, starting with the `turn`-th queue.

        `known` are the entries that the holder knows it holds: others that it holds, because an answer was lost, come
        first. Raises `LapsedError` if the holder's sign of life has expired: all would be given back at once.
        """
        taken = self._run(scripts.TAKE, holder, count, turn % len(queues), len(queues), *queues, *known)
        if taken == b"lapsed":
            raise LapsedError(holder)
        return [_held(*each) for each in taken]

    def holds(self, holder: str, entry: str) -> bool:
        """Whether the message was not given back meanwhile."""
        return bool(self.client.hexists(f"{self.names.held(holder)}.msgs", entry))

    def acknowledge(self, holder: str, entries: Sequence[str]) -> Sequence[bool]:
        """Remove messages for good, except jobs that were sent again; return of each whether it was still held."""
        return run_each(self.client, self._script(scripts.ACKNOWLEDGE), ((holder, entry) for entry in entries))

    def give_back(self, holder: str, *entries: str) -> Sequence[str]:
        """Put back `holder`'s messages, all or these entries, as if they had never been taken. Return the ids."""
        return _texts(run_in_slices(lambda limit: self._run(scripts.GIVE_BACK, limit, holder, *entries)))

    def sweep(self) -> Sequence[str]:
        """Put back the messages of crashed holders, marked as redelivered if they ran; return the ids."""
        return _texts(run_in_slices(lambda limit: self._run(scripts.SWEEP, limit)))

    # The inspector

    def take_off(self, holder: str, seconds: float, places: Iterable[tuple[str, str]]) -> dict[str, str]:
        """Hold the messages that are still there: at a level, or `scheduled`, by their ids. Return entries by id."""
        flat = [part for place in places for part in place]
        pairs = self._run(scripts.TAKE_OFF, holder, int(seconds * 1000), *flat)
        return {job_id.decode(): entry.decode() for job_id, entry in pairs}

    def count(self) -> tuple[int, int, int]:
        """Return how many are waiting, scheduled and running, at one moment."""
        waiting, scheduled, running = self._run(scripts.COUNT, score_of(self.clock.now()))
        return waiting, scheduled, running

    def known_queues(self) -> Sequence[str]:
        """Return the queues that jobs were ever sent to, sorted."""
        return self._queues.names()

    def _run(self, script: str, *args: Any) -> Any:
        return self._script(script)(args=args)

    def _script(self, text: str) -> Script:
        if text not in self._scripts:
            self._scripts[text] = register(self.client, self._prelude + text, drains=self.names.root)
        return self._scripts[text]


def _held(kind: bytes, level: bytes, entry: bytes, native_id: bytes, data: bytes | None = None) -> HeldMessage:
    queue = level.decode().rpartition(".")[0]
    return HeldMessage(entry.decode(), queue, native_id, data or None, redelivered=kind == b"again")


def _texts(values: Any) -> list[str]:
    return [value.decode("utf-8", "replace") for value in values]
