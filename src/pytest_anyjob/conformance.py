"""Pytest's report on the conformance kit: the logs of the workers of a failed test, and the promises not proved."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

__all__ = ["UNPROVED", "pytest_runtest_makereport", "pytest_terminal_summary"]

UNPROVED: Final = "not proved: "
"""How the reason begins for which a test of the kit is skipped."""
_LONGEST: Final = 3_000
"""Characters of each log that are shown: its end."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add to the report of a test that failed what the workers of its worlds printed."""
    report = yield
    if report.failed and _is_of_the_kit(item):
        for log in sorted({*_logs_of(item)}):
            said = log.read_text(encoding="utf-8", errors="replace")
            if said:
                report.sections.append((f"{log.name} in {log.parent}", said[-_LONGEST:]))
    return report


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Tell for each class of the kit's tests which promises of its backend were not proved, and why."""
    unproved: dict[str, dict[str, None]] = {}
    for report in terminalreporter.stats.get("skipped", ()):
        why = report.longrepr[2].removeprefix("Skipped: ") if isinstance(report.longrepr, tuple) else ""
        if why.startswith(UNPROVED):
            unproved.setdefault(report.nodeid.rpartition("::")[0], {})[why.removeprefix(UNPROVED)] = None
    if unproved:
        terminalreporter.section("what the kit did not prove")
    for where, reasons in unproved.items():
        terminalreporter.write_line(where)
        for why in reasons:
            terminalreporter.write_line(f"    {why}")


def _is_of_the_kit(item: pytest.Item) -> bool:
    return hasattr(getattr(item, "cls", None), "make_harness")


def _logs_of(item: pytest.Item) -> Iterator[Path]:
    """Yield the logs of the workers in the folder of the test, and in the one of the world that it shares."""
    fixtures: Any = getattr(item, "funcargs", {})
    for folder in (fixtures.get("tmp_path"), getattr(fixtures.get("running"), "folder", None)):
        if isinstance(folder, Path):
            yield from folder.rglob("worker-*.log")
