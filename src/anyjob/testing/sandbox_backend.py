"""The backend of one alias inside a sandbox: memory, with the limits of another backend if the test asks for them."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime, timedelta
from functools import partial
from typing import Final

from msgspec.structs import replace

from anyjob.base.envelope import JobEnvelope
from anyjob.seams.backend import BackendConfig
from anyjob.seams.capabilities import Capabilities
from anyjob.seams.inspector import HeldJob, JobInspector
from anyjob.seams.outcome import Outcome
from anyjob.seams.source import JobClaim
from anyjob.seams.stored import JobFilter, JobPage, JobState
from anyjob.settings.loader import load_backend
from anyjob.stores.lanes import JobRow
from anyjob.stores.memory import InMemoryJobStore
from anyjob.stores.store_backend import StoreBackend, memory_capabilities
from anyjob.testing.faults import SandboxFaults
from anyjob.testing.sandbox_clock import SandboxClock

__all__ = ["MEMORY", "SandboxBackend", "SandboxStore", "capabilities_of"]

MEMORY: Final = memory_capabilities(30.0)
ChosenRow = Callable[[JobRow], bool]
_UNBOUNDED: Final = timedelta(minutes=5)  # for a profile that names no bound: jobs are redelivered, some time


def capabilities_of(profile: Capabilities | str | None) -> Capabilities:
    """Return the capabilities given, or those of the backend of a URL, which is not connected to.

    Raises as `load_backend` does: the adapter and its library must be installed.
    """
    if profile is None:
        return MEMORY
    if isinstance(profile, Capabilities):
        return profile
    backend = load_backend(BackendConfig(alias="profile", url=profile))
    try:
        return backend.capabilities
    finally:
        backend.close()


class SandboxStore(InMemoryJobStore):
    """A store that tells when a job was settled, and when a killed worker's job is redelivered.

    Without `unique_ids` it takes a second job of an id, as most brokers do.
    """

    def __init__(self, clock: SandboxClock, changed: threading.Condition, *, unique_ids: bool) -> None:
        super().__init__(clock)
        self._settled = changed
        self._unique_ids = unique_ids

    def settle(self, claim: JobClaim, outcome: Outcome) -> bool:
        held = super().settle(claim, outcome)
        with self._settled:
            self._settled.notify_all()
        return held

    def _refuse_taken(self, job_id: str, envelopes: Sequence[JobEnvelope]) -> None:
        if self._unique_ids:
            super()._refuse_taken(job_id, envelopes)

    def _row(self, envelope: JobEnvelope) -> JobRow:
        row = super()._row(envelope)
        return replace(row, id=f"{row.id}~{row.seq}") if row.id in self._rows and not self._unique_ids else row

    def claim_chosen(self, chosen: ChosenRow | None, *, lease: timedelta, worker: str) -> JobClaim | None:
        """Take the first of the chosen jobs that are due, as `claim` takes the first of all (None)."""
        if chosen is None:
            return next(iter(self.claim(queues=None, limit=1, lease=lease, worker=worker)), None)
        rows = self._due(chosen)
        until = self.clock.monotonic() + lease.total_seconds()
        with self._lock:
            free = [row for row in rows if self._rows.get(row.id) is row and row.id not in self._leases]
            row = min(free, key=lambda row: (-row.priority, row), default=None)
            return None if row is None else self._lease(self._out_of_its_lane(row), worker, until, True)

    def next_event_at(self, chosen: ChosenRow | None = None) -> datetime | None:
        """Return when the next of the chosen jobs is due, or runs again because its worker was killed."""
        now, passed = self.clock.now(), self.clock.monotonic()
        with self._lock:
            leases = {job_id: held.until - passed for job_id, held in self._leases.items()}
            rows = [row for row in self._rows.values() if row.id not in self._failures]
        events = [
            now + timedelta(seconds=leases[row.id]) if row.id in leases else row.due
            for row in rows
            if chosen is None or chosen(row)
        ]
        return min(events, default=None)

    def due_ids(self, chosen: ChosenRow | None = None) -> set[str]:
        """Return the ids of the chosen jobs that are due now."""
        return {row.id for row in self._due(chosen)}

    def clear(self) -> None:
        """Forget every job."""
        with self._lock:
            self._rows.clear()
            self._leases.clear()
            self._failures.clear()
            self._lanes.clear()

    def _due(self, chosen: ChosenRow | None) -> Sequence[JobRow]:
        with self._lock:  # and not while the test's function is asked, which may look at jobs
            now = self.clock.now()
            due = [row for row in self._rows.values() if self._state(row, now) is JobState.WAITING]
        return [row for row in due if chosen is None or chosen(row)]


class SandboxBackend(StoreBackend):
    """Keeps the jobs of one alias, after the faults had their say."""

    store: SandboxStore

    def __init__(
        self,
        store: SandboxStore,
        capabilities: Capabilities,
        faults: SandboxFaults,
        accepted: Callable[[Sequence[JobEnvelope]], None],
    ) -> None:
        super().__init__(store, capabilities)
        self._faults = faults
        self._accepted = accepted
        if capabilities is not MEMORY:
            whole, self.capabilities = self.inspector, capabilities
            self.inspector = (
                _LimitedInspector(whole, capabilities) if whole is not None and capabilities.listing else None
            )

    @property
    def comes_back_after(self) -> timedelta:
        """After how long the job of a killed worker runs again."""
        return self.capabilities.redelivery_bound or _UNBOUNDED

    def send(self, envelopes: Sequence[JobEnvelope], *, once: str | None = None) -> None:
        self._faults.accept(envelopes, self.capabilities.bulk, partial(self._take, once=once))

    def put(self, envelopes: Sequence[JobEnvelope]) -> None:
        """Keep jobs that were not enqueued here, whatever the faults are."""
        super().send(envelopes)

    def _take(self, envelopes: Sequence[JobEnvelope], once: str | None) -> None:
        if envelopes:
            self._accepted(envelopes)  # first: a worker that is woken may be quicker than we
            super().send(envelopes, once=once)


class _LimitedInspector(JobInspector):
    """Shows and hands out no more than the profile's backend would."""

    def __init__(self, inspector: JobInspector, capabilities: Capabilities) -> None:
        self._inspector = inspector
        self.clock = inspector.clock
        self.capabilities = capabilities

    def count(self) -> Mapping[JobState, int]:
        return {state: count for state, count in self._inspector.count().items() if state in self.capabilities.counts}

    def scan(self, chosen: JobFilter, *, cursor: str | None = None, limit: int = 100) -> JobPage:
        return self._inspector.scan(_within(chosen, self.capabilities.listing), cursor=cursor, limit=limit)

    def hold(self, chosen: JobFilter, *, holder: str, ahead: int) -> AbstractContextManager[Iterator[HeldJob]]:
        return self._inspector.hold(chosen, holder=holder, ahead=ahead)


def _within(chosen: JobFilter, states: frozenset[JobState]) -> JobFilter:
    return dataclasses.replace(chosen, states=states if chosen.states is None else states & chosen.states)
