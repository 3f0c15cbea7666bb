"""`anyjob migrate`: jobs that wait, from one backend to another."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import click
import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from anyjob import current
from anyjob.cli.commands import ExitCode, fail, refuse_in_process, split_queues, with_exit_codes
from anyjob.manager import JobManager
from anyjob.migration import JobMigration, MigrationError, MigrationOptions, MigrationReport
from anyjob.store import JobState

__all__ = ["migrate"]

_STATES: Final[Mapping[str, JobState]] = {
    state.value: state for state in (JobState.WAITING, JobState.SCHEDULED, JobState.ABANDONED)
}


@click.command()
@click.argument("source", metavar="FROM")
@click.argument("destination", metavar="TO")
@click.option("--dry-run", is_flag=True, help="Show what would move, and what TO could not keep; move nothing.")
@click.option("-Q", "--queue", "queues", metavar="A,B", callback=split_queues, help="Only the jobs of these queues.")
@click.option("--job", "name", metavar="PATTERN", help="Only jobs of such a name, as 'mail.*'.")
@click.option(
    "--state",
    "states",
    multiple=True,
    type=click.Choice(list(_STATES)),
    help="Only jobs in this state, or these. Default: waiting and scheduled.",
)
@click.option(
    "--batch", type=click.IntRange(1, 1000), default=200, show_default=True, help="Jobs on the way at a time."
)
@click.option("--rate", type=click.FloatRange(0, min_open=True), metavar="N", help="At most N jobs a second.")
@click.option("--resume", metavar="RUN", help="Go on with a run that was interrupted: it printed its name.")
@click.option("--verify", is_flag=True, help="Read each batch back from TO before FROM lets go of it.")
@click.option(
    "--report", type=click.Path(path_type=Path, dir_okay=False), help="Write the result to this file, as JSON."
)
@with_exit_codes
def migrate(source: str, destination: str, *, dry_run: bool, report: Path | None, **chosen: Any) -> None:
    """Move the jobs that wait from the backend FROM to the backend TO; both are aliases of the settings.

    Workers may go on on both sides. Nothing is lost if this is killed: --resume goes on. Ends with 1 if something that
    was chosen is left.
    """
    manager = current.load_application()
    for alias in (source, destination):
        refuse_in_process(manager, alias, "another process never sees its jobs. Move them in Python, by migration()")
    given = {key: value for key, value in chosen.items() if value is not None}
    states = given.pop("states")
    if states:
        given["states"] = frozenset(map(_STATES.__getitem__, states))
    if "queues" in given:
        given["queues"] = frozenset(given["queues"])
    options = MigrationOptions(**given)
    migration, done = _run(manager, source, destination, options, dry_run=dry_run, file=report)
    _print(done)
    if migration.is_stopped:
        fail(ExitCode.ABORTED, f"stopped after a whole batch; run it again to move what {source!r} still has.")
    if done.left or done.foreign or not done.is_balanced or (_total(done.remaining, options) and not dry_run):
        sys.exit(ExitCode.FAILED)


def _run(
    manager: JobManager, source: str, destination: str, options: MigrationOptions, *, dry_run: bool, file: Path | None
) -> tuple[JobMigration, MigrationReport]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"))
    console = Console(stderr=True)
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console, transient=True) as bar:
        task = bar.add_task("moved", total=None, rate="")

        def show(so_far: MigrationReport) -> None:
            speed = bar.tasks[task].finished_speed or bar.tasks[task].speed
            bar.update(task, completed=so_far.moved, rate=f"{speed:.0f}/s" if speed else "")

        migration = manager.migration(source, destination, options, show)
        if dry_run:
            done = migration.preview()
        else:
            told = f"run {migration.run}: after a crash, go on with --resume {migration.run}"
            bar.console.print(told, markup=False, highlight=False, soft_wrap=True)
            bar.update(task, total=_total(manager.shelf(source).count(), options))
            try:
                with _stops(migration):
                    done = migration.move()
            except MigrationError as error:
                _write(file, error.report)
                _print(error.report)
                fail(ExitCode.UNREACHABLE, f"{error}\nGo on with --resume {migration.run}")
    _write(file, done)
    return migration, done


def _total(counts: Mapping[JobState, int], options: MigrationOptions) -> int | None:
    if options.queues is not None or options.name is not None or not counts.keys() >= options.states:
        return None  # nobody knows before it is done
    return sum(counts[state] for state in options.states)


@contextmanager
def _stops(migration: JobMigration) -> Iterator[None]:
    """Let TERM and Ctrl-C end the migration after the batch that is on its way."""
    before = {each: signal.signal(each, lambda *_: migration.stop()) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def _write(file: Path | None, report: MigrationReport) -> None:
    if file is not None:
        told = {**msgspec.to_builtins(report, str_keys=True), "is_balanced": report.is_balanced}
        file.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")


def _print(report: MigrationReport) -> None:
    verb = "would move" if report.dry_run else "moved"
    table = Table("queue", "state", "job", verb, "left", "why", box=None, pad_edge=False)
    for each in report.groups:
        left = str(each.left) if each.left else ""
        row = (each.queue or "?", each.state.value, each.job or "?", str(each.moved), left, "\n".join(each.why))
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
    remaining = ", ".join(f"{state.value} {count}" for state, count in report.remaining.items() if count)
    if report.remaining:
        click.echo(f"{report.source!r} has {remaining or 'no jobs'} now")
    if report.in_doubt:
        click.echo(f"may be in {report.destination!r} twice: {', '.join(report.in_doubt)}")
