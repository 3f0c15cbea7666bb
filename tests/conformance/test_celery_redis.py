"""Celery over Redis keeps what every backend promises."""

from __future__ import annotations

import pytest

pytest.importorskip("celery")
pytest.importorskip("redis")

from celery_worlds import celery_redis_harness

from anyjob.testing.conformance import BackendConformance, BackendHarness

pytestmark = pytest.mark.timeout(120)


class TestCeleryRedis(BackendConformance):
    @classmethod
    def make_harness(cls, tmp_path_factory: pytest.TempPathFactory) -> BackendHarness:
        return celery_redis_harness(tmp_path_factory.mktemp("redis"))
