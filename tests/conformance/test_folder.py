"""The adapter that docs/write_an_adapter.md shows passes the kit, run as its reader would."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "05_write_an_adapter"


@pytest.mark.timeout(900)
def test_the_example_passes_the_kit() -> None:
    # As it says there, and without what its reader may not have installed.
    runner = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:timeout", "-p", "no:xdist"]
    done = subprocess.run([*runner, str(EXAMPLE)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
