"""The pytest plugin of anyjob. A package of its own, so that pytest finds the fixture and imports nothing of anyjob."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from pytest_anyjob.conformance import pytest_runtest_makereport, pytest_terminal_summary

if TYPE_CHECKING:
    from anyjob.testing import JobSandbox

__all__ = ["anyjob_sandbox", "pytest_runtest_makereport", "pytest_terminal_summary"]

_MARKER = (
    "anyjob_sandbox(profile=None, start=None): what the fixture anyjob_sandbox behaves like, and where its clock "
    "stands; see anyjob.testing.in_memory"
)


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    config.addinivalue_line("markers", _MARKER)


@pytest.fixture
def anyjob_sandbox(request: pytest.FixtureRequest) -> Iterator[JobSandbox]:
    """Every backend of the application is memory for the length of the test, on a clock that stands still."""
    from anyjob.testing import in_memory  # imports all of anyjob, so only here

    marker = request.node.get_closest_marker("anyjob_sandbox")
    with in_memory(**(marker.kwargs if marker is not None else {})) as sandbox:
        yield sandbox
