"""What all tests share: nothing of this machine's settings reaches them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for variable in os.environ:
        if variable.startswith("ANYJOB_") and not variable.startswith("ANYJOB_TEST_"):
            monkeypatch.delenv(variable)
    monkeypatch.chdir(tmp_path)
