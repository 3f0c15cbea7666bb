"""A thousand waiting native messages of each library, adopted by a command that is killed with -9 and gone on with."""

from __future__ import annotations

import json
import os
import random
import secrets
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import pytest
from migration.applications import APPLICATIONS, REPORT, SEND_MAIL, Application, application_on
from migration.pairs import LONG, Servers

from anyjob import JobEnvelope, JobFilter, JobRegistry, JobState
from anyjob.settings import load_settings
from anyjob.settings.compose import build

ROUNDS: Final = 125
"""Of eight messages each."""
KILLS, BATCH = (50, 20) if LONG else (4, 20)
RUN: Final = "the-run"

JOBS: Final = """
from anyjob import background_job

@background_job("mail.send")
def send_mail(number: int, copies: int = 1) -> None: ...
"""
SETTINGS: Final = """
default = "jobs"
imports = ["shop.jobs"]
[backends.jobs]
url = "${JOBS_URL}"
[backends.tasks]
url = "${TASKS_URL}"
"""
CELERY: Final = """
import os
from celery import Celery
app = Celery("shop", broker=os.environ["BROKER_URL"])
"""

pytestmark = pytest.mark.timeout(900 if LONG else 150)


class Shop:
    """An application in whose queues messages wait, and no worker of it runs."""

    def __init__(self, application: Application, servers: Servers, folder: Path) -> None:
        self.application = application
        self.folder = folder
        (folder / "shop").mkdir()
        (folder / "shop" / "tasks.py").write_text(application.tasks or CELERY)
        (folder / "shop" / "jobs.py").write_text(JOBS)
        (folder / "anyjob.toml").write_text(SETTINGS)
        plain = {name: value for name, value in os.environ.items() if not name.startswith("ANYJOB_")}
        self.environment = {
            **plain,
            **application.environment(),
            "ANYJOB_NAMESPACE": f"adopt{secrets.token_hex(5)}",
            "JOBS_URL": servers.url("rq+redis"),  # which shows its jobs, and takes each once
            "PYTHONPATH": str(folder),
        }

    def command(self, *options: str) -> list[str]:
        chosen = ("--task", f"{SEND_MAIL}=mail.send", "--batch", str(BATCH))
        return [sys.executable, "-m", "anyjob", "adopt", "tasks", *chosen, *options]

    def options(self) -> dict[str, Any]:
        return {"cwd": self.folder, "env": self.environment, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}

    def adopt(self, *options: str) -> Any:
        """Adopt what is left, or look; return the report."""
        file = self.folder / "report.json"
        done = subprocess.run([*self.command(*options), "--report", str(file)], **self.options(), check=False)
        assert done.returncode == 1, done  # for some don't fit
        return json.loads(file.read_text())

    def kill(self, dice: random.Random) -> bool:
        """Start to adopt, and kill that a moment after it began; return whether it was still at it."""
        mover = subprocess.Popen(self.command("--resume", RUN), **self.options())
        assert mover.stderr is not None
        assert any(line.startswith(b"run the-run") for line in mover.stderr)  # what is at risk is said before
        threading.Event().wait(dice.uniform(0.0, 0.2))
        mover.kill()
        mover.communicate()
        return mover.returncode < 0

    def jobs(self) -> list[JobEnvelope]:
        loaded = load_settings({"imports": []}, environ=self.environment, directory=self.folder)
        assert loaded is not None
        manager = build(loaded, registry=JobRegistry())
        chosen = JobFilter(states=frozenset({JobState.WAITING, JobState.SCHEDULED}))
        page = manager.inspect("jobs").scan(chosen, limit=10_000)
        manager.close()
        return [envelope for job in page.jobs if (envelope := job.envelope) is not None]


@pytest.fixture(params=APPLICATIONS)
def shop(request: pytest.FixtureRequest, servers: Servers, tmp_path: Path) -> Iterator[Shop]:
    application = application_on(request.param, servers)
    yield Shop(application, servers, tmp_path)
    application.close()


def test_what_fits_becomes_a_job_and_the_rest_is_left_and_named(shop: Shop) -> None:
    fitting, left, others = sent_by(shop.application)
    dice = random.Random(str(type(shop.application)))

    looked = shop.adopt("--dry-run")
    assert (looked["moved"], looked["left"], looked["foreign"]) == (len(fitting), left, others)
    assert shop.jobs() == []

    killed = [shop.kill(dice) for _ in range(KILLS)]
    assert any(killed), "it was done too soon for the kills to mean anything"
    report = shop.adopt("--resume", RUN)

    jobs = {job.id: job for job in shop.jobs()}
    assert Counter(job.id for job in shop.jobs()).most_common(1)[0][1] == 1
    assert jobs.keys() == fitting.keys()
    for job_id, (args, tries, due) in fitting.items():
        job = jobs[job_id]
        assert (job.name, json.loads(bytes(job.args)), job.try_count) == ("mail.send", args, tries)
        assert (job.due_at is None) == (due is None)
        if due is not None and job.due_at is not None:
            assert abs(job.due_at - due) < timedelta(seconds=2)

    assert (report["left"], report["foreign"], report["in_doubt"]) == (left, others, [])
    why = {group["job"]: " ".join(group["why"]) for group in report["groups"] if group["left"]}
    assert why[REPORT] == "Its task was not named."
    assert "Expected `int`, got `str`" in why[SEND_MAIL]
    assert len({reason for group in report["groups"] if group["job"] == SEND_MAIL for reason in group["why"]}) >= 2
    again = shop.adopt("--dry-run")
    assert (again["moved"], again["left"], again["foreign"]) == (0, left, others)


Sent = Mapping[str, tuple[Mapping[str, int], int, datetime | None]]
"""By id: the arguments, the tries, and when it is due."""


def sent_by(application: Application) -> tuple[Sent, int, int]:
    """Let an application send; return what fits, how many messages of the task don't, and how many others there are."""
    fits: dict[str, tuple[Mapping[str, int], int, datetime | None]] = {}
    keeps_tries = application.url != "rq+${BROKER_URL}"
    for number in range(ROUNDS):
        hour = datetime.now(UTC) + timedelta(hours=1)
        one = {"number": number, "copies": 1}
        fits[application.send(SEND_MAIL, number)] = (one, 0, None)
        fits[application.send(SEND_MAIL, number=number, copies=2)] = ({"number": number, "copies": 2}, 0, None)
        fits[application.send(SEND_MAIL, number, copies=3)] = ({"number": number, "copies": 3}, 0, None)
        fits[application.send(SEND_MAIL, number, delay=3600)] = (one, 0, hour)
        fits[application.send(SEND_MAIL, number, tries=2)] = (one, 2 if keeps_tries else 0, None)
        application.send_chain(number)
        application.send(SEND_MAIL, f"number {number}")
        application.send(REPORT, number)
    return fits, 2 * ROUNDS, ROUNDS
