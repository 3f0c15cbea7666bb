"""The in-memory backend and its store keep what every backend and every store promises."""

from __future__ import annotations

import pytest
from harnesses import memory_harness
from hypothesis import settings

from anyjob.base.clock import Clock
from anyjob.extend import JobStore
from anyjob.stores.memory import InMemoryJobStore
from anyjob.testing.conformance import BackendConformance, BackendHarness, StoreConformance
from anyjob.testing.conformance.store_machine import StoreMachine

pytestmark = pytest.mark.timeout(120)


class TestMemory(BackendConformance):
    @classmethod
    def make_harness(cls, tmp_path_factory: pytest.TempPathFactory) -> BackendHarness:
        return memory_harness()


class TestInMemoryJobStore(StoreConformance):
    def make_store(self, clock: Clock) -> JobStore:
        return InMemoryJobStore(clock)


class InMemoryMachine(StoreMachine):
    def make_store(self, clock: Clock) -> JobStore:
        return InMemoryJobStore(clock)


TestInMemoryMachine = InMemoryMachine.TestCase
TestInMemoryMachine.settings = settings(max_examples=200, stateful_step_count=50, deadline=None)
