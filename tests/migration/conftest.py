"""What the tests of migrations share: servers of their own, and a pair of backends on them."""

from __future__ import annotations

from collections.abc import Iterator
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
