"""Redis, with our own worker, keeps what every backend promises."""

from __future__ import annotations

import pytest

pytest.importorskip("redis")

from redis_worlds import redis_harness

from anyjob.testing.conformance import BackendConformance, BackendHarness

pytestmark = pytest.mark.timeout(120)


class TestRedis(BackendConformance):
    @classmethod
    def make_harness(cls, tmp_path_factory: pytest.TempPathFactory) -> BackendHarness:
        return redis_harness(tmp_path_factory.mktemp("redis"))
