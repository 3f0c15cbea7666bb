"""Runs a migration for the command line: a bar while it goes, a clean stop, and a table at the end."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from anyjob.base.error_text import visible
from anyjob.cli.commands import ExitCode, fail
from anyjob.migration import JobMigration, MigrationError, MigrationOptions, MigrationReport
from anyjob.seams.stored import JobState

__all__ = ["move_or_preview", "moving_options", "options_of"]


def _refuse_unwritable(_context: click.Context, _parameter: click.Parameter, file: Path | None) -> Path | None:
    """Find out before anything moves."""
    if file is not None:
        is_new = not file.exists()
        try:
            file.open("a").close()
            if is_new:
                file.unlink()
        except OSError as error:
            raise click.BadParameter(f"{str(file)!r}: {error.strerror}") from error
    return file


_OPTIONS = (
    click.option("--dry-run", is_flag=True, help="Show what would move, and what TO could not keep; move nothing."),
    click.option(
        "--batch", type=click.IntRange(1, 1000), default=200, show_default=True, help="Jobs on the way at a time."
    ),
    click.option("--rate", type=click.FloatRange(0, min_open=True), metavar="N", help="At most N jobs a second."),
    click.option("--resume", metavar="RUN", help="Go on with a run that was interrupted: it printed its name."),
    click.option("--verify", is_flag=True, help="Read each batch back from TO before FROM lets go of it."),
    click.option(
        "--report",
        type=click.Path(path_type=Path, dir_okay=False),
        callback=_refuse_unwritable,
        help="Write the result to this file, as JSON.",
    ),
)


def moving_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options that moving has, wherever the jobs come from."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def options_of(chosen: Mapping[str, Any]) -> MigrationOptions:
    """Return the options of a command; None is not given."""
    return MigrationOptions(**{key: value for key, value in chosen.items() if value is not None})


def move_or_preview(
    make: Callable[[Callable[[MigrationReport], None]], JobMigration],
    *,
    total: int | None,
    dry_run: bool,
    file: Path | None,
) -> MigrationReport:
    """Run the migration that `make` returns for a progress callback; `total` jobs are to come, None if unknown.

    If it was interrupted, this ends the process, and prints how to go on.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"))
    console = Console(stderr=True)
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console, transient=True) as bar:
        task = bar.add_task("moved", total=None, rate="")

        def show(so_far: MigrationReport) -> None:
            speed = bar.tasks[task].finished_speed or bar.tasks[task].speed
            bar.update(task, completed=so_far.moved, rate=f"{speed:.0f}/s" if speed else "")

        migration = make(show)
        if dry_run:
            done = migration.preview()
        else:
            told = f"run {migration.run}: after a crash, go on with --resume {migration.run}"
            bar.console.print(told, markup=False, highlight=False, soft_wrap=True)
            bar.update(task, total=total)
            try:
                with _stops(migration):
                    done = migration.move()
            except MigrationError as error:
                unwritten = _report(error.report, file)
                fail(ExitCode.UNREACHABLE, error, f"Go on with --resume {migration.run}", *unwritten)
    unwritten = _report(done, file)
    if migration.is_stopped:
        told = f"stopped after a whole batch; run it again to move what {done.source!r} still has."
        fail(ExitCode.ABORTED, told, *unwritten)
    if unwritten:
        fail(ExitCode.FAILED, *unwritten)
    return done


def _told(remaining: Mapping[JobState, int]) -> str:
    """Tell how many jobs are left, as far as they can be counted: others may well be there."""
    left = ", ".join(f"{state.value} {count}" for state, count in remaining.items() if count)
    unseen = [state for state in JobState if state not in remaining]
    if not unseen:
        return f"{left or 'no jobs'} now"
    return f"{left or f'no {_either(remaining)} jobs'} now; what is {_either(unseen)} can't be counted"


def _either(states: Iterable[JobState]) -> str:
    *others, last = (state.value for state in states)
    return f"{', '.join(others)} or {last}" if others else last


@contextmanager
def _stops(migration: JobMigration) -> Iterator[None]:
    """Let TERM and Ctrl-C end the migration after the batch that is on its way."""
    before = {each: signal.signal(each, lambda *_: migration.stop()) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def _report(report: MigrationReport, file: Path | None) -> Sequence[str]:
    """Print a report and write it to the file; if that fails, print the report's data, and return the message."""
    _print(report)
    if file is None:
        return ()
    told = json.dumps({**msgspec.to_builtins(report, str_keys=True), "is_balanced": report.is_balanced}, indent=2)
    try:
        file.write_text(f"{told}\n", encoding="utf-8")
    except OSError as error:
        click.echo(told)
        return (f"the report can't be written to {str(file)!r}: {error.strerror}. It is printed instead.",)
    return ()


def _print(report: MigrationReport) -> None:
    verb = "would move" if report.dry_run else "moved"
    table = Table("queue", "state", "job", verb, "left", "why", box=None, pad_edge=False)
    for each in report.groups:
        left = str(each.left) if each.left else ""
        why = "\n".join(map(visible, each.why))
        row = (visible(each.queue or "?"), each.state.value, visible(each.job or "?"), str(each.moved), left, why)
        table.add_row(*row)
    console = Console(markup=False, highlight=False)
    if report.groups:
        console.print(table)
    balance = f"read {report.read} = {verb} {report.moved} + left {report.left} + foreign {report.foreign}"
    if report.verified:
        balance += f"; read back and equal: {report.verified}"
    click.echo(balance)
    if not report.is_balanced:
        missing = report.read - report.moved - report.left - report.foreign
        click.echo(f"{missing} went back to {report.source!r} while on the way: move again")
    if report.remaining:
        click.echo(f"{report.source!r} has {_told(report.remaining)}")
    if report.in_doubt:
        click.echo(f"may be in {report.destination!r} twice: {', '.join(report.in_doubt)}")
