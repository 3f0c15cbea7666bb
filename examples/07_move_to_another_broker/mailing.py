"""The jobs: they know no broker, and nothing of the move."""

from dataclasses import dataclass

from anyjob import BackgroundJob, job_name


@job_name("mail.send")
@dataclass
class Email:
    to: str


class SendEmail(BackgroundJob[Email]):
    queue = "mail"

    def execute(self, args: Email) -> None:
        print("to", args.to)


@job_name("report.build")
@dataclass
class Report:
    number: int


class BuildReport(BackgroundJob[Report]):
    def execute(self, args: Report) -> None:
        print("report", args.number)
