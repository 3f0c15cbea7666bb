"""`anyjob adopt`: makes jobs of messages that an application sent by its job library alone."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from anyjob import current
from anyjob.cli.commands import ExitCode, refuse_in_process, with_exit_codes
from anyjob.cli.moving import move_or_preview, moving_options, options_of

__all__ = ["adopt"]


def _split_tasks(_context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]) -> Mapping[str, str]:
    """Read which job each task becomes: `TASK=JOB`, or `TASK` if they have one name."""
    tasks = {}
    for value in values:
        task, _, job = value.partition("=")
        tasks[task] = job or task
    return tasks


@click.command()
@click.argument("source", metavar="FROM")
@click.argument("destination", metavar="[TO]", required=False)
@click.option(
    "--task",
    "tasks",
    metavar="TASK[=JOB]",
    multiple=True,
    callback=_split_tasks,
    help="Make the job JOB of the messages of this native task; may be given again.",
)
@click.option(
    "-Q", "--queue", "queues", metavar="QUEUE", multiple=True, help="Look into this queue, by the library's own name."
)
@moving_options
@with_exit_codes
def adopt(
    source: str,
    destination: str | None,
    *,
    tasks: Mapping[str, str],
    queues: tuple[str, ...],
    dry_run: bool,
    report: Path | None,
    **chosen: Any,
) -> None:
    """Turn messages of native tasks that wait in FROM's application into jobs of the backend TO (default: the default).

    Their arguments must fit the job's signature; due time, id and tries are kept. What doesn't fit stays where it is,
    and is told with the reason. With --dry-run and no --task, it shows what waits there. Nothing is lost if this is
    killed: --resume goes on. Ends with 1 if a message of a named task is left.
    """
    if not tasks and not dry_run:
        raise click.UsageError("Name a --task, or look first, with --dry-run.")
    manager = current.load_application()
    refuse_in_process(manager, destination or manager.default, "the jobs would end with this command")
    done = move_or_preview(
        lambda progress: manager.adoption(
            source, tasks, destination, options_of(chosen), queues=queues or None, progress=progress
        ),
        total=None,
        dry_run=dry_run,
        file=report,
    )
    if not done.read:
        where = ", ".join(queues) or "the queues that its application names"
        click.echo(f"Nothing of {source!r} waits in {where}; look into others with --queue.")
    if done.left or not done.is_balanced:
        sys.exit(ExitCode.FAILED)
