"""One worker process's side of Redis: its sign of life, its messages, and the threads that recover others' jobs."""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Callable, Sequence, Set
from typing import Any, Final

from dramatiq import Message

from anyjob.extend import JobLogger, SystemClock, log_event, worker_name
from anyjob_dramatiq.frame import Delivery, decode, faulty, unwrap
from anyjob_dramatiq.intake import JobSource
from anyjob_dramatiq.messages import HeldMessage, Messages
from anyjob_redis.connection import translated
from anyjob_redis.presence import Presence
from anyjob_redis.recurring import RecurringThread
from anyjob_redis.skew import ClockSkew

__all__ = ["RedisSource"]

logger = JobLogger("anyjob.worker")


class RedisSource(JobSource):
    """Takes from the levels of `messages`, and gives back the messages of crashed workers."""

    def __init__(self, messages: Messages, lease: float, forbidden: Callable[[], Set[str]]) -> None:
        self._messages = messages
        self._lease = lease
        self._forbidden = forbidden
        self._known: dict[str, None] = {}
        self._lock = threading.Lock()
        self._turn = 0
        self._pause = _SHORTEST_POLL

    def open(self, threads: int, find_queue: Callable[[str], None]) -> None:  # noqa: ARG002  # take is told how many
        self._find_queue = find_queue
        self._holder = f"{worker_name()}-{uuid.uuid4().hex[:8]}"
        self._presence = Presence(self._messages.client, self._messages.names.root, self._holder, self._lease)
        self._skew = ClockSkew(self._messages.client, self._messages.clock)
        self._idle = threading.Event()
        self._keeper = RecurringThread("anyjob-presence", self._keep_alive, SystemClock()).start()
        self._promoter = RecurringThread("anyjob-promoter", self._promote, self._messages.clock).start()

    def take(self, queues: Sequence[str], count: int) -> Sequence[Message[Any]]:
        with translated():
            held = self._presence.revived(lambda: self._take(queues, count))
        if held:
            self._pause = _SHORTEST_POLL
            self._turn += 1
        else:
            self._idle.wait(self._pause)
            self._pause = min(2 * self._pause, _LONGEST_POLL)
        with self._lock:
            self._known.update(dict.fromkeys(each.entry for each in held))
        if any(self._skew.early(unwrap(each.data or b"")) for each in held):
            self._idle.wait(_PAUSE_AFTER_EARLY)
        return [self._read(each) for each in held]

    def _take(self, queues: Sequence[str], count: int) -> Sequence[HeldMessage]:
        with self._lock:
            known = list(self._known)
        return self._messages.take(self._holder, queues, count, self._turn, known)

    def _read(self, held: HeldMessage) -> Message[Any]:
        native_id = held.native_id.decode("utf-8", "replace")
        if held.data is None:
            why = "This id was queued, and there is no such message."
            return faulty(held.native_id, why, queue=held.queue, native_id=native_id, place=held.entry)
        return decode(
            held.data,
            queue=held.queue,
            forbidden=self._forbidden(),
            native_id=native_id,
            place=held.entry,
            redelivered=held.redelivered,
        )

    def holds(self, delivery: Delivery) -> bool:
        with translated():
            return self._messages.holds(self._holder, delivery.place)

    def acknowledge(self, delivery: Delivery) -> bool:
        with translated():
            (held,) = self._messages.acknowledge(self._holder, [delivery.place])
        self._forget(delivery)
        return held

    def give_back(self, *deliveries: Delivery) -> None:
        if deliveries:
            with translated():
                self._messages.give_back(self._holder, *(each.place for each in deliveries))
        for each in deliveries:
            self._forget(each)

    def give_back_all(self) -> Sequence[str]:
        with translated():
            return self._messages.give_back(self._holder)

    def close(self) -> None:
        self._idle.set()
        self._keeper.stop()
        self._promoter.stop()
        with translated():
            self._presence.leave()

    def _forget(self, delivery: Delivery) -> None:
        with self._lock:
            self._known.pop(delivery.place, None)

    def _keep_alive(self) -> float:
        if self._presence.beat():
            for job_id in self._messages.sweep():
                log_event(logger, logging.WARNING, "rescued", id=job_id, reason="its worker vanished")
        self._skew.measure()
        for queue in self._messages.known_queues():
            self._find_queue(queue)
        return min(self._lease / 3, _LONGEST_TICK)

    def _promote(self) -> float:
        return self._messages.scheduled.promote()


_PAUSE_AFTER_EARLY: Final = 1.0
_SHORTEST_POLL: Final = 0.005
_LONGEST_POLL: Final = 0.1
_LONGEST_TICK: Final = 1.0
