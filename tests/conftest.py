"""What all tests share: nothing of this machine's settings reaches them."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest

_NEEDED = {"core/test_cli.py": ("click", "anyjob[cli]"), "adapters": ("rq", "anyjob[rq]")}

collect_ignore = [path for path, (module, _) in _NEEDED.items() if not importlib.util.find_spec(module)]


def pytest_report_header() -> list[str]:
    left_out = [(path, *_NEEDED[path]) for path in collect_ignore]
    return [f"left out: {path}, for {module} is not installed ({extra})" for path, module, extra in left_out]


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for variable in os.environ:
        if variable.startswith("ANYJOB_") and not variable.startswith("ANYJOB_TEST_"):
            monkeypatch.delenv(variable)
    monkeypatch.chdir(tmp_path)
