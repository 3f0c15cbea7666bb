"""Dramatiq on Redis keeps what every backend promises."""

from __future__ import annotations

import pytest
from harnesses import DramatiqRedisHarness
from servers import PrivateRedis

from anyjob.testing.conformance import BackendConformance, BackendHarness

pytestmark = pytest.mark.timeout(120)


class TestDramatiqOnRedis(BackendConformance):
    @classmethod
    def make_harness(cls, tmp_path_factory: pytest.TempPathFactory) -> BackendHarness:
        return DramatiqRedisHarness(PrivateRedis(tmp_path_factory.mktemp("redis")))
