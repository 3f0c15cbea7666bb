"""Celery's messages on Redis: sent, taken, kept alive while a worker has them, given back."""

from __future__ import annotations

import itertools
import logging
import secrets
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final

from redis import Redis
from redis.commands.core import Script
from redis.exceptions import RedisError

from anyjob.extend import Clock, JobEnvelope, JobIds, JobLogger, SendMarks, log_event
from anyjob_celery.redis_scripts import ACKNOWLEDGE, BEAT, COUNT, GIVE_BACK, HOLD, INDEX_AFTER, PUSH, SEND, SWEEP, TAKE
from anyjob_celery.redis_wire import LEVELS, item_of
from anyjob_redis import ScheduledMessages, send_in_batches
from anyjob_redis.scheduled import score_of
from anyjob_redis.scripts import register

__all__ = ["HeldMessages", "RedisMessages"]

logger = JobLogger("anyjob.worker")


class RedisMessages:
    """The messages of a namespace. Thread-safe. `send` raises `EnqueueError`, `within` so many seconds; the rest raises
    what redis raises.
    """

    def __init__(self, client: Redis, namespace: str, clock: Clock, within: float) -> None:
        self.client: Any = client
        self._within = within
        self.namespace = namespace
        self.scheduled = ScheduledMessages(client, namespace, PUSH, clock)
        self.clock = clock
        self._ids = JobIds()
        self._scripts: dict[str, Script] = {text: register(client, text) for text in (SEND, *_READING)}
        self._scripts |= {text: register(client, text, drains=namespace) for text in _DRAINING}
        self._send_anyway = register(client, SEND, drains=namespace)

    def send(
        self,
        envelopes: Sequence[JobEnvelope],
        headers: Sequence[Mapping[str, Any]],
        *,
        at_once: bool = False,
        moved: str = "",
        even_if_full: bool = False,
    ) -> None:
        """Send jobs, each batch of them all or none; `at_once` leaves delays to whoever takes them; `moved` is the key
        of the move that brings them; `even_if_full` is for those that stand for others which go in turn.
        """
        told = zip(envelopes, headers, strict=True)
        jobs = [(envelope.id, self._sent(envelope, each, at_once=at_once)) for envelope, each in told]
        script = self._send_anyway if even_if_full else self._scripts[SEND]
        send_in_batches(self.client, script, [self.namespace, moved], jobs, within=self._within)

    def take_command(self, tag: str, queues: Sequence[str], *, whole: bool) -> Sequence[Any]:
        """Return the command that takes the next message of `queues`; `whole` where the server lacks the script."""
        script = self._scripts[TAKE]
        start = ("EVAL", script.script) if whole else ("EVALSHA", script.sha)
        return (*start, 0, self.namespace, tag, len(LEVELS), *queues)

    def wait_command(self, queues: Sequence[str], timeout: float) -> Sequence[Any]:
        """Return the command that waits until something is sent to one of `queues`."""
        return ("BLPOP", *(f"{self.namespace}:wake:{queue}" for queue in queues), timeout)

    def acknowledge(self, tags: Collection[str]) -> Sequence[bool]:
        """Remove held messages for good; return of each whether it was still held."""
        return list(map(bool, self._run(ACKNOWLEDGE, *tags)))

    def give_back(self, tags: Sequence[str], *, lost: bool) -> None:
        """Put held messages back where they came from; `lost` ones count as delivered before."""
        for some in reversed(_slices(tags)):  # what was taken first is in front again
            self._run(GIVE_BACK, int(lost), *some)

    def beat(self, tags: Sequence[str]) -> None:
        """Say that the holder of these lives."""
        for some in _slices(tags):
            self._run(BEAT, *some)

    def sweep(self, lease: float) -> Sequence[bytes]:
        """Give back some of what was held by who gave no sign of life for `lease` seconds; return the tags, none when
        there is no more.
        """
        found: Sequence[bytes] = self._run(SWEEP, lease, _SLICE)
        return found

    def hold(self, seconds: float, wanted: Iterable[tuple[str, str, bytes]]) -> Sequence[bytes]:
        """Hold messages (tag, kind and place, message); return the tags of those that were there."""
        taken: Sequence[bytes] = self._run(HOLD, seconds, *itertools.chain.from_iterable(wanted))
        return taken

    def queues(self) -> Sequence[str]:
        """Return the queues that anything was ever sent to."""
        return sorted(each.decode() for each in self.client.smembers(f"{self.namespace}:queues"))

    def waiting(self, queue: str, level: int, first: int, limit: int) -> Sequence[bytes]:
        """Return up to `limit` messages of a list, the next one first, from the index `first` on."""
        found: list[bytes] = self.client.lrange(self._list(queue, level), -first - limit, -first - 1)
        return found[::-1]

    def index_after(self, queue: str, level: int, item: bytes, within: int) -> int:
        """Return the index of what follows a message that is among the next `within` of a list; 0 if it is gone, for
        then all that were before it are gone or held.
        """
        return int(self._run(INDEX_AFTER, queue, level, item, within))

    def held_by(self, holder: str) -> Sequence[str]:
        """Return the tags of what a holder of the inspector's holds, what was taken first in front."""
        infix = f"-{holder}-".encode()
        tags = [tag.decode() for tag in self.client.hkeys(f"{self.namespace}:held") if infix in tag]
        return sorted(tags, key=lambda tag: tag.rpartition("-")[2])

    def held(self) -> Mapping[str, tuple[str, bytes]]:
        """Return what is held, by tag: kind and place, and the message."""
        found = self.client.hgetall(f"{self.namespace}:held")
        entries = ((tag.decode(), entry.partition(b"\n")) for tag, entry in found.items())
        return {tag: (kind.decode(), item) for tag, (kind, _, item) in entries}

    def holds(self, tag: str) -> bool:
        """Whether that hold is still in force."""
        return bool(self.client.hexists(f"{self.namespace}:held", tag))

    def count(self) -> tuple[int, int, int]:
        """Return how many wait, are scheduled and run."""
        waiting, scheduled, running = self._run(COUNT, len(LEVELS), score_of(self.clock.now()))
        return waiting, scheduled, running

    def _list(self, queue: str, level: int) -> str:
        return f"{self.namespace}:celery:{queue}" + (f"\x06\x16{level}" if level else "")

    def _run(self, text: str, *args: Any) -> Any:
        return self._scripts[text](args=[self.namespace, *args])

    def _sent(self, envelope: JobEnvelope, headers: Mapping[str, Any], *, at_once: bool) -> Sequence[Any]:
        tag = self._ids.new(self.clock.now())
        due = "" if at_once or envelope.due_at is None else envelope.due_at.timestamp()
        mark, level = SendMarks.key(envelope), LEVELS[envelope.priority]
        return mark, envelope.queue, level, due, tag, item_of(envelope, headers, tag)


