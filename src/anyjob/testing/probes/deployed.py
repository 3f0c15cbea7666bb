"""What a newer version of the application knows: the kit's workers import it where a test deploys."""

from __future__ import annotations

from dataclasses import dataclass

from anyjob.define.names import job_name
from anyjob.job import BackgroundJob
from anyjob.testing.probes.jobs import NAME
from anyjob.testing.probes.journal import record

__all__ = ["NEWCOMER", "Newcomer"]

NEWCOMER = f"{NAME}.newcomer"


@job_name(NEWCOMER)
@dataclass
class Newcomer:
    """Arguments of a job that older workers don't know."""

    journal: str
    label: str


class NewcomerJob(BackgroundJob[Newcomer]):
    """Runs a `Newcomer`."""

    def execute(self, args: Newcomer) -> None:
        record(args.journal, "end", args.label)
