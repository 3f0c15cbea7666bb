"""The capability matrix in the documentation says what the backends declare."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

MATRIX = Path(__file__).parents[2] / "docs" / "matrix.py"


def test_the_capability_matrix_is_fresh() -> None:
    done = subprocess.run([sys.executable, MATRIX, "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