class HeldMessages:
    """What this worker holds. Thread-safe; never raises for Redis being away: it goes on when that is back."""

    def __init__(self, messages: RedisMessages, lease: float) -> None:
        self.messages = messages
        self.period = lease / 3
        self._lease = lease
        self._tags: set[str] = set()
        self._done: set[str] = set()
        self._number = 0
        self._worker = secrets.token_hex(6)
        self._steady_since: float | None = None

    @property
    def next_tag(self) -> str:
        """The tag of the next message: the same one until an answer came, for if that is lost the message is there."""
        return f"run-{self._worker}-{self._number}"

    def add(self, tag: str) -> None:
        """Count the message of `next_tag` as held."""
        self._tags.add(tag)
        self._number += 1

    def acknowledge(self, tag: str) -> None:
        """Let go of a message that is done, for good; later, if Redis is away."""
        self._tags.discard(tag)
        self._done.add(tag)
        try:
            self._acknowledge_done()
        except RedisError as error:
            logger.warning("acknowledged later: %s", error)

    def give_back(self, tags: Sequence[str], *, lost: bool) -> None:
        """Put messages back; if Redis is away, they lapse."""
        self._tags.difference_update(tags)
        try:
            self.messages.give_back(tags, lost=lost)
        except RedisError as error:
            logger.warning("given back when their time is up: %s", error)

    def give_back_all(self) -> None:
        """Put back, uncharged, whatever is still held, and what may have been taken just now."""
        self.give_back([*self._tags, self.next_tag], lost=False)

    def keep(self, tags: Collection[str]) -> None:
        """Let lapse what is held but for these."""
        self._tags.intersection_update(tags)

    def tend(self) -> float:
        """Show that we live, and give back what was held by who doesn't; return the seconds to the next time.

        After an absence of the server every sign of life is as old as ours was: nobody is declared dead before the
        server was there for a whole lease.
        """
        since, self._steady_since = self._steady_since or time.monotonic(), None
        self._acknowledge_done()
        self.messages.beat(list(self._tags))
        if time.monotonic() - since >= self._lease:
            while tags := self.messages.sweep(self._lease):
                for tag in tags:
                    log_event(logger, logging.WARNING, "rescued", tag=tag.decode(), reason="its worker vanished")
        self._steady_since = since
        return self.period

    def _acknowledge_done(self) -> None:
        done = list(self._done)
        if done and not all(self.messages.acknowledge(done)):
            logger.warning("fenced: a job took longer than its worker could show, and runs again")
        self._done.difference_update(done)


def _slices(tags: Sequence[str]) -> Sequence[Sequence[str]]:
    return [tags[first : first + _SLICE] for first in range(0, len(tags), _SLICE)]


_SLICE: Final = 100
"""How many messages one step moves: so few that Redis answers others in between, however many there are."""

_READING: Final = (INDEX_AFTER, COUNT)
_DRAINING: Final = (TAKE, ACKNOWLEDGE, GIVE_BACK, BEAT, SWEEP, HOLD)
