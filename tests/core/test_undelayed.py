"""What would have to wait is given up where a backend has no delays, with the reason; the rest passes as it is."""

from __future__ import annotations

from datetime import timedelta

import pytest
from envelopes import make_envelope
from msgspec.structs import replace

from anyjob import JobFilter, JobState, UnknownJobError
from anyjob.seams.outcome import Abandoned, Completed, Deferred, Outcome, Retry
from anyjob.seams.source import JobClaim
from anyjob.seams.undelayed import UndelayedSource
from anyjob.stores.memory import InMemoryJobStore
from anyjob.testing import FakeClock

LEASE = timedelta(seconds=60)


class Settled(InMemoryJobStore):
    """Remembers what it was told."""

    last: Outcome = Completed()

    def settle(self, claim: JobClaim, outcome: Outcome) -> bool:
        self.last = outcome
        return super().settle(claim, outcome)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.mark.parametrize("in_one_step", [False, True])
@pytest.mark.parametrize("kind", [Retry, Deferred])
def test_a_wait_is_given_up_with_what_it_is_for(
    clock: FakeClock, kind: type[Retry | Deferred], in_one_step: bool
) -> None:
    store = Settled(clock)
    source = UndelayedSource(store)
    store.insert([make_envelope(clock.now(), "a")])
    (claim,) = source.claim(queues=None, limit=1, lease=LEASE, worker="w")
    later = replace(make_envelope(clock.now(), "a"), due_at=clock.now() + timedelta(seconds=30))
    outcome = kind(later, UnknownJobError("nobody knows it"))
    if in_one_step:
        held, _ = source.settle_and_claim([(claim, outcome)], queues=None, limit=0, lease=LEASE, worker="w")
        assert held == [True]
    else:
        assert source.settle(claim, outcome)
    assert isinstance(store.last, Abandoned)
    (parked,) = store.scan(JobFilter(states=frozenset({JobState.ABANDONED}))).jobs
    assert parked.failure is not None
    assert parked.failure.error_type == "anyjob.UnsupportedCapabilityError"
    assert "no delays" in parked.failure.message
    assert "nobody knows it" in parked.failure.message


@pytest.mark.parametrize("kind", [Retry, Deferred])
def test_what_is_due_goes_back(clock: FakeClock, kind: type[Retry | Deferred]) -> None:
    store = Settled(clock)
    source = UndelayedSource(store)
    store.insert([make_envelope(clock.now(), "a")])
    (claim,) = source.claim(queues=None, limit=1, lease=LEASE, worker="w")
    outcome = kind(replace(make_envelope(clock.now(), "a"), due_at=clock.now()))
    assert source.settle(claim, outcome)
    assert store.last is outcome
