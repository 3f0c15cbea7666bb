"""What can be seen of RabbitMQ from outside: how many jobs there are, and those that were given up.

RabbitMQ has no way of looking. Who reads a queue holds what was read, others don't see it until it is back, and then it
counts as delivered before. For the parked jobs that does no harm, if it is an explicit look and no poll; for the jobs
that wait it would, so they can't be listed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, Final

import msgspec
from amqp import Message
from amqp.exceptions import NotFound
from msgspec import Struct

from anyjob.backend import JobShelf, TakenJob
from anyjob.capabilities import Capabilities
from anyjob.clock import Clock
from anyjob.envelope import UNREADABLE, JobEnvelope, JobIds
from anyjob.errors import EnqueueError
from anyjob.outcome import JobFailure
from anyjob.store import JobFilter, JobPage, JobState, StoredJob
from anyjob_amqp.links import AMQP_ERRORS, Links
from anyjob_amqp.publisher import Parcel, Publisher
from anyjob_amqp.topology import AmqpNames

__all__ = ["AmqpShelf"]


class _Parked(Struct, frozen=True):
    """The body of a message in the queue of the parked."""

    raw: bytes
    failure: JobFailure


class AmqpShelf(JobShelf):
    """Counts every queue; lists and takes out parked jobs. Thread-safe.

    `queues` are the native names of the queues where jobs wait, asked for anew at every count; without them nothing but
    the parked is counted. `resend` sends a retried job.
    """

    def __init__(
        self,
        links: Links,
        publisher: Publisher,
        names: AmqpNames,
        *,
        queues: Iterable[str] | None = None,
        resend: Callable[[JobEnvelope], None],
        clock: Clock,
        capabilities: Capabilities,
    ) -> None:
        self.clock = clock
        self.capabilities = capabilities
        self._links = links
        self._publisher = publisher
        self._names = names
        counted = {} if queues is None else {JobState.WAITING: queues, JobState.SCHEDULED: names.levels}
        self._counted: Mapping[JobState, Iterable[str]] = {**counted, JobState.ABANDONED: [names.parked]}
        self._send_again = resend
        self._ids = JobIds()

    def count(self) -> Mapping[JobState, int]:
        with _translated(), self._links.link() as link:
            return {
                state: sum(_ready(link.connection, queue) for queue in queues)
                for state, queues in self._counted.items()
            }

    def scan(self, chosen: JobFilter, *, cursor: str | None = None, limit: int = 100) -> JobPage:
        self.capabilities.refuse_listing(chosen.states)
        first = int(cursor or 0)  # how many were read, chosen or not
        found: list[StoredJob] = []
        with self._channel() as channel:
            number = 0
            for number, (job, _) in enumerate(self._parked(channel), 1):
                if number > first and chosen.matches(job):
                    found.append(job)
                    if len(found) == limit:
                        return JobPage(found, str(number))
        return JobPage(found, None)

    @contextmanager
    def take(self, chosen: JobFilter, *, limit: int) -> Iterator[Sequence[TakenJob]]:
        self.capabilities.refuse_removal(*(chosen.states or JobState))
        taken: list[TakenJob] = []
        with self._channel() as channel:
            for job, tag in self._parked(channel):
                if chosen.matches(job):
                    taken.append(_TakenParkedJob(channel, self._names.parked, job, tag, self._send_again))
                    if len(taken) == limit:
                        break
            yield taken

    def park(self, raw: bytes, failure: JobFailure) -> str:
        job_id = self._ids.new(self.clock.now())
        message = Message(
            msgspec.json.encode(_Parked(raw, failure)),
            content_type="application/json",
            delivery_mode=2,
            message_id=job_id,
            application_headers={
                "error": f"{failure.error_type}: {failure.message}"[:_LONGEST_ERROR]
            },  # for who reads the queue with other tools
        )
        self._publisher.publish([Parcel(job_id, self._names.route_to_parked(), message)])
        return job_id

    def _parked(self, channel: Any) -> Iterator[tuple[StoredJob, int]]:
        """Yield each parked job that nobody else holds, with its delivery tag; it is held until the channel closes."""
        while True:
            try:
                with _translated():
                    message = channel.basic_get(self._names.parked)
            except NotFound:
                return
            if message is None:
                return
            yield _stored(message), message.delivery_tag

    @contextmanager
    def _channel(self) -> Iterator[Any]:
        """Lend a channel of its own; what was read over it and not acknowledged goes back, in its order."""
        with ExitStack() as stack:
            with _translated():
                link = stack.enter_context(self._links.link())
                channel = link.connection.channel()
            stack.callback(_close, channel)
            yield channel


class _TakenParkedJob(TakenJob):
    """A parked job that a channel holds."""

    def __init__(
        self, channel: Any, queue: str, job: StoredJob, tag: int, resend: Callable[[JobEnvelope], None]
    ) -> None:
        self.job = job
        self._channel = channel
        self._queue = queue
        self._tag = tag
        self._resend = resend

    def acknowledge(self) -> bool:
        try:
            self._channel.basic_ack(self._tag)
            self._channel.queue_declare(self._queue, passive=True)  # an ack has no answer: this says that it arrived
        except AMQP_ERRORS:
            return False
        return True

    def replace(self, envelope: JobEnvelope) -> bool:
        self._resend(envelope)
        return self.acknowledge()


def _stored(message: Message) -> StoredJob:
    job_id = message.properties.get("message_id") or f"unnamed-{message.delivery_tag}"
    body = message.body.encode() if isinstance(message.body, str) else bytes(message.body)
    try:
        parked = _decoder.decode(body)
    except UNREADABLE:
        return StoredJob(job_id, JobState.ABANDONED, body)  # somebody else's message in our queue
    return StoredJob(job_id, JobState.ABANDONED, parked.raw, parked.failure)


def _ready(connection: Any, queue: str) -> int:
    """Return how many messages nobody holds; none where there is no queue."""
    channel = connection.channel()
    try:
        return int(channel.queue_declare(queue, passive=True).message_count)
    except NotFound:
        return 0  # and the channel is closed by that
    finally:
        _close(channel)


def _close(channel: Any) -> None:
    with suppress(*AMQP_ERRORS):
        channel.close()


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except NotFound:
        raise
    except AMQP_ERRORS as error:
        raise EnqueueError(f"RabbitMQ can't be reached, or refused: {error}") from error


_decoder: Final = msgspec.json.Decoder(_Parked)
_LONGEST_ERROR: Final = 500
