"""RQ keeps what every backend promises."""

from __future__ import annotations

import pytest
from harnesses import RQHarness
from servers import PrivateRedis

from anyjob.testing.conformance import BackendConformance, BackendHarness

pytestmark = pytest.mark.timeout(120)


class TestRQ(BackendConformance):
    @classmethod
    def make_harness(cls, tmp_path_factory: pytest.TempPathFactory) -> BackendHarness:
        return RQHarness(PrivateRedis(tmp_path_factory.mktemp("redis")))
