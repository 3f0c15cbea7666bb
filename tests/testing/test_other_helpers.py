"""The tables of docs/testing.md say what is true: how the helpers of other libraries are said here."""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
from pathlib import Path
from typing import Any

import pytest

import anyjob
from anyjob.seams.capabilities import Capabilities
from anyjob.seams.stored import JobFilter
from anyjob.testing import JobSandbox, in_memory

PAGE = (Path(__file__).parents[2] / "docs" / "testing.md").read_text(encoding="utf-8")
_, _, SECTION = PAGE.partition("## If you know other test helpers\n")
ROWS = [(theirs, ours) for theirs, ours in re.findall(r"^\| (.+) \| (.+) \|$", SECTION, re.MULTILINE) if ours != "here"]
SAID = [(theirs, "\n".join(re.findall(r"`([^`]+)`", ours))) for theirs, ours in ROWS if not ours.startswith("No: ")]


@pytest.fixture(scope="module")
def page() -> dict[str, Any]:
    """What the page defines."""
    world: dict[str, Any] = {
        **vars(anyjob),
        **{each.__name__: each for each in (Capabilities, JobFilter, in_memory)},
        "__name__": "shop",  # as in the README, whose jobs have these names too
    }
    (definitions,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)[:1]
    exec(compile(definitions, "testing.md", "exec", dont_inherit=True), world)  # noqa: S102
    return world


@pytest.mark.parametrize(("theirs", "code"), SAID, ids=[theirs for theirs, _ in SAID])
def test_it_is_said_like_this(page: dict[str, Any], anyjob_sandbox: JobSandbox, theirs: str, code: str) -> None:
    for left in ("outbox", "mailbox_is_full"):
        page[left].clear()
    page["SendEmail"].enqueue(page["Email"]("a@b.c"))
    page["build_report"].using(queue="reports").enqueue(7)
    page["signup"]("later@b.c")
    world = {**page, "sandbox": anyjob_sandbox, "manager": anyjob.get_manager()}
    compiled = compile(code, "testing.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
    done = eval(compiled, world)  # noqa: S307
    if inspect.iscoroutine(done):
        asyncio.run(done)


def test_each_line_proves_something_or_says_why_not() -> None:
    assert len(SAID) > 70
    assert len(ROWS) - len(SAID) < 15
    for theirs, code in SAID:
        assert any(word in code for word in ("assert", "pytest.raises", "worker()", "wait_until_idle")), theirs
