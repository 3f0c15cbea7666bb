"""Which jobs of a move were on their way when its mover crashed: RabbitMQ can't tell, so it is noted beforehand."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from typing import Final

import msgspec
from amqp import Message
from amqp.exceptions import NotFound
from msgspec import Struct

from anyjob.extend import UNREADABLE, EnqueueError, SendMarks
from anyjob_amqp.links import Links, translated
from anyjob_amqp.publisher import Parcel, Publisher
from anyjob_amqp.topology import AmqpNames

__all__ = ["MoveJournal"]


class _Note(Struct, frozen=True):
    under_way: frozenset[str] = frozenset()
    """The jobs that are being sent, or were before a mover crashed, and that the source may still have."""
    in_doubt: frozenset[str] = frozenset()
    """The jobs that were sent again."""


class MoveJournal(SendMarks):
    """The moves into one namespace, each with a queue that holds its newest note. Raises `EnqueueError`.

    For one mover of a move at a time.
    """

    def __init__(self, links: Links, publisher: Publisher, names: AmqpNames) -> None:
        self._links = links
        self._publisher = publisher
        self._names = names
        self._notes: dict[str, _Note] = {}
        self._gone: dict[str, set[str]] = {}

    def begin(self, mark: str) -> None:
        self.note(mark, ())

    def knows(self, mark: str) -> bool:
        with translated(), self._links.link() as link, link.connection.channel() as channel:
            try:
                channel.queue_declare(self._names.moving(mark), passive=True)
            except NotFound:
                return False
            return True

    def in_doubt(self, mark: str) -> Collection[str]:
        return (self._notes.get(mark) or self._read(mark)).in_doubt

    def note(self, mark: str, ids: Collection[str]) -> None:
        """Note, before jobs are sent, that they will be sent."""
        last = self._notes.get(mark) or self._read(mark)
        under_way, coming = last.under_way.difference(self._gone.get(mark, ())), frozenset(ids)
        note = _Note(under_way | coming, last.in_doubt | under_way & coming)
        try:
            self._write(mark, note)
        except EnqueueError as error:
            raise EnqueueError(str(error), rejected=list(ids)) from error  # the note is in doubt; no job was sent
        self._notes[mark] = note
        self._gone.pop(mark, None)

    def forget(self, mark: str | None, ids: Collection[str] | None = None) -> None:
        if mark is None:
            return  # other moves' notes do no harm: they are only reported, and expire
        if ids is not None:
            self._gone.setdefault(mark, set()).update(ids)  # the next note leaves them out
            return
        self._notes.pop(mark, None)
        self._gone.pop(mark, None)
        with translated(), self._links.link() as link:
            link.channel.queue_delete(self._names.moving(mark))

    def _read(self, move: str) -> _Note:
        """Return the notes, and leave them. A mover may have crashed between a new note and the end of the old."""
        notes: list[_Note] = []
        with translated(), self._links.link() as link, link.connection.channel() as channel, suppress(NotFound):
            while (message := channel.basic_get(self._names.moving(move))) is not None:
                notes.append(self._note_in(message, move))
        return _Note(
            frozenset[str]().union(*(note.under_way for note in notes)),
            frozenset[str]().union(*(note.in_doubt for note in notes)),
        )

    def _note_in(self, message: Message, move: str) -> _Note:
        try:
            return _decoder.decode(message.body)
        except UNREADABLE as error:
            queue = self._names.moving(move)
            raise EnqueueError(
                f"The note of a move, in the queue {queue!r}, can't be read: {error}. Nobody else knows which jobs "
                "were on their way; delete the queue to go on all the same."
            ) from error

    def _write(self, move: str, note: _Note) -> None:
        route = self._names.route_to_moving(move)
        message = Message(msgspec.json.encode(note), delivery_mode=2, message_id=move)
        self._publisher.publish([Parcel(move, route, message)])
        with translated(), self._links.link() as link:
            older = link.channel.queue_declare(route.key, passive=True).message_count - 1
            for _ in range(older):
                link.channel.basic_get(route.key, no_ack=True)


_decoder: Final = msgspec.json.Decoder(_Note)
