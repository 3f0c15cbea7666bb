"""Any store and a `JobWorker` as a backend (ABP's default manager)."""

from __future__ import annotations

import atexit
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta

from anyjob.base.envelope import JobEnvelope
from anyjob.base.errors import ConfigurationError
from anyjob.base.forks import in_each_process
from anyjob.base.log import JobLogger
from anyjob.run.executor import JobExecutor
from anyjob.run.worker import DEFAULT_LEASE, JobWorker, WorkerOptions
from anyjob.seams.backend import BackendConfig, JobBackend
from anyjob.seams.capabilities import ALL_STATES, BulkAtomicity, Capabilities, Quality
from anyjob.seams.inspector import HeldJob, JobInspector
from anyjob.seams.outcome import Completed, Deferred, JobFailure
from anyjob.seams.store import JobClaim, JobFilter, JobPage, JobState, JobStore, StoredJob
from anyjob.stores.memory import InMemoryJobStore

__all__ = ["StoreBackend", "memory_backend", "memory_capabilities"]

logger = JobLogger("anyjob.worker")


class StoreBackend(JobBackend):
    """Sends into a store; its workers claim from it, woken at once by what this process sends, retries or runs now.

    Any store can be listed, counted and taken from, and its workers end by themselves: `capabilities` need not say so.
    `lease` is in seconds, that of the workers; `redelivery_bound` follows from it.
    """

    def __init__(self, store: JobStore, capabilities: Capabilities, *, lease: float = DEFAULT_LEASE) -> None:
        self.store = store
        self._lease = lease
        self.capabilities = capabilities = replace(
            capabilities,
            listing=ALL_STATES,
            removal=ALL_STATES - {JobState.RUNNING},
            moving=ALL_STATES - {JobState.RUNNING},
            counts=dict.fromkeys(JobState, Quality.EXACT),
            bounded_worker=True,
        )
        self.inspector = _StoreInspector(store, capabilities, self._wake)
        self._workers: list[weakref.ref[JobWorker]] = []
        in_each_process(self._begin)

    def _begin(self) -> None:
        self._lock = threading.Lock()

    def send(self, envelopes: Sequence[JobEnvelope]) -> None:
        self.store.insert(envelopes)
        self._wake()

    def worker(self, executor: JobExecutor, options: WorkerOptions) -> JobWorker:
        return self.woken(JobWorker(self.store, executor, options, lease=self._lease))

    def woken(self, worker: JobWorker) -> JobWorker:
        """Wake a worker that looks into this backend's store by a way of its own; return it."""
        with self._lock:
            self._workers = [*(each for each in self._workers if each() is not None), weakref.ref(worker)]
        return worker

    def _wake(self) -> None:
        for reference in self._workers:
            worker = reference()
            if worker is not None:
                worker.wake()


def memory_capabilities(lease: float) -> Capabilities:
    """Return what jobs in memory can do, with leases of so many seconds."""
    return Capabilities(
        priority=Quality.EXACT,
        delay=Quality.EXACT,
        bulk=BulkAtomicity.ALL_OR_NONE,
        unique_ids=True,
        listing=ALL_STATES,
        removal=ALL_STATES - {JobState.RUNNING},
        moving=ALL_STATES - {JobState.RUNNING},
        counts=dict.fromkeys(JobState, Quality.EXACT),
        bounded_worker=True,
        in_process=True,
        redelivery_bound=timedelta(seconds=lease * 4 / 3),  # a lease, looked at three times in its length
        exact_loss_count=True,
    )


def memory_backend(config: BackendConfig) -> StoreBackend:
    """Make the backend of `memory:` URLs. What is still to be run when the process exits is logged with its count."""
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
    def __init__(self, store: JobStore, claim: JobClaim, job: StoredJob, wake: Callable[[], None]) -> None:
        self._store = store
        self._claim = claim
        self._wake = wake
        self.job = job

    def acknowledge(self) -> bool:
        return self._store.settle(self._claim, Completed())

    def replace(self, envelope: JobEnvelope) -> bool:
        held = self._store.settle(self._claim, Deferred(envelope))
        self._wake()
        return held


class _StoreInspector(JobInspector):
    """A store's jobs, held by its leases."""

    def __init__(self, store: JobStore, capabilities: Capabilities, wake: Callable[[], None]) -> None:
        self._store = store
        self.clock = store.clock
        self.capabilities = capabilities
        self._wake = wake

    def count(self) -> Mapping[JobState, int]:
        return self._store.count()

    def scan(self, chosen: JobFilter, *, cursor: str | None = None, limit: int = 100) -> JobPage:
        return self._store.scan(chosen, cursor=cursor, limit=limit)

    @contextmanager
    def hold(self, chosen: JobFilter, *, holder: str, ahead: int) -> Iterator[Iterator[HeldJob]]:
        held: list[JobClaim] = []

        def come_past() -> Iterator[HeldJob]:
            while claims := self._store.hold(chosen, limit=ahead, lease=_HOLD, worker=holder):
                held.extend(claims)
                ids = frozenset(claim.id for claim in claims)
                by_id = {job.id: job for job in self._store.scan(JobFilter(ids=ids), limit=len(claims)).jobs}
                for claim in claims:
                    yield _HeldInStore(self._store, claim, by_id[claim.id], self._wake)

        try:
            yield come_past()
        finally:
            self._store.release(held)  # those settled are no longer held
            self._wake()

    def recover(self) -> None:
        self._store.recover()
        self._wake()

    def park(self, raw: bytes, failure: JobFailure) -> str:
        return self._store.park(raw, failure)


_HOLD = timedelta(minutes=5)
