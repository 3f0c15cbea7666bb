"""Celery's messages on Redis: sent, taken, kept alive while a worker has them, given back."""

from __future__ import annotations

import itertools
import secrets
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final

from redis import Redis
from redis.commands.core import Script
from redis.exceptions import RedisError

from anyjob.clock import Clock
from anyjob.envelope import JobEnvelope, JobIds
from anyjob.log import JobLogger
from anyjob_celery.redis_scripts import ACKNOWLEDGE, BEAT, COUNT, GIVE_BACK, HOLD, PUSH, SEND, SWEEP, TAKE
from anyjob_celery.redis_wire import LEVELS, item_of
from anyjob_redis import Moves, ScheduledMessages, send_in_batches
from anyjob_redis.scheduled import score_of

__all__ = ["HeldMessages", "RedisMessages"]

logger = JobLogger("anyjob.worker")


class RedisMessages:
    """The messages of a namespace. Thread-safe; methods raise redis-py's errors, `send` `EnqueueError`."""

    def __init__(self, client: Redis, namespace: str, clock: Clock) -> None:
        self.client: Any = client
        self.namespace = namespace
        self.scheduled = ScheduledMessages(client, namespace, PUSH, clock)
        self.clock = clock
        self._ids = JobIds()
        self._scripts: dict[str, Script] = {text: client.register_script(text) for text in _ALL}

    def send(
        self,
        envelopes: Sequence[JobEnvelope],
        headers: Sequence[Mapping[str, Any]],
        *,
        at_once: bool = False,
        moved: str = "",
    ) -> None:
        """Send jobs, each batch of them all or none; `at_once` leaves delays to whoever takes them; `moved` is the key
        of the move that brings them.
        """
        told = zip(envelopes, headers, strict=True)
        jobs = [(envelope.id, self._sent(envelope, each, at_once=at_once)) for envelope, each in told]
        send_in_batches(self.client, self._scripts[SEND], [self.namespace, moved], jobs)

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

    def give_back(self, tags: Collection[str], *, lost: bool) -> None:
        """Put held messages back where they came from; `lost` ones count as delivered before."""
        if tags:
            self._run(GIVE_BACK, int(lost), *tags)

    def beat(self, tags: Collection[str]) -> None:
        """Say that the holder of these lives."""
        if tags:
            self._run(BEAT, *tags)

    def sweep(self, lease: float) -> Sequence[bytes]:
        """Give back what was held by who gave no sign of life for `lease` seconds; return the tags."""
        found: Sequence[bytes] = self._run(SWEEP, lease)
        return found

    def hold(self, seconds: float, wanted: Iterable[tuple[str, str, bytes]]) -> Sequence[bytes]:
        """Hold messages off the shelf (tag, kind and place, message); return the tags of those that were there."""
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
        key = self._list(queue, level)
        with self.client.pipeline() as pipeline:
            length, place = pipeline.llen(key).lpos(key, item, rank=-1, maxlen=within).execute()
        return 0 if place is None else int(length - place)

    def held_by(self, holder: str) -> Sequence[str]:
        """Return the tags of what a holder of the shelf's holds, what was taken first in front."""
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
        mark, level = Moves.mark(envelope), LEVELS[envelope.priority]
        return mark, envelope.queue, level, due, tag, item_of(envelope, headers, tag)


class HeldMessages:
    """What this worker holds. Thread-safe; never raises for Redis being away: it goes on when that is back."""

    def __init__(self, messages: RedisMessages, lease: float) -> None:
        self.messages = messages
        self.period = lease / 3
        self._lease = lease
        self._tags: set[str] = set()
        self._done: set[str] = set()
        self._numbers = itertools.count()
        self._worker = secrets.token_hex(6)
        self._steady_since: float | None = None

    def new_tag(self) -> str:
        """Return the tag for the next message, which counts as held from now on."""
        return f"run-{self._worker}-{next(self._numbers)}"

    def add(self, tag: str) -> None:
        self._tags.add(tag)

    def acknowledge(self, tag: str) -> None:
        """Let go of a message that is done, for good; later, if Redis is away."""
        self._tags.discard(tag)
        self._done.add(tag)
        try:
            self._acknowledge_done()
        except RedisError as error:
            logger.warning("acknowledged later: %s", error)

    def give_back(self, tags: Collection[str], *, lost: bool) -> None:
        """Put messages back; if Redis is away, they lapse."""
        self._tags.difference_update(tags)
        try:
            self.messages.give_back(tags, lost=lost)
        except RedisError as error:
            logger.warning("given back when their time is up: %s", error)

    def give_back_all(self) -> None:
        """Put back, uncharged, whatever is still held."""
        self.give_back(list(self._tags), lost=False)

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
            for tag in self.messages.sweep(self._lease):
                logger.warning("given back: its holder is silent tag=%s", tag.decode())
        self._steady_since = since
        return self.period

    def _acknowledge_done(self) -> None:
        done = list(self._done)
        if done and not all(self.messages.acknowledge(done)):
            logger.warning("fenced: a job took longer than its worker could show, and runs again")
        self._done.difference_update(done)


_ALL: Final = (SEND, TAKE, ACKNOWLEDGE, GIVE_BACK, BEAT, SWEEP, HOLD, COUNT)
