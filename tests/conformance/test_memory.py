"""The in-memory backend keeps what every backend promises."""

from __future__ import annotations

import pytest

from anyjob import InMemoryJobStore, JobStore
from anyjob.store_backend import memory_backend
from anyjob.testing.conformance import BackendConformance, BackendHarness, InProcessHarness


def put(store: JobStore, raw: bytes, queue: str) -> None:
    """Put what no envelope could be, by way of one."""
    from msgspec import Raw

    from anyjob import JobEnvelope, JobPriority

    assert isinstance(store, InMemoryJobStore)
    now = store.clock.now()
    job_id = f"raw-{len(store._rows)}"  # noqa: SLF001
    store.insert([JobEnvelope(1, job_id, "raw", Raw(b"{}"), queue, JobPriority.NORMAL, now, now)])
    store._rows[job_id].raw = raw  # noqa: SLF001  # nothing public lets such a thing in


pytestmark = pytest.mark.timeout(120)


class TestMemory(BackendConformance):
    @classmethod
    def make_harness(cls, tmp_path_factory: pytest.TempPathFactory) -> BackendHarness:
        return InProcessHarness(memory_backend, put)
