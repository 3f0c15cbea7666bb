"""The README and the examples say what is true."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import anyjob
import anyjob.testing
from anyjob.settings import load_settings

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_the_first_screen_runs() -> None:
    define, unit_test = blocks("python")
    world: dict[str, Any] = {"__name__": "shop"}
    exec(compile(define, "README.md", "exec", dont_inherit=True), world)  # noqa: S102
    clock = anyjob.testing.FakeClock()
    with anyjob.override(_on(clock)) as manager:
        world["signup"]("a@example.org")
        exec(compile(unit_test, "README.md", "exec"), {"clock": clock, "manager": manager})  # noqa: S102


def _on(clock: Any) -> anyjob.JobManager:
    from anyjob.backend import BackendConfig
    from anyjob.store_backend import memory_backend

    backend = memory_backend(BackendConfig(alias="test", url="memory:", clock=clock))
    return anyjob.JobManager(backend, registry=anyjob.default_registry, clock=clock)


def test_the_settings_shown_are_right(tmp_path: Path) -> None:
    (toml,) = blocks("toml")
    (tmp_path / "anyjob.toml").write_text(toml)
    settings = load_settings(environ={}, directory=tmp_path, schemes=["memory"])
    assert settings is not None
    assert set(settings.backends) == {"main", "ledger"}


def test_the_capability_matrix_is_fresh() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "docs" / "matrix.py", "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


# The adapter's tests are the whole kit: tests/conformance/test_folder.py runs them.
EXAMPLES = [path for path in sorted(ROOT.glob("examples/*/*.py")) if path.parent.name != "05_write_an_adapter"]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.parent.name)
def test_the_examples_run(example: Path, tmp_path: Path) -> None:
    runner = ["-m", "pytest", "-q", "-p", "no:cacheprovider"] if example.name.startswith("test_") else []
    done = subprocess.run(
        [sys.executable, *runner, str(example)], capture_output=True, text=True, cwd=tmp_path, timeout=15, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
