from __future__ import annotations

import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

import pytest

import anyjob
from anyjob import BackgroundJob, ConfigurationError, JobPriority, NotConfiguredError, background_job, current_job


@dataclass
class Note:
    text: str


NOTES: list[tuple[str, str]] = []


class TakeNote(BackgroundJob[Note]):
    def execute(self, args: Note) -> None:
        NOTES.append((threading.current_thread().name, args.text))
        if args.text == "again":
            TakeNote.enqueue(Note("from inside"))


@background_job("current.count")
async def count(number: int, step: int = 1) -> int:
    NOTES.append((current_job().name, str(number + step)))
    return number + step


@pytest.fixture(autouse=True)
def _no_notes() -> None:
    NOTES.clear()


def test_an_application_that_configured_nothing_is_told_how_to() -> None:
    with pytest.raises(NotConfiguredError, match="ANYJOB_BACKEND=memory:"):
        TakeNote.enqueue(Note("a"))


def test_jobs_enqueue_with_the_manager_in_force() -> None:
    with anyjob.override(backend="memory:") as manager:
        TakeNote.enqueue(Note("low"), priority=JobPriority.LOW)
        count.using(priority=JobPriority.HIGH).enqueue(1, step=2)
        assert manager.drain() == 2
    assert [text for _, text in NOTES] == ["3", "low"]


def test_a_plain_call_stays_one() -> None:
    import asyncio

    NOTES.clear()
    with pytest.raises(LookupError, match="outside"):
        asyncio.run(count(1))


def test_prepared_jobs_of_many_kinds_go_together() -> None:
    with anyjob.override(backend="memory:") as manager:
        ids = manager.enqueue_many([TakeNote.prepare(Note("a")), count.prepare(1), Note("b")])
        assert len(set(ids)) == 3
        assert manager.drain() == 3


def test_an_override_holds_in_all_threads_and_for_what_jobs_enqueue() -> None:
    with anyjob.override(backend="memory:") as manager:
        with manager.start_worker():
            TakeNote.enqueue(Note("again"))
            deadline = threading.Event()
            for _ in range(5000):
                if len(NOTES) == 2:
                    break
                deadline.wait(0.002)
        assert [text for _, text in NOTES] == ["again", "from inside"]


def test_overrides_nest_and_end() -> None:
    with anyjob.override(backend="memory:") as outer:
        with anyjob.override(backend="memory:") as inner:
            assert anyjob.get_manager() is inner
        assert anyjob.get_manager() is outer
    with pytest.raises(NotConfiguredError):
        anyjob.get_manager()


def test_an_override_with_wrong_settings_changes_nothing() -> None:
    with pytest.raises(ConfigurationError, match="Did you mean 'memory'"), anyjob.override(backend="memry:"):
        raise AssertionError("entered")
    with (
        pytest.raises(ConfigurationError, match="default = 'nobody' names no backend"),
        anyjob.override(backend="nobody"),
    ):
        raise AssertionError("entered")


def run(code: str, tmp_path: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=environment, check=False
    )


def test_configuration_by_environment_and_what_is_left_at_exit_is_said(tmp_path: Path) -> None:
    code = """
import anyjob
@anyjob.background_job("note")
def note(text: str) -> None: ...
note.enqueue("a"); note.using(delay=60).enqueue("b"); note.using(delay=60).enqueue("c")
"""
    done = run(code, tmp_path, ANYJOB_BACKEND="memory:")
    assert done.returncode == 0, done.stderr
    assert "jobs that were not run: waiting=1 scheduled=2" in done.stderr


def test_importing_anyjob_loads_neither_asyncio_nor_the_command_line_nor_a_broker(tmp_path: Path) -> None:
    code = """
import sys, anyjob
heavy = {"asyncio", "click", "rich", "redis", "rq", "celery", "kombu", "dramatiq", "pika", "tomllib"}
print(sorted(heavy & sys.modules.keys()))
"""
    done = run(code, tmp_path)
    assert done.stdout.strip() == "[]", done.stderr


def test_the_same_manager_may_be_in_force_at_two_levels() -> None:
    with anyjob.override(backend="memory:") as outer:
        with anyjob.override(backend="memory:") as other, anyjob.override(outer):
            assert anyjob.get_manager() is outer
        with anyjob.override(other):
            assert anyjob.get_manager() is other
        assert anyjob.get_manager() is outer


def test_settings_beside_a_made_manager_are_refused() -> None:
    with anyjob.override(backend="memory:") as manager:
        with pytest.raises(ConfigurationError, match="retry.*can't change a manager"):
            anyjob.configure(manager, retry="none")
        with pytest.raises(ConfigurationError, match="is no JobManager"):
            anyjob.configure(manager.backend())  # type: ignore[arg-type]


def test_a_scheme_without_its_colon_is_recognised() -> None:
    with pytest.raises(ConfigurationError, match="Did you mean the URL 'memory:'"):
        anyjob.configure(backend="memory")


def test_options_in_the_call_of_a_function_job_are_told_their_place() -> None:
    with anyjob.override(backend="memory:"), pytest.raises(anyjob.InvalidArgsError) as refused:
        count.enqueue(1, delay=60)  # type: ignore[call-arg]
    assert refused.value.__notes__ == ["Options go in front: .using(delay=...).enqueue(...)"]


@pytest.mark.parametrize("row", [{"url": "memory://somewhere/0"}, {"url": "memory:", "options": {"ttl": 5}}])
def test_what_memory_would_ignore_is_refused(row: dict[str, object]) -> None:
    with (
        anyjob.override(backends={"main": row}),
        pytest.raises(ConfigurationError, match=r"backends\.main: 'memory:' is the whole URL"),
    ):
        TakeNote.enqueue(Note("a"))
