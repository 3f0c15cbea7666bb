"""What a backend does with an outcome, whatever goes wrong: it takes the job back, parks it, or raises one error."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace as replaced
from datetime import timedelta
from typing import Any

import pytest
from envelopes import make_envelope
from msgspec.structs import replace

from anyjob import EnqueueError, JobEnvelope, JobFilter, JobManager, JobRegistry, JobState, background_job
from anyjob.extend import StoreBackend
from anyjob.seams.capabilities import Quality
from anyjob.seams.outcome import Deferred, Retry
from anyjob.stores.memory import InMemoryJobStore
from anyjob.stores.store_backend import memory_capabilities
from anyjob.testing import FakeClock
from anyjob.testing.probes.journal import wait_until


@pytest.fixture
def envelope(clock: FakeClock) -> JobEnvelope:
    return make_envelope(clock.now(), "id1")


def _parked(backend: StoreBackend) -> list[Any]:
    return [job for job in backend.store.scan(JobFilter()).jobs if job.state is JobState.ABANDONED]


def test_what_the_inspector_makes_due_wakes_the_workers(registry: JobRegistry) -> None:
    ran: list[str] = []

    @background_job("note", registry=registry, retry=None)
    def note(word: str) -> None:
        ran.append(word)
        if len(ran) == 1:
            raise ValueError("once")

    backend = StoreBackend(InMemoryJobStore(), memory_capabilities(30.0))
    manager = JobManager(backend, registry=registry)
    inspector = manager.inspect()
    backend.store.poll = 60.0
    with manager.start_worker():
        failed = manager.enqueue_by_name("note", {"word": "failed"})
        wait_until(lambda: inspector.find(failed) and inspector.count()[JobState.ABANDONED], timeout=5)
        assert inspector.retry(failed)
        wait_until(lambda: ran == ["failed"] * 2, timeout=5, what="the retried job")
        later = manager.enqueue_by_name("note", {"word": "later"}, delay=3600)
        assert inspector.run_now(later)
        wait_until(lambda: ran[2:] == ["later"], timeout=5, what="the job that was to run now")


@pytest.mark.parametrize("outcome", [Retry, Deferred])
def test_what_can_not_go_back_is_parked_with_the_reason(
    backend: StoreBackend, envelope: JobEnvelope, monkeypatch: pytest.MonkeyPatch, outcome: type[Retry | Deferred]
) -> None:
    def refuse(_envelopes: Sequence[JobEnvelope]) -> None:
        raise TypeError("no frame holds this")

    monkeypatch.setattr(backend, "send", refuse)
    backend.settle(outcome(replace(envelope, try_count=2)))
    (parked,) = _parked(backend)
    assert (parked.failure.error_type, parked.failure.message) == ("TypeError", "no frame holds this")
    assert parked.failure.tries == 2
    assert parked.envelope.id == "id1"


def test_a_system_that_is_away_parks_nothing(
    backend: StoreBackend, envelope: JobEnvelope, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_envelopes: Sequence[JobEnvelope]) -> None:
        raise EnqueueError("away")

    monkeypatch.setattr(backend, "send", refuse)
    with pytest.raises(EnqueueError, match="away"):
        backend.settle(Retry(envelope))
    assert _parked(backend) == []


def test_what_can_neither_go_back_nor_be_parked_comes_again(
    backend: StoreBackend, envelope: JobEnvelope, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise TypeError("broken")

    monkeypatch.setattr(backend, "send", refuse)
    monkeypatch.setattr(backend.store, "park", refuse)
    with pytest.raises(EnqueueError, match="could not be parked: TypeError") as told:
        backend.settle(Retry(envelope))
    assert isinstance(told.value.__cause__, TypeError)


def test_an_envelope_that_can_not_be_written_comes_again(backend: StoreBackend, envelope: JobEnvelope) -> None:
    broken: Any = object()
    with pytest.raises(EnqueueError, match="id1 can't be written: TypeError"):
        backend.settle(Retry(replace(envelope, last_error=broken)))


def test_a_wait_that_a_backend_can_not_keep_is_parked_and_does_not_spin(
    backend: StoreBackend, envelope: JobEnvelope, clock: FakeClock
) -> None:
    backend.capabilities = replaced(backend.capabilities, delay=Quality.NONE)
    backend.settle(Deferred(replace(envelope, due_at=clock.now())))
    assert backend.store.count()[JobState.WAITING] == 1
    backend.settle(Deferred(replace(envelope, id="id2", due_at=clock.now() + timedelta(seconds=60))))
    (parked,) = _parked(backend)
    assert parked.failure.error_type == "anyjob.UnsupportedCapabilityError"
