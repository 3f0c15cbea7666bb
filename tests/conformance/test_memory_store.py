"""The in-memory store keeps what every store promises."""

from __future__ import annotations

from hypothesis import settings

from anyjob import InMemoryJobStore, JobStore
from anyjob.clock import Clock
from anyjob.testing.conformance import StoreConformance
from anyjob.testing.conformance.store_machine import StoreMachine


class TestInMemoryJobStore(StoreConformance):
    def make_store(self, clock: Clock) -> JobStore:
        return InMemoryJobStore(clock)


class InMemoryMachine(StoreMachine):
    def make_store(self, clock: Clock) -> JobStore:
        return InMemoryJobStore(clock)


TestInMemoryMachine = InMemoryMachine.TestCase
TestInMemoryMachine.settings = settings(max_examples=200, stateful_step_count=50, deadline=None)
