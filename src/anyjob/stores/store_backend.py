"""Any store and a `JobWorker` as a backend (ABP's default manager)."""

from __future__ import annotations

import atexit
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta

from anyjob.base.envelope import JobEnvelope
from anyjob.base.errors import ConfigurationError
from anyjob.base.log import JobLogger
from anyjob.seams.backend import BackendConfig, JobBackend
from anyjob.seams.capabilities import ALL_STATES, BulkAtomicity, Capabilities, Quality
from anyjob.seams.inspector import HeldJob, JobInspector
from anyjob.seams.outcome import Completed, Deferred, JobFailure
from anyjob.seams.source import DEFAULT_LEASE, JobClaim
from anyjob.seams.store import JobStore
from anyjob.seams.stored import JobFilter, JobPage, JobState, StoredJob
from anyjob.stores.memory import InMemoryJobStore

__all__ = ["StoreBackend", "memory_backend", "memory_capabilities"]

logger = JobLogger("anyjob.worker")


class StoreBackend(JobBackend):
    """Sends into a store; its workers claim from it.

    Any store can be listed, counted and taken from, and its workers end by themselves: `capabilities` need not say so.
    `lease` is in seconds, that of the workers; `redelivery_bound` follows from it.
    """

    def __init__(self, store: JobStore, capabilities: Capabilities, *, lease: float = DEFAULT_LEASE) -> None:
        self.store = store
        self.clock = store.clock
        self.marks = store.marks
        self.lease = lease
        self.capabilities = capabilities = replace(
            capabilities,
            listing=ALL_STATES,
            removal=ALL_STATES - {JobState.RUNNING},
            moving=ALL_STATES - {JobState.RUNNING},
            counts=dict.fromkeys(JobState, Quality.EXACT),
            bounded_worker=True,
        )
        self.inspector = _StoreInspector(store, capabilities)

    def send(self, envelopes: Sequence[JobEnvelope], *, once: str | None = None) -> None:
        self.store.insert(envelopes, once=once)

    def park(self, raw: bytes, failure: JobFailure) -> str:
        return self.store.park(raw, failure)

    def source(self) -> JobStore:
        return self.store

    def close(self) -> None:
        self.store.close()


def memory_capabilities(lease: float) -> Capabilities:
    """Return the capabilities of jobs in memory, with leases of so many seconds."""
    return Capabilities(
        priority=Quality.EXACT,
        delay=Quality.EXACT,
        bulk=BulkAtomicity.ALL_OR_NONE,
        unique_ids=True,
        listing=ALL_STATES,
        removal=ALL_STATES - {JobState.RUNNING},
        moving=ALL_STATES - {JobState.RUNNING},
        moves_once=True,
        counts=dict.fromkeys(JobState, Quality.EXACT),
        bounded_worker=True,
        in_process=True,
        redelivery_bound=timedelta(seconds=lease * 4 / 3),  # a lease, looked at three times in its length
        exact_loss_count=True,
    )


def memory_backend(config: BackendConfig) -> StoreBackend:
    """Make the backend of `memory:` URLs. When the process exits, the number of jobs not run is logged."""
    if config.options or config.url not in ("memory:", "memory://"):
        raise ConfigurationError(f"backends.{config.alias}: 'memory:' is the whole URL, and it takes no options.")
    backend = StoreBackend(InMemoryJobStore(config.clock), memory_capabilities(config.lease), lease=config.lease)
    atexit.register(_report_unrun, weakref.ref(backend.store))
    return backend


def _report_unrun(store: weakref.ref[JobStore]) -> None:
    counts = store().count() if store() else {}  # type: ignore[union-attr]
    left = {state.value: counts[state] for state in counts if state is not JobState.ABANDONED and counts[state]}
    if left:
        told = " ".join(f"{state}={number}" for state, number in left.items())
        logger.warning("memory: ends with this process, and with it the jobs that were not run: %s", told)


class _HeldInStore(HeldJob):
    def __init__(self, store: JobStore, claim: JobClaim, job: StoredJob) -> None:
        self._store = store
        self._claim = claim
        self.job = job

    def acknowledge(self) -> bool:
        return self._store.settle(self._claim, Completed())

    def replace(self, envelope: JobEnvelope) -> bool:
        return self._store.settle(self._claim, Deferred(envelope))


class _StoreInspector(JobInspector):
    """A store's jobs, held by its leases."""

    def __init__(self, store: JobStore, capabilities: Capabilities) -> None:
        self._store = store
        self.clock = store.clock
        self.marks = store.marks
        self.capabilities = capabilities

    def count(self) -> Mapping[JobState, int]:
        return self._store.count()

    def scan(self, chosen: JobFilter, *, cursor: str | None = None, limit: int = 100) -> JobPage:
        return self._store.scan(chosen, cursor=cursor, limit=limit)

    @contextmanager
    def hold(self, chosen: JobFilter, *, holder: str, ahead: int) -> Iterator[Iterator[HeldJob]]:
        self._store.release_held(holder)
        held: list[JobClaim] = []

        def come_past() -> Iterator[HeldJob]:
            while claims := self._store.hold(chosen, limit=ahead, lease=_HOLD, worker=holder):
                held.extend(claims)
                ids = frozenset(claim.id for claim in claims)
                by_id = {job.id: job for job in self._store.scan(JobFilter(ids=ids), limit=len(claims)).jobs}
                for claim in claims:
                    yield _HeldInStore(self._store, claim, by_id[claim.id])

        try:
            yield come_past()
        finally:
            self._store.release(held)  # claims that were settled are no longer held

    def recover(self) -> None:
        self._store.recover()


_HOLD = timedelta(minutes=5)
