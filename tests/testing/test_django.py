"""In Django's TestCase, what jobs do with the ORM is part of the test's transaction."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_jobs_join_the_transaction_of_a_django_test(tmp_path: Path) -> None:
    cases = Path(__file__).with_name("django_shop.py")
    done = subprocess.run([sys.executable, str(cases)], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    assert "Ran 8 tests" in done.stderr
