"""Writes the capability matrix, from what the backends declare, into README.md and docs/capabilities.md.

python docs/matrix.py            # rewrite them
python docs/matrix.py --check    # fail if they are stale
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from anyjob.backend import BackendConfig
from anyjob.loader import load_backend

ROOT: Final = Path(__file__).parents[1]

# One column each: a URL as a user would write it.
COLUMNS: Final = (
    "memory:",
    "rq+redis://localhost",
    "celery+redis://localhost",
    "celery+amqp://localhost",
    "dramatiq+redis://localhost",
    "dramatiq+amqp://localhost",
)

# What README shows of it; docs/capabilities.md has it whole.
SHORT: Final = ("priority", "delay", "a taken id is refused", "lists jobs", "runs again after a crash, within")

BEGIN, END = "<!-- matrix: python docs/matrix.py -->", "<!-- /matrix -->"


def matrix(titles: Sequence[str] | None = None) -> str:
    """Return the matrix as a Markdown table."""
    said = [dict(load_backend(BackendConfig(alias="x", url=url)).capabilities.describe()) for url in COLUMNS]
    lines = [_line(["", *(f"`{url.partition('://')[0]}`" for url in COLUMNS)]), _line(["---"] * (len(COLUMNS) + 1))]
    lines += [_line([title, *(each[title] for each in said)]) for title in titles or said[0]]
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def rewritten(path: Path, titles: Sequence[str] | None) -> str:
    """Return the file's text with the matrix of today in its place."""
    text = path.read_text(encoding="utf-8")
    return re.sub(f"{re.escape(BEGIN)}.*?{re.escape(END)}", f"{BEGIN}\n{matrix(titles)}\n{END}", text, flags=re.DOTALL)


def main() -> None:
    """Rewrite both files, or check them."""
    for path, titles in ((ROOT / "README.md", SHORT), (ROOT / "docs" / "capabilities.md", None)):
        text = rewritten(path, titles)
        if "--check" not in sys.argv:
            path.write_text(text, encoding="utf-8")
        elif text != path.read_text(encoding="utf-8"):
            sys.exit(f"{path.name} is stale: run python docs/matrix.py")


if __name__ == "__main__":
    main()
