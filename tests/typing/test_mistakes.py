"""mypy --strict and pyright find each mistake in an application, and no other. Both are in the group `lint`."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

SHOP = Path(__file__).with_name("mistaken_shop.txt").read_text(encoding="utf-8")
MISTAKES = {
    number: line.partition("# wrong: ")[2] for number, line in enumerate(SHOP.splitlines(), 1) if "# wrong: " in line
}


@pytest.mark.timeout(120)
def test_both_type_checkers_find_all_the_mistakes(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(SHOP, encoding="utf-8")
    mypy = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "shop.py"]
    pyright = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable, "shop.py"]
    started = [
        subprocess.Popen(each, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
        for each in (mypy, pyright)
    ]
    (by_mypy, _), (by_pyright, trouble) = (each.communicate() for each in started)
    assert len(MISTAKES) >= 12
    assert missed(re.findall(r"^shop\.py:(\d+): error:", by_mypy, re.MULTILINE)) == ([], []), by_mypy
    told = json.loads(by_pyright or "{}").get("generalDiagnostics", [])
    lines = [each["range"]["start"]["line"] + 1 for each in told if each["severity"] == "error"]
    assert missed(lines) == ([], []), by_pyright + trouble


def missed(lines: list[int] | list[str]) -> tuple[list[str], list[int]]:
    """Return which mistakes were not found, and the other lines that were."""
    found = {int(line) for line in lines}
    return [what for number, what in MISTAKES.items() if number not in found], sorted(found - MISTAKES.keys())
