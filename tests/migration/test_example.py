"""The example of a move prints what it says that it prints."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "07_move_to_another_broker"

pytestmark = pytest.mark.timeout(60)


def test_the_example_prints_what_it_says(environment: Mapping[str, str], tmp_path: Path) -> None:
    script = EXAMPLE / "move.py"
    settings = {"ANYJOB_CONFIG": str(EXAMPLE / "anyjob.toml"), "PYTHONPATH": ""}

    done = subprocess.run(
        [sys.executable, str(script)],
        env={**environment, **settings},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    promised = script.read_text().partition("It prints:\n\n")[2].partition("\n\nFrom a shell")[0]
    assert done.stdout.strip() == promised
