"""The kit's long form of the chaos takes longer than any other of its tests."""

from __future__ import annotations

import os
from collections.abc import Iterable

import pytest


def pytest_collection_modifyitems(items: Iterable[pytest.Item]) -> None:
    for item in items:
        if "chaos" in item.name:
            seconds = float(os.environ.get("ANYJOB_TEST_CHAOS", "8"))
            item.add_marker(pytest.mark.timeout(240 + 6 * seconds))
