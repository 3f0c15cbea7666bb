"""RabbitMQ, with our own worker, keeps what every backend promises."""

from __future__ import annotations

import pytest

pytest.importorskip("amqp")

from amqp_worlds import amqp_harness

from anyjob.testing.conformance import BackendConformance, BackendHarness

pytestmark = pytest.mark.timeout(120)


class TestAmqp(BackendConformance):
    @classmethod
    def make_harness(cls, tmp_path_factory: pytest.TempPathFactory) -> BackendHarness:
        return amqp_harness(tmp_path_factory.mktemp("rabbit"))
