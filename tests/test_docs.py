"""The README and the examples say what is true."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from server_table import ranges

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
    exec(compile(unit_test, "README.md", "exec", dont_inherit=True), world)  # noqa: S102
    with anyjob.testing.in_memory() as sandbox:
        world["test_signup"](sandbox)


def test_the_page_on_testing_is_a_test_module_that_passes(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CI", raising=False)  # there, a snapshot that isn't written yet would fail
    page = (ROOT / "docs" / "testing.md").read_text(encoding="utf-8")
    code = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    pytester.makepyfile(test_page="\n\n".join(code))
    pytester.makeini("[pytest]\nasyncio_default_fixture_loop_scope = function\n")
    done = pytester.runpytest_subprocess("-p", "no:randomly")
    done.assert_outcomes(passed=sum(block.count("def test_") for block in code))


def test_the_page_on_arguments_is_true() -> None:
    page = (ROOT / "docs" / "arguments.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    with anyjob.testing.in_memory():
        exec(compile(code, "arguments.md", "exec", dont_inherit=True), {"__name__": "shop"})  # noqa: S102


def test_the_page_on_logging_is_true(capfd: pytest.CaptureFixture[str]) -> None:
    page = (ROOT / "docs" / "logging.md").read_text(encoding="utf-8")
    (set_up,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    program = set_up + (
        "import anyjob\n"
        "manager = anyjob.configure(backend='memory:')\n"
        "@anyjob.background_job('greet', retry=anyjob.RetryPolicy(max_tries=3))\n"
        "def greet() -> None: raise ValueError('no')\n"
        "greet.enqueue()\n"
        "assert manager.drain() == 1\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
    told = [json.loads(line) for line in capfd.readouterr().err.splitlines() if line.startswith("{")]
    assert [each.get("job_event") for each in told[:3]] == ["enqueued", "started", "failed"]
    rows = [[*map(str.strip, row.split("|"))] for row in page.splitlines() if row.startswith("| `")]
    facts_of = {event.strip("`"): set(re.findall(r"`(\w+)`", facts)) for _, event, _, facts, *_ in rows}
    for each in told[:3]:
        facts = {key.removeprefix("job_") for key in each if key.startswith("job_")}
        assert {*facts_of[each["job_event"]]} - {"run_at"} <= facts
        assert facts <= {*facts_of[each["job_event"]], "event", "name", "id", "queue", "priority"}


def test_the_settings_shown_are_right(tmp_path: Path) -> None:
    (toml,) = blocks("toml")
    (tmp_path / "anyjob.toml").write_text(toml)
    settings = load_settings(environ={}, directory=tmp_path, schemes=["memory"])
    assert settings is not None
    assert set(settings.backends) == {"main", "ledger"}


@pytest.mark.parametrize(
    ("page", "servers"),
    [
        ("rq", ["Redis", "Valkey"]),
        ("celery", ["Redis", "Valkey", "RabbitMQ"]),
        ("dramatiq", ["Redis", "Valkey", "RabbitMQ"]),
    ],
)
def test_pages_name_the_servers_that_the_table_has(page: str, servers: list[str]) -> None:
    text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    assert re.findall(r"^Servers: (.*) \(\[what it was run on\]", text, re.MULTILINE) == [ranges(*servers)]


EXAMPLES = {path.parent for path in ROOT.glob("examples/*/*.py")}
PRINTED = {
    command: path.parent
    for path in sorted(ROOT.glob("examples/*/*.py"))
    for command in re.findall(r"^(?:python|pytest) .+$", path.read_text().split('"""')[1], re.MULTILINE)
}
# tests/conformance/test_folder.py, adapters/test_three_backends.py and migration/test_example.py run the others.
ELSEWHERE = ("05_write_an_adapter", "06_three_backends", "07_move_to_another_broker")
# With pytest alone, as a newcomer has it.
RUNNERS = {
    "python": ["-B"],
    "pytest": ["-B", "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:timeout", "-p", "no:xdist"],
}


def test_every_example_says_how_it_is_run() -> None:
    assert set(PRINTED.values()) == EXAMPLES


@pytest.mark.parametrize("command", [each for each, folder in PRINTED.items() if folder.name not in ELSEWHERE])
def test_the_examples_run_as_printed(command: str) -> None:
    program, *arguments = shlex.split(command, comments=True)
    done = subprocess.run(
        [sys.executable, *RUNNERS[program], *arguments], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_drawing_has_the_rows_of_the_import_contract() -> None:
    drawing = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8").split("```")[1]
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    (layers,) = [each["layers"] for each in contracts if each.get("containers") == ["anyjob"]]
    rows = [name for layer in layers for name in layer.split(" | ") if name not in ("__main__", "extend")]
    drawn = [line.split()[0] for line in drawing.splitlines() if line.startswith("   ") and line.split()]
    assert [name for name in drawn if name in rows] == rows
    assert {each.name for each in (ROOT / "adapters").iterdir() if each.is_dir()} <= {*drawing.split()}


def test_each_step_of_the_job_s_way_names_a_file() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    files = re.findall(r"`((?:\w+/)?\w+\.py)`", page)
    assert len(files) >= 10
    for file in files:
        assert (ROOT / "src" / "anyjob" / file).is_file() or (ROOT / file).is_file()
