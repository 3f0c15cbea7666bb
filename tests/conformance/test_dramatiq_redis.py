"""Dramatiq on Redis keeps what every backend promises."""

from __future__ import annotations

import pytest

pytest.importorskip("dramatiq")
pytest.importorskip("pika")

from dramatiq_worlds import dramatiq_redis_harness

from anyjob.testing.conformance import BackendConformance, BackendHarness

pytestmark = pytest.mark.timeout(120)


class TestDramatiqOnRedis(BackendConformance):
    @classmethod
    def make_harness(cls, tmp_path_factory: pytest.TempPathFactory) -> BackendHarness:
        return dramatiq_redis_harness(tmp_path_factory.mktemp("redis"))
