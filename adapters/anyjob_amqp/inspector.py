"""Shows the jobs on RabbitMQ from outside: how many there are, and the parked ones.

RabbitMQ can't list the messages of a queue. A reader holds the messages that it read: others don't see them until they
are back, and then they count as redelivered. That does no harm to parked jobs, if it is an explicit look and no poll;
it would harm waiting jobs, so these can't be listed or taken out one by one, but only all be moved.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from time import monotonic
from typing import Any, Final

import msgspec
from amqp import Message
from amqp.exceptions import NotFound
from msgspec import Struct

from anyjob.extend import (
    ALL_STATES,
    UNREADABLE,
    Capabilities,
    Clock,
    EnqueueError,
    EnvelopeError,
    HeldJob,
    InvalidOptionError,
    JobEnvelope,
    JobFailure,
    JobFilter,
    JobIds,
    JobInspector,
    JobPage,
    JobState,
    PageCursor,
    StoredJob,
    copy_id,
    describe_error,
    id_in,
    read_envelope,
)
from anyjob_amqp.links import AMQP_ERRORS, Links, translated
from anyjob_amqp.notes import is_away
from anyjob_amqp.publisher import Parcel, Publisher
from anyjob_amqp.topology import AmqpNames
from anyjob_amqp.undecodable import fault_in

__all__ = ["AmqpInspector", "ReadMessage", "body_of", "jobs_in"]

ReadMessage = Callable[[Message, JobState, str], StoredJob | None]
"""Returns the job in a message of a queue, whose jobs are usually in that state; None: it is not to be shown. Never
raises.
"""


class _Parked(Struct, frozen=True):
    """The body of a message in the queue of parked jobs."""

    raw: bytes
    failure: JobFailure


class _ParkedRaw(Struct, frozen=True):
    """The part of it that retries a job."""

    raw: bytes


class AmqpInspector(JobInspector):
    """Counts every queue; lists and takes out parked jobs. Thread-safe.

    `queues` are the native names of the queues where jobs wait, asked for anew each time, `later` those that delay them
    (None: our chain), and `read` returns the job in a message of theirs, which may have its own state; without it only
    parked jobs are shown. `resend` sends a retried job.
    """

    def __init__(
        self,
        links: Links,
        publisher: Publisher,
        names: AmqpNames,
        *,
        queues: Iterable[str] = (),
        later: Iterable[str] | None = None,
        read: ReadMessage | None = None,
        resend: Callable[[JobEnvelope], None],
        clock: Clock,
        capabilities: Capabilities,
    ) -> None:
        self.clock = clock
        self.capabilities = capabilities
        self._links = links
        self._publisher = publisher
        self._names = names
        self._ours = later is None  # then the queues have the names that we give them
        self._later = names.levels if later is None else later
        self._queues = queues
        self._read = read
        counted = {JobState.WAITING: queues, JobState.SCHEDULED: self._later, JobState.ABANDONED: [names.parked]}
        self._counted = {state: counted[state] for state in counted if state in capabilities.counts}
        self._send_again = resend
        self._ids = JobIds()

    def count(self) -> Mapping[JobState, int]:
        with translated(), self._links.link() as link:
            return {
                state: sum(_ready(link.connection, queue) for queue in queues)
                for state, queues in self._counted.items()
            }

    def scan(self, chosen: JobFilter, *, cursor: str | None = None, limit: int = 100) -> JobPage:
        self.capabilities.refuse_listing(chosen.states)
        at = _Cursor.parse(cursor)
        if limit < 1 or at is None:
            raise InvalidOptionError(f"scan(cursor={cursor!r}, limit={limit!r}): a cursor of a page, and at least 1.")
        found: list[tuple[str, StoredJob]] = []
        following, reached = None, cursor is None
        read = _ParkedReader(chosen).read
        with self._channel() as channel:
            for message in self._messages(channel, self._names.parked):
                key, job = _key_of(message), read(message, JobState.ABANDONED, self._names.parked)
                if not reached and key in (at.last, at.following):  # the jobs up to here were shown before
                    found, following, reached = [], None, key == at.following
                    if not reached:
                        continue
                if len(found) == limit:
                    following = following or key
                    if reached:
                        break
                elif chosen.matches(job):
                    found.append((key, job))
        return JobPage(
            [job for _, job in found], None if following is None else _Cursor(found[-1][0], following).text()
        )

    @contextmanager
    def hold(self, chosen: JobFilter, *, holder: str, ahead: int) -> Iterator[Iterator[HeldJob]]:  # noqa: ARG002
        # Nothing is held ahead, and the broker has given back a crashed holder's messages with its connection.
        with self._channel() as channel:
            yield self._come_past(channel, chosen)

    def acknowledge(self, taken: Sequence[HeldJob]) -> Sequence[bool]:
        held = _acknowledge([each for each in taken if isinstance(each, _TakenMessage)])
        return [held] * len(taken)

    def park(self, raw: bytes, failure: JobFailure) -> str:
        key = self._ids.new(self.clock.now())
        message = Message(
            msgspec.json.encode(_Parked(raw, failure)),
            content_type="application/json",
            delivery_mode=2,
            message_id=key,
            application_headers={
                "error": f"{failure.error_type}: {failure.message}"[:_LONGEST_ERROR]
            },  # for readers of the queue with other tools
        )
        self._publisher.publish([Parcel(key, self._names.route_to_parked(), message)])
        return id_in(raw) or key

    def _come_past(self, channel: Any, chosen: JobFilter) -> Iterator[HeldJob]:
        """Take, one after the other, all messages that no other client holds, and hand out the chosen ones.

        A delay's queues come first, the longest delay before the shorter, because a message goes that way. It ends
        before the broker's `consumer_timeout` for the messages that are held and not chosen.
        """
        until = monotonic() + _LONGEST_PASS
        for state, queue, read in self._sources(chosen):
            for message in self._messages(channel, queue):
                if monotonic() > until:
                    return
                job = read(message, state, queue)
                if job is not None and chosen.matches(job):
                    yield _TakenMessage(channel, queue, job, message, self._send_again)

    def _sources(self, chosen: JobFilter) -> Iterator[tuple[JobState, str, ReadMessage]]:
        wanted = (self.capabilities.moving | self.capabilities.removal) & (chosen.states or ALL_STATES)
        if self._read is not None:
            queues: Sequence[str] = ()
            # Other chains keep later messages beside due ones; and their targets may depend on which queues there
            # are, so these are asked for first.
            if JobState.WAITING in wanted or (JobState.SCHEDULED in wanted and not self._ours):
                named = chosen.queues is not None and self._ours
                queues = [*map(self._names.queue, sorted(chosen.queues or ()))] if named else [*self._queues]
            if JobState.SCHEDULED in wanted:
                for queue in reversed(list(self._later)):
                    yield JobState.SCHEDULED, queue, self._read
            for queue in queues:
                yield JobState.WAITING, queue, self._read
        if JobState.ABANDONED in wanted:
            yield JobState.ABANDONED, self._names.parked, _ParkedReader(chosen).read

    def _messages(self, channel: Any, queue: str) -> Iterator[Message]:
        """Yield each message that no other client holds; it is held until the channel closes."""
        with translated():
            if _ready(channel.connection, queue) == 0:
                return  # or there is no such queue: to ask for it over this channel would close it
        while True:
            with translated():
                message = channel.basic_get(queue)
            if message is None:
                return
            yield message

    @contextmanager
    def _channel(self) -> Iterator[Any]:
        """Lend a channel of its own; messages that were read over it and not acknowledged go back, in order."""
        with ExitStack() as stack:
            with translated():
                link = stack.enter_context(self._links.link())
                channel = link.connection.channel()
            stack.callback(_close, channel)
            yield channel


class _TakenMessage(HeldJob):
    """A message that a channel holds."""

    def __init__(
        self,
        channel: Any,
        queue: str,
        job: StoredJob,
        message: Message,
        resend: Callable[[JobEnvelope], None],
    ) -> None:
        self.job = job
        self.channel = channel
        self.queue = queue
        self.tag = message.delivery_tag
        self._resend = resend

    def acknowledge(self) -> bool:
        return _acknowledge([self])

    def replace(self, envelope: JobEnvelope) -> bool:
        self._resend(envelope)
        return self.acknowledge()


def _acknowledge(held: Sequence[_TakenMessage]) -> bool:
    """Remove messages for good; return whether the acknowledgement reached the broker."""
    try:
        for each in held:
            each.channel.basic_ack(each.tag)
        for each in held[-1:]:
            each.channel.queue_declare(each.queue, passive=True)  # an ack has no answer: this says that it arrived
    except AMQP_ERRORS:
        return False
    return True


class _Cursor(PageCursor, frozen=True):
    """The end of a page. A number would not do: the caller, and others, may remove jobs that were shown."""

    last: str = ""
    """The key of the last job shown."""
    following: str = ""
    """The key of the next job; where neither is there any more, the scan begins anew."""


class _ParkedReader:
    """Reads the parked jobs, in order, and gives each its id: the first copy of a job has the job's own, unless it is
    asked for by its id as a copy.
    """

    def __init__(self, chosen: JobFilter) -> None:
        self._wanted = chosen.ids or frozenset()
        self._seen: set[str] = set()

    def read(self, message: Message, state: JobState, _queue: str) -> StoredJob:
        raw, failure = _parked_in(body_of(message))
        key = _key_of(message)
        own = id_in(raw) or key
        copy = copy_id(own, key)
        job_id = copy if own in self._seen or copy in self._wanted else own
        self._seen.add(own)
        return StoredJob(job_id, state, raw, failure)


def _parked_in(body: bytes) -> tuple[bytes, JobFailure]:
    try:
        parked = _decoder.decode(body)
    except UNREADABLE as error:
        return _raw_in(body), _unreadable(error)
    return parked.raw, parked.failure


def _raw_in(body: bytes) -> bytes:
    """Return the job beside an unreadable failure; the whole message, if it is not ours."""
    try:
        return _raw_decoder.decode(body).raw
    except UNREADABLE:
        return body


def _unreadable(error: Exception) -> JobFailure:
    broken = EnvelopeError(f"what was noted when it was parked can't be read: {error}")
    return JobFailure.of(broken, at=_LONG_AGO, worker="", tries=0)


def jobs_in(open_message: Callable[[Message, bytes], bytes]) -> ReadMessage:
    """Return a reader of our messages; `open_message` returns the envelope's bytes in one, or its body if there is
    none.
    """

    def read(message: Message, state: JobState, _queue: str) -> StoredJob:
        body = body_of(message)
        raw = body if fault_in(message.headers) else open_message(message, body)  # no worker runs an undecodable one
        try:
            return StoredJob(read_envelope(raw).id, state, raw)
        except EnvelopeError:
            return StoredJob(_id_of(message), state, raw)

    return read


def _id_of(message: Message) -> str:
    return message.properties.get("message_id") or f"unnamed-{message.delivery_tag}"


def _key_of(message: Message) -> str:
    """Return a key that tells a parked message from others, however often it is read."""
    return message.properties.get("message_id") or f"unnamed-{hashlib.sha256(body_of(message)).hexdigest()[:16]}"


def body_of(message: Message) -> bytes:
    """Return the body as it was delivered."""
    return bytes(message.body or b"")  # of none at all it is an empty text


def _ready(connection: Any, queue: str) -> int:
    """Return how many messages no client holds; 0 where there is no queue."""
    channel = connection.channel()
    try:
        return int(channel.queue_declare(queue, passive=True).message_count)
    except NotFound as error:  # and the channel is closed by that
        if is_away(error):
            raise EnqueueError(f"RabbitMQ can't be asked for all of its queues: {describe_error(error)}") from error
        return 0
    finally:
        _close(channel)


def _close(channel: Any) -> None:
    with suppress(*AMQP_ERRORS):
        channel.close()


_decoder: Final = msgspec.json.Decoder(_Parked)
_raw_decoder: Final = msgspec.json.Decoder(_ParkedRaw)
_LONG_AGO: Final = datetime.fromtimestamp(0, UTC)
_LONGEST_ERROR: Final = 500
_LONGEST_PASS: Final = 20 * 60.0
