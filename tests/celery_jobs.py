"""The jobs that the tests of Celery run in worker processes, beside those of the kit."""

from __future__ import annotations

from dataclasses import dataclass

from anyjob import BackgroundJob, RetryPolicy, current_job, job_name
from anyjob.testing.probes.journal import hold, record

__all__ = ["FailsAtItsGates"]


@job_name("celery-tests.fails-at-its-gates")
@dataclass
class FailsAtItsGates:
    """A job whose n-th try, of five, fails when the file `<gates>-<n>` is there."""

    journal: str
    label: str
    gates: str


class FailsAtItsGatesJob(BackgroundJob[FailsAtItsGates]):
    """Runs a `FailsAtItsGates`."""

    retry = RetryPolicy(max_tries=5, first_wait=0.0)

    def execute(self, args: FailsAtItsGates) -> None:
        record(args.journal, "begin", args.label)
        hold(f"{args.gates}-{current_job().try_count}")
        raise RuntimeError(args.label)
