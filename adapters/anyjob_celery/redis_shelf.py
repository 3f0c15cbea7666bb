"""What waits in Celery's queues on Redis, runs or is parked, seen from outside. Looking changes nothing."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Final

from anyjob.backend import JobShelf, TakenJob
from anyjob.capabilities import Capabilities
from anyjob.clock import Clock
from anyjob.envelope import JobEnvelope
from anyjob.errors import InvalidOptionError
from anyjob.outcome import JobFailure
from anyjob.store import JobFilter, JobPage, JobState, StoredJob
from anyjob_celery.redis_messages import RedisMessages
from anyjob_celery.redis_walk import Cursor, RedisWalk, Seen
from anyjob_redis import ParkedJobs, translated

__all__ = ["RedisShelf"]


class RedisShelf(JobShelf):
    """The jobs of a namespace. Thread-safe."""

    def __init__(
        self,
        messages: RedisMessages,
        parked: ParkedJobs,
        *,
        resend: Callable[[JobEnvelope], None],
        clock: Clock,
        capabilities: Capabilities,
    ) -> None:
        self.clock = clock
        self.capabilities = capabilities
        self._messages = messages
        self._parked = parked
        self._walk = RedisWalk(messages, parked)
        self._send_again = resend

    def count(self) -> Mapping[JobState, int]:
        with translated():
            waiting, scheduled, running = self._messages.count()
            return {
                JobState.WAITING: waiting,
                JobState.SCHEDULED: scheduled,
                JobState.RUNNING: running,
                JobState.ABANDONED: self._parked.count(),
            }

    def scan(self, chosen: JobFilter, *, cursor: str | None = None, limit: int = 100) -> JobPage:
        try:
            after = Cursor.parse(cursor)
        except ValueError:
            raise InvalidOptionError(f"scan(cursor={cursor!r}): it is no cursor of a page.") from None
        with translated():
            found = list(islice(self._walk.through(chosen, after), limit + 1))
        page = found[:limit]
        return JobPage([seen.job for seen in page], page[-1].cursor.text() if len(found) > limit else None)

    @contextmanager
    def take(self, chosen: JobFilter, *, limit: int) -> Iterator[Sequence[TakenJob]]:
        with translated():
            free = (seen for seen in self._walk.through(chosen, Cursor()) if seen.can_be_taken)
            found = list(islice(free, limit))
        parked = [seen.job.id for seen in found if seen.job.state is JobState.ABANDONED]
        others = [seen for seen in found if seen.job.state is not JobState.ABANDONED]
        with self._parked.take(parked, self._send_again) as taken_parked, self._hold(others) as taken:
            yield [*taken, *taken_parked]

    def park(self, raw: bytes, failure: JobFailure) -> str:
        return self._parked.park(raw, failure)

    @contextmanager
    def _hold(self, wanted: Sequence[Seen]) -> Iterator[Sequence[TakenJob]]:
        if not wanted:
            yield ()
            return
        token = secrets.token_hex(8)
        by_tag = {f"{seen.place.partition(' ')[0]}-{token}-{number}": seen for number, seen in enumerate(wanted)}
        try:
            with translated():
                taken = self._messages.hold(
                    _LONGEST_HOLD, [(tag, seen.place, seen.item) for tag, seen in by_tag.items()]
                )
            yield [
                _TakenMessage(self._messages, tag.decode(), by_tag[tag.decode()].job, self._send_again) for tag in taken
            ]
        finally:
            with translated():
                self._messages.give_back(list(by_tag), lost=False)


class _TakenMessage(TakenJob):
    """A message held off the shelf."""

    def __init__(
        self, messages: RedisMessages, tag: str, job: StoredJob, resend: Callable[[JobEnvelope], None]
    ) -> None:
        self.job = job
        self._messages = messages
        self._tag = tag
        self._resend = resend

    def acknowledge(self) -> bool:
        with translated():
            return self._messages.acknowledge([self._tag]) == 1

    def replace(self, envelope: JobEnvelope) -> bool:
        with translated():
            if not self._messages.holds(self._tag):
                return False
        self._resend(envelope)
        return self.acknowledge()


_LONGEST_HOLD: Final = 300.0
