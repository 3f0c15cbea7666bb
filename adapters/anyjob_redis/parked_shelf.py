"""The shelf of a backend of which nothing but the parked jobs can be seen."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager

from anyjob.backend import JobShelf, TakenJob
from anyjob.capabilities import Capabilities
from anyjob.clock import Clock
from anyjob.envelope import JobEnvelope
from anyjob.outcome import JobFailure
from anyjob.store import JobFilter, JobPage, JobState, StoredJob
from anyjob_redis.parked import ParkedJobs

__all__ = ["ParkedShelf"]


class ParkedShelf(JobShelf):
    """Counts, lists and takes out parked jobs. Thread-safe."""

    def __init__(
        self,
        parked: ParkedJobs,
        *,
        resend: Callable[[JobEnvelope], None],
        clock: Clock,
        capabilities: Capabilities,
    ) -> None:
        self.clock = clock
        self.capabilities = capabilities
        self._parked = parked
        self._send_again = resend

    def count(self) -> Mapping[JobState, int]:
        return {JobState.ABANDONED: self._parked.count()}

    def scan(self, chosen: JobFilter, *, cursor: str | None = None, limit: int = 100) -> JobPage:
        self.capabilities.refuse_listing(chosen.states)
        found = self._chosen(chosen, cursor or "", limit + 1)
        page = found[:limit]
        return JobPage(page, page[-1].id if len(found) > limit else None)

    def take(self, chosen: JobFilter, *, limit: int) -> AbstractContextManager[Sequence[TakenJob]]:
        self.capabilities.refuse_removal(*(chosen.states or JobState))
        return self._parked.take([job.id for job in self._chosen(chosen, "", limit)], self._send_again)

    def park(self, raw: bytes, failure: JobFailure) -> str:
        return self._parked.park(raw, failure)

    def _chosen(self, chosen: JobFilter, after: str, limit: int) -> list[StoredJob]:
        found: list[StoredJob] = []
        while len(found) < limit and (chunk := self._parked.page(after, _CHUNK)):
            found += [job for job in chunk if chosen.matches(job)]
            after = chunk[-1].id
        return found[:limit]


_CHUNK = 500
