"""Backends that can do little, and say so: the kit has to let them pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

from msgspec import structs

from anyjob import JobEnvelope, JobState
from anyjob.extend import StoreBackend
from anyjob.seams.backend import BackendConfig
from anyjob.seams.capabilities import Capabilities, Quality
from anyjob.seams.inspector import HeldJob, JobInspector
from anyjob.seams.outcome import Deferred, Outcome, Retry
from anyjob.seams.source import JobClaim
from anyjob.seams.stored import JobFilter, JobPage
from anyjob.stores.memory import InMemoryJobStore
from anyjob.stores.store_backend import memory_capabilities

__all__ = ["HasNoDelay", "limited", "park_only", "without_delay"]


class HasNoDelay(InMemoryJobStore):
    """Runs everything at once, whenever it is due."""

    def insert(self, envelopes: Sequence[JobEnvelope], *, once: str | None = None) -> None:
        super().insert([structs.replace(each, due_at=None) for each in envelopes], once=once)

    def settle(self, claim: JobClaim, outcome: Outcome) -> bool:
        if isinstance(outcome, Retry | Deferred):
            outcome = type(outcome)(structs.replace(outcome.envelope, due_at=None))
        return super().settle(claim, outcome)


def limited(
    make_store: Callable[..., InMemoryJobStore] = InMemoryJobStore, **capabilities: Any
) -> Callable[[BackendConfig], StoreBackend]:
    """Return what makes a backend over a store in memory that declares `capabilities`, which are less than it has."""

    def make(config: BackendConfig) -> StoreBackend:
        backend = StoreBackend(make_store(config.clock), memory_capabilities(config.lease), lease=config.lease)
        backend.capabilities = replace(backend.capabilities, **capabilities)
        assert backend.inspector is not None
        backend.inspector.capabilities = backend.capabilities
        return backend

    return make


class _ParkedOnly(JobInspector):
    """What a system shows that can't be looked into: the jobs that were given up, which are kept apart."""

    def __init__(self, store: InMemoryJobStore, capabilities: Capabilities, whole: JobInspector) -> None:
        self.clock = store.clock
        self.capabilities = capabilities
        self._whole = whole

    def count(self) -> Mapping[JobState, int]:
        return {JobState.ABANDONED: self._whole.count()[JobState.ABANDONED]}

    def scan(self, chosen: JobFilter, *, cursor: str | None = None, limit: int = 100) -> JobPage:
        self.capabilities.refuse_listing(chosen.states)
        return self._whole.scan(_parked(chosen), cursor=cursor, limit=limit)

    def hold(self, chosen: JobFilter, *, holder: str, ahead: int) -> AbstractContextManager[Iterator[HeldJob]]:
        return self._whole.hold(_parked(chosen), holder=holder, ahead=ahead)


def _parked(chosen: JobFilter) -> JobFilter:
    return replace(chosen, states=frozenset({JobState.ABANDONED}))


def park_only(config: BackendConfig) -> StoreBackend:
    """Make a backend over a store in memory that keeps what was given up, and shows nothing else."""
    backend = limited(
        listing=frozenset({JobState.ABANDONED}),
        removal=frozenset({JobState.ABANDONED}),
        moving=frozenset(),
        counts={JobState.ABANDONED: Quality.EXACT},
        priority=Quality.NONE,
        bounded_worker=False,
    )(config)
    assert isinstance(backend.store, InMemoryJobStore)
    assert backend.inspector is not None
    backend.inspector = _ParkedOnly(backend.store, backend.capabilities, backend.inspector)
    return backend


without_delay = limited(HasNoDelay, delay=Quality.NONE)
