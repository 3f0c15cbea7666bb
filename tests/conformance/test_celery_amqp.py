"""Celery over RabbitMQ keeps what every backend promises."""

from __future__ import annotations

import pytest

pytest.importorskip("celery")
pytest.importorskip("amqp")

from celery_worlds import celery_amqp_harness

from anyjob.testing.conformance import BackendConformance, BackendHarness

pytestmark = pytest.mark.timeout(120)


class TestCeleryAmqp(BackendConformance):
    @classmethod
    def make_harness(cls, tmp_path_factory: pytest.TempPathFactory) -> BackendHarness:
        return celery_amqp_harness(tmp_path_factory.mktemp("rabbit"))
