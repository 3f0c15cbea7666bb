"""`anyjob adopt`: what it says, what it ends with, and what it leaves alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec
import pytest
from click.testing import Result
from native_app import Jobs, message

from anyjob import (
    override,
)
from anyjob.cli.commands import ExitCode


@pytest.fixture
def shop() -> Iterator[Jobs]:
    jobs = Jobs(message(1), message(2, task="shop.other"), message(3, args=[1]))
    jobs.define()
    with override(jobs.manager):
        yield jobs


def test_the_command_looks(anyjob: Callable[..., Result], shop: Jobs) -> None:
    result = anyjob("adopt", "app", "--dry-run")
    assert result.exit_code == ExitCode.DONE, result.output
    assert "read 3 = would move 0 + left 0 + foreign 3" in result.stdout
    assert "shop.other" in result.stdout
    assert len(shop.app.messages) == 3


def test_the_command_adopts_and_names_what_is_left(anyjob: Callable[..., Result], shop: Jobs, tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    result = anyjob("adopt", "app", "new", "--task", "shop.send", "-Q", "celery", "--report", str(file))
    assert result.exit_code == ExitCode.FAILED
    assert "read 3 = moved 1 + left 1 + foreign 1\n'app' has waiting 2 now; what is scheduled" in result.stdout
    assert "arguments; 1 given" in result.stdout
    assert shop.app.asked == ("celery",)
    assert msgspec.json.decode(file.read_bytes())["moved"] == 1
    assert [each.id for each in shop.app.messages] == ["native-2", "native-3"]


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["app"], 2, "Name a --task, or look first, with --dry-run"),
        (["app", "--task", "x=shop.sent"], ExitCode.FAILED, "Did you mean 'shop.send'?"),
        (["new", "--task", "shop.send"], ExitCode.FAILED, "no queues that an application sends to"),
        (["nowhere", "--dry-run"], ExitCode.SETTINGS, "nowhere"),
    ],
)
def test_the_command_refuses_what_makes_no_sense(
    anyjob: Callable[..., Result], shop: Jobs, arguments: Sequence[str], code: int, told: str
) -> None:
    result = anyjob("adopt", *arguments)
    assert (result.exit_code, told in result.stderr) == (code, True), result.output
    assert len(shop.app.messages) == 3


def test_the_command_says_where_nothing_waits(anyjob: Callable[..., Result], shop: Jobs) -> None:
    shop.app.messages.clear()
    told = "Nothing of 'app' waits in {}; look into others with --queue.\n"
    assert told.format("the queues that its application names") in anyjob("adopt", "app", "--dry-run").stdout
    assert told.format("cellery") in anyjob("adopt", "app", "--dry-run", "-Q", "cellery").stdout
