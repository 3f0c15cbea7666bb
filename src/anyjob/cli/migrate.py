"""`anyjob migrate`: moves waiting jobs from one backend to another."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import click

from anyjob import current
from anyjob.cli.commands import ExitCode, refuse_in_process, split_queues, with_exit_codes
from anyjob.cli.moving import move_or_preview, moving_options, options_of
from anyjob.migration import MigrationOptions
from anyjob.seams.stored import JobState

__all__ = ["migrate"]

_STATES: Final[Mapping[str, JobState]] = {
    state.value: state for state in (JobState.WAITING, JobState.SCHEDULED, JobState.ABANDONED)
}


@click.command()
@click.argument("source", metavar="FROM")
@click.argument("destination", metavar="TO")
@click.option("-Q", "--queue", "queues", metavar="A,B", callback=split_queues, help="Only the jobs of these queues.")
@click.option("--job", "name", metavar="PATTERN", help="Only jobs of such a name, as 'mail.*'.")
@click.option(
    "--state",
    "states",
    multiple=True,
    type=click.Choice(list(_STATES)),
    help="Only jobs in this state, or these. Default: waiting and scheduled.",
)
@moving_options
@with_exit_codes
def migrate(source: str, destination: str, *, dry_run: bool, report: Path | None, **chosen: Any) -> None:
    """Move the jobs that wait from the backend FROM to the backend TO; both are aliases of the settings.

    Workers may go on on both sides. Nothing is lost if this is killed: --resume goes on. Ends with 1 if something that
    was chosen is left.
    """
    manager = current.load_application()
    for alias in (source, destination):
        refuse_in_process(manager, alias, "another process never sees its jobs. Move them in Python, by migration()")
    options = options_of(
        {
            **chosen,
            "states": frozenset(map(_STATES.__getitem__, chosen["states"])) or None,
            "queues": chosen["queues"] and frozenset(chosen["queues"]),
        }
    )
    done = move_or_preview(
        lambda progress: manager.migration(source, destination, options, progress),
        total=None if dry_run else _total(manager.inspect(source).count(), options),
        dry_run=dry_run,
        file=report,
    )
    if done.left or done.foreign or not done.is_balanced or (_total(done.remaining, options) and not dry_run):
        sys.exit(ExitCode.FAILED)


def _total(counts: Mapping[JobState, int], options: MigrationOptions) -> int | None:
    if options.queues is not None or options.name is not None or not counts.keys() >= options.states:
        return None  # unknown before it is done
    return sum(counts[state] for state in options.states)
