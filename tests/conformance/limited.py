"""Backends that can do little, and say so: the kit has to let them pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from msgspec import structs

from anyjob import InMemoryJobStore, JobEnvelope, JobState, StoreBackend
from anyjob.seams.backend import BackendConfig
from anyjob.seams.capabilities import Quality
from anyjob.seams.outcome import Deferred, Outcome, Retry
from anyjob.seams.source import JobClaim
from anyjob.stores.store_backend import memory_capabilities

__all__ = ["HasNoDelay", "limited"]


class HasNoDelay(InMemoryJobStore):
    """Runs everything at once, whenever it is due."""

    def insert(self, envelopes: Sequence[JobEnvelope]) -> None:
        super().insert([structs.replace(each, due_at=None) for each in envelopes])

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


WITHOUT_DELAY = limited(HasNoDelay, delay=Quality.NONE)
PARK_ONLY = limited(
    listing=frozenset({JobState.ABANDONED}),
    removal=frozenset({JobState.ABANDONED}),
    moving=frozenset(),
    counts={JobState.ABANDONED: Quality.EXACT},
    priority=Quality.NONE,
    bounded_worker=False,
)
