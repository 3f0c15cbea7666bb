"""By how much the clocks of `stepped` workers are wrong: a file in their working directory."""

from __future__ import annotations

from pathlib import Path
from typing import Final

__all__ = ["ahead", "step_clock"]

_NAME: Final = "clock-offset"
_file: Final = Path.cwd() / _NAME


def step_clock(folder: Path, seconds: float) -> None:
    """Put the wall clock of the workers of `folder` ahead by `seconds`, which may be less than 0."""
    new = folder / f"{_NAME}.new"
    new.write_text(f"{seconds}")
    new.replace(folder / _NAME)  # at once: a reader sees the old one or the new one


def ahead() -> float:
    """Return the seconds by which this process's wall clock is ahead."""
    return float(_file.read_text()) if _file.exists() else 0.0
