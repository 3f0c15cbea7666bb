"""What the tests of migrations share: servers of their own, and a pair of backends on them."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from migration.pairs import Pair, Servers


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    servers = Servers(tmp_path_factory.mktemp("servers"))
    yield servers
    servers.close()


@pytest.fixture
def pair(servers: Servers, kinds: tuple[str, str], tmp_path: Path) -> Iterator[Pair]:
    with Pair(servers, kinds, tmp_path) as pair:
        yield pair


@pytest.fixture
def environment(servers: Servers, tmp_path: Path) -> Iterator[Mapping[str, str]]:
    """What an application needs to know whose old backend is Celery on Redis, the new one Dramatiq on RabbitMQ."""
    namespace = f"cut{secrets.token_hex(5)}"
    plain = {name: value for name, value in os.environ.items() if not name.startswith("ANYJOB_")}
    redis, rabbit = (servers.url(kind).partition("+")[2] for kind in ("celery+redis", "dramatiq+amqp"))
    ours = {"REDIS_URL": redis, "AMQP_URL": rabbit, "ANYJOB_NAMESPACE": namespace}
    path = os.pathsep.join([str(Path(sys.executable).parent), plain.get("PATH", "")])
    yield {**plain, **ours, "PATH": path, "PYTHONPATH": str(tmp_path), "SOLD": str(tmp_path / "sold")}
    for kind in ("celery+redis", "dramatiq+amqp"):
        (tmp_path / kind).mkdir()
        servers.world(kind, tmp_path / kind, namespace).close()
