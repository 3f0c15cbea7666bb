"""What all tests share: nothing of this machine's settings reaches them."""

from __future__ import annotations

import importlib.util
import os
import signal
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

collect_ignore = (
    []
    if importlib.util.find_spec("click")
    else ["core/test_cli.py", "core/test_cli_adopt.py", "core/test_cli_migrate.py"]
)


def pytest_report_header() -> list[str]:
    return [f"left out: {name}, for click is not installed (anyjob[cli])" for name in collect_ignore]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Make the captured log fit for xdist's pipe, which no half of a surrogate pair goes through."""
    report = yield
    report.sections = [(name, text.encode(errors="replace").decode()) for name, text in report.sections]
    return report


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for variable in os.environ:
        if variable.startswith("ANYJOB_") and not variable.startswith("ANYJOB_TEST_"):
            monkeypatch.delenv(variable)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def python_heeds_ctrl_c() -> Iterator[None]:
    """Have Python's own handler in force: who starts tests in the background of a shell has Ctrl-C ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
