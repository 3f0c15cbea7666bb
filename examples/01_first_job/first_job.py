"""Define two jobs, enqueue them with priorities and a delay, and watch a worker run them. Needs nothing but Python.

python examples/01_first_job/first_job.py
"""

import threading
from dataclasses import dataclass
from datetime import timedelta

import anyjob
from anyjob import BackgroundJob, JobPriority, background_job, current_job, job_name


@job_name("mail.send")
@dataclass
class Email:
    to: str
    subject: str = ""


class SendEmail(BackgroundJob[Email]):
    def execute(self, args: Email) -> None:
        print(f"  mail to {args.to}: {args.subject}  (priority {current_job().priority.name})")


done = threading.Event()


@background_job("report.build")
async def build_report(number: int, fmt: str = "pdf") -> None:
    print(f"  report {number} as {fmt}, a second later")
    done.set()


def main() -> None:
    manager = anyjob.configure(backend="memory:")  # or ANYJOB_BACKEND in the environment, or anyjob.toml

    build_report.using(delay=timedelta(seconds=1)).enqueue(7, fmt="csv")
    for number in range(3):
        SendEmail.enqueue(Email("everybody@example.org", f"news {number}"), priority=JobPriority.LOW)
    manager.enqueue(Email("you@example.org", "your password"), priority=JobPriority.HIGH)

    print("5 jobs are enqueued; a worker starts:")
    with manager.start_worker():
        done.wait(timeout=10)


if __name__ == "__main__":
    main()
