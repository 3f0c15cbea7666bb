"""Between the server and Dramatiq's threads: as many messages as there are free threads, the highest levels first.

Dramatiq has a consumer for each queue, each with a prefetch of its own, and so lower levels of one queue overtake
higher ones of another. Here one of the consumers fetches for all; the others only acknowledge their queue's messages. A
message is taken when a thread is free to begin it: each message that a process holds when it crashes was running.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, TypeVar

from dramatiq import Consumer, Message, MessageProxy

from anyjob.extend import EnqueueError, JobLogger, insist, log_fenced, log_not_settled, log_pause
from anyjob_dramatiq.frame import Delivery
from anyjob_dramatiq.private import error_of

__all__ = ["JobConsumer", "JobIntake", "JobSource"]

logger = JobLogger("anyjob.worker")

T = TypeVar("T")


class JobSource(ABC):
    """A server's side of one worker process. Thread-safe, except `take`; raises `EnqueueError` if it is unreachable."""

    @abstractmethod
    def open(self, threads: int, find_queue: Callable[[str], None]) -> None:
        """Begin: `threads` jobs may run at a time; call `find_queue` with each new queue."""

    @abstractmethod
    def take(self, queues: Sequence[str], count: int) -> Sequence[Message[Any]]:
        """Return up to `count` messages of `queues`, in the order in which they begin; wait a moment at most."""

    def rest(self, wait: Callable[[], None]) -> None:
        """Wait while no thread is free: by `wait`, unless a connection has to be served."""
        wait()

    def stop_taking(self) -> None:
        """Have nothing more delivered, if the server delivers unasked."""
        return

    @abstractmethod
    def holds(self, delivery: Delivery) -> bool:
        """Whether we still hold the message: another worker may have it."""

    @abstractmethod
    def acknowledge(self, delivery: Delivery) -> bool:
        """Remove a message for good; return whether it was still held."""

    @abstractmethod
    def give_back(self, *deliveries: Delivery) -> None:
        """Give messages back as they were, uncharged if the server can."""

    @abstractmethod
    def give_back_all(self) -> Sequence[str]:
        """Give back, as they were, all messages that are still held; return the ids of their jobs."""

    @abstractmethod
    def close(self) -> None:
        """End. Held messages are given back before."""


class JobIntake:
    """The part that the consumers of a worker share. Thread-safe."""

    def __init__(self, source: JobSource) -> None:
        self.source = source
        self.stop = threading.Event()
        """Set when no more jobs may begin; running ones see it."""
        self.over = threading.Event()
        """Set when the time to stop is up: threads that still wait for the server give up."""
        self.running: set[Delivery] = set()
        """The deliveries whose jobs run now, each in a thread."""
        self.handed_back = False
        """Whether a running job was given back, because the worker stops."""
        self._begun = False
        self._changed = threading.Condition()
        self._threads = 1
        self._busy = 0
        self._ready: deque[Message[Any]] = deque()
        self._joined: set[str] = set()
        self._serves: Callable[[], Sequence[str]] = tuple
        self._lead: JobConsumer | None = None

    def open(self, threads: int, serves: Callable[[], Sequence[str]], find_queue: Callable[[str], None]) -> None:
        """Prepare for that many threads, and the queues that `serves` returns."""
        self._threads = threads
        self._serves = serves
        self.source.open(threads, find_queue)

    def begin(self) -> None:
        """Take jobs from now on."""
        self._begun = True

    def begin_stop(self) -> None:
        """Hand out no more messages."""
        with self._changed:
            self.stop.set()
            self._changed.notify_all()
        self.source.stop_taking()

    def join(self, consumer: JobConsumer) -> None:
        """Serve one more queue."""
        with self._changed:
            self._joined.add(consumer.queue_name)

    def leave(self, consumer: JobConsumer) -> None:
        """Have another consumer fetch, if it was this one."""
        with self._changed:
            if self._lead is consumer:
                self._lead = None

    def next(self, consumer: JobConsumer) -> Message[Any] | None:
        """Return the next message to begin, of any queue, or None after a while: the caller then calls again."""
        with self._changed:
            self._lead = self._lead or consumer
        if self._lead is not consumer:
            self.stop.wait(_LONGEST_WAIT)
            return None
        if self.stop.is_set() or self._busy == self._threads:
            self.source.rest(self._wait)
        elif not self._begun:
            self.stop.wait(_MOMENT)
        elif not self._ready:
            self._fill()
        return self._ready.popleft() if self._ready and not self.stop.is_set() else None

    def free(self) -> None:
        """Note that a thread is free again."""
        with self._changed:
            self._busy -= 1
            self._changed.notify_all()

    def insist(self, action: Callable[[], T]) -> T:
        """Repeat the action while the server is unreachable: a job that ran must not count as a crash.

        Raises `EnqueueError` once the time to stop is up; held messages then go back when the server notices.
        """
        return insist(action, goes_on=lambda: not self.over.is_set(), wait=self.over.wait, away=(EnqueueError,))

    def _wait(self) -> None:
        with self._changed:
            if self.stop.is_set() or self._busy == self._threads:
                self._changed.wait(_LONGEST_WAIT)

    def _fill(self) -> None:
        queues = self._serves()
        if not self._joined.issuperset(queues):  # else a lower level could begin before a higher one is looked at
            self.stop.wait(_MOMENT)
            return
        try:
            taken = self.source.take(queues, self._threads - self._busy)
        except EnqueueError as error:
            log_pause(error, _PAUSE)
            self.stop.wait(_PAUSE)
            return
        with self._changed:
            self._busy += len(taken)
        self._ready.extend(taken)  # the leading consumer's alone


class JobConsumer(Consumer):
    """One queue's consumer, to Dramatiq."""

    def __init__(self, intake: JobIntake, queue_name: str, refuse: Callable[[Delivery, str], None]) -> None:
        self.queue_name = queue_name
        self._intake = intake
        self._refuse = refuse
        intake.join(self)

    def __next__(self) -> MessageProxy | None:
        message = self._intake.next(self)
        return None if message is None else MessageProxy(message)

    def ack(self, message: MessageProxy) -> None:
        self.end(message)

    def nack(self, message: MessageProxy) -> None:
        self.end(message)

    def end(self, message: MessageProxy) -> None:
        """Finish a message, once, whatever Dramatiq does with it: its outcome was settled, or it did not reach its job
        and is parked. So no message lands unseen in a dead-letter queue, or nowhere.
        """
        delivery: Delivery = message.args[0]
        if delivery.ended:
            return
        delivery.ended = True
        self._intake.free()
        if delivery.released:
            return

        def end() -> bool:
            if not delivery.settled:
                self._refuse(delivery, _why(message))
                delivery.settled = True
            return self._intake.source.acknowledge(delivery)

        try:
            if not self._intake.insist(end):
                log_fenced(delivery.id)
        except EnqueueError as error:
            log_not_settled(delivery.id, error)

    def requeue(self, messages: Iterable[MessageProxy]) -> None:
        self._intake.source.give_back(*(message.args[0] for message in messages))

    def close(self) -> None:
        self._intake.leave(self)


def _why(message: MessageProxy) -> str:
    error = error_of(message)
    return f"Its job was not called: {type(error).__name__}: {error}" if error else "A middleware rejected it."


_MOMENT: Final = 0.005
_LONGEST_WAIT: Final = 0.2
_PAUSE: Final = 1.0
