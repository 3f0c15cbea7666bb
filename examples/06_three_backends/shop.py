"""One application whose jobs go to RQ, Celery and Dramatiq at once; the code below knows none of them.

The routes of the jobs are in anyjob.toml, beside this file:

pip install '.[all]'       # in the folder of a clone
cd examples/06_three_backends
export REDIS_URL=redis://localhost:6379/0 AMQP_URL=amqp://guest:guest@localhost
python signup.py          # enqueues three jobs
anyjob worker --all       # runs them, each by the worker of its own job system, until Ctrl-C
"""

import sys
from dataclasses import dataclass

from anyjob import BackgroundJob, background_job, job_name


@job_name("mail.send")
@dataclass
class Email:
    to: str


class SendEmail(BackgroundJob[Email]):
    queue = "mail"

    def execute(self, args: Email) -> None:
        print(f"mail to {args.to} by {native_worker()}", flush=True)


@background_job("billing.charge")
def charge(customer: int, cents: int) -> None:
    print(f"charged {customer} with {cents} by {native_worker()}", flush=True)


@background_job("report.build")
async def build_report(number: int) -> None:
    print(f"built report {number} by {native_worker()}", flush=True)


def native_worker() -> str:
    """Only for this output: no job needs to know."""
    return next(name for name in ("celery", "dramatiq", "rq") if f"anyjob_{name}.app" in sys.modules)
