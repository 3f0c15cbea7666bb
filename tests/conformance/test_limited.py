"""What a backend declares that it can't do is seen refused, and the rest of the kit stands it."""

from __future__ import annotations

import pytest
from conformance.limited import park_only, without_delay
from harnesses import memory_harness

from anyjob.testing.conformance import BackendConformance, BackendHarness

pytestmark = pytest.mark.timeout(120)


class TestWithoutDelay(BackendConformance):
    @classmethod
    def make_harness(cls, tmp_path_factory: pytest.TempPathFactory) -> BackendHarness:
        return memory_harness(without_delay)


class TestParkOnly(BackendConformance):
    @classmethod
    def make_harness(cls, tmp_path_factory: pytest.TempPathFactory) -> BackendHarness:
        return memory_harness(park_only)
