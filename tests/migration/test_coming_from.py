"""The page "Coming from Celery, RQ or Dramatiq", run from top to bottom while native tasks and jobs are sent."""

from __future__ import annotations

import os
import re
import secrets
import shlex
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import pytest
from migration.applications import REPORT, SEND_MAIL, Application, application_on
from migration.pairs import Servers

from anyjob import JobManager, JobRegistry
from anyjob.settings import load_settings
from anyjob.settings.compose import build
from anyjob.testing.conformance.processes import WorkerProcess
from anyjob.testing.probes.journal import wait_until

PAGE = Path(__file__).parents[2] / "docs" / "coming_from.md"
TEXT = PAGE.read_text(encoding="utf-8")
STEPS: Final = re.findall(r"^```(python|toml|sh)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)

_TASKS: Final = {"mail": SEND_MAIL, "report": REPORT}

A_SECOND = 20
"""How many messages are sent in a second, half of them of each task."""

pytestmark = pytest.mark.timeout(170)


class Producer:
    """Sends `report` as ever; and `send_mail`, natively until it is deployed with the job. Every fifth for later."""

    def __init__(self, application: Application) -> None:
        self.sent: Counter[str] = Counter()
        self.first_job = 0
        """The number of the first mail that was sent as a job."""
        self._application = application
        self._manager: JobManager | None = None
        self._lock = threading.Lock()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def deploy(self, settings: Path, environment: Mapping[str, str]) -> None:
        """Go on as a process that was restarted with step 4."""
        loaded = load_settings({"imports": []}, environ=environment, directory=Path("/"), config=settings)
        assert loaded is not None
        manager = build(loaded, registry=JobRegistry())
        manager.registry.register_handler("mail.send", lambda _: None)
        with self._lock:
            self._manager, self.first_job = manager, self.sent["mail"]

    def wait(self, count: int) -> None:
        """Wait until so many more were sent."""
        until = self.sent.total() + count
        wait_until(lambda: self.sent.total() >= until, timeout=30, what=f"{count} more messages to be sent")

    def end(self) -> None:
        self._end.set()
        self._thread.join()
        if self._manager is not None:
            self._manager.close()

    def send_old(self, count: int) -> None:
        """Send mails as a process does that was not restarted yet."""
        with self._lock:
            for _ in range(count):
                self._send("mail", self._send_task)

    def _run(self) -> None:
        while not self._end.wait(2 / A_SECOND):
            with self._lock:
                self._send("report", self._send_task)
                self._send("mail", self._send_task if self._manager is None else self._send_job)

    def _send(self, kind: str, send: Callable[[str, int, float], object]) -> None:
        number = self.sent[kind]
        send(kind, number, 2.0 if number % 5 == 0 else 0.0)
        self.sent[kind] += 1

    def _send_task(self, kind: str, number: int, delay: float) -> None:
        self._application.send(_TASKS[kind], number, delay=delay)

    def _send_job(self, _kind: str, number: int, delay: float) -> None:
        assert self._manager is not None
        self._manager.enqueue_by_name("mail.send", {"number": number}, delay=delay)


class Operator:
    """Does what the page says, in a folder, beside an application's own worker."""

    def __init__(self, application: Application, environment: Mapping[str, str], folder: Path) -> None:
        self.folder = folder
        self.said: list[tuple[str, str]] = []
        self._application = application
        self._environment = environment
        self._workers: dict[str, WorkerProcess] = {}

    def write(self, language: str, text: str) -> None:
        name = "anyjob.toml" if language == "toml" else text.partition("\n")[0].removeprefix("# ")
        if name == "shop/tasks.py" and self._application.tasks is not None:
            text = self._application.tasks
        file = self.folder / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)

    def run(self, command: str) -> None:
        if " worker" in command:
            self.start("jobs", [sys.executable, "-m", *shlex.split(command)])
            return
        self.said.append((command, self.ask(command)))

    def ask(self, command: str) -> str:
        """Run a command to its end; return what it said."""
        argv = [sys.executable, "-m", *shlex.split(command)]
        done = subprocess.run(
            argv, env=self._environment, cwd=self.folder, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, (argv, done.stdout, done.stderr)
        return done.stdout

    def start_native(self) -> None:
        self.start(
            "native",
            [
                str(Path(sys.executable).parent / self._application.worker.split()[0]),
                *self._application.worker.split()[1:],
            ],
        )

    def start(self, name: str, argv: list[str]) -> None:
        log = self.folder / f"{name}-{len(list(self.folder.glob('*.log')))}.log"
        self._workers[name] = WorkerProcess(argv, self._environment, log)

    def stop(self, name: str) -> None:
        worker = self._workers.pop(name)
        worker.terminate()
        worker.wait(40)
        assert worker.process.returncode == 0, worker.said()

    def end(self) -> None:
        for name in list(self._workers):
            self.stop(name)

    def kill(self) -> None:
        for worker in self._workers.values():
            worker.kill()


class Stage:
    """An application that serves its tasks and is sent some all the time."""

    def __init__(self, application: Application, environment: Mapping[str, str], folder: Path) -> None:
        self.application = application
        self.environment = environment
        self.operator = Operator(application, environment, folder)
        self.notes = folder / "notes"
        self.notes.touch()
        self.operator.write(*STEPS[0])
        self.operator.start_native()
        self.producer = Producer(application)

    def noted(self) -> Counter[str]:
        return Counter(self.notes.read_text().splitlines())

    def wait_for_a_job(self) -> None:
        """Wait until the workers of step 3 serve: suspended, RQ's would not start."""
        first = self.producer.first_job
        mails = {f"mail {number}" for number in range(first, first + A_SECOND)}
        wait_until(lambda: not self.noted().keys().isdisjoint(mails), timeout=60, what="a job to be run")

    def everything_ran_once(self) -> None:
        self.producer.end()
        expected = {f"{task} {number}" for task, count in self.producer.sent.items() for number in range(count)}
        wait_until(lambda: len(self.noted()) == len(expected), timeout=60, what=lambda: self._missing(expected))
        self.operator.end()
        noted = self.noted()
        assert noted.keys() == expected
        assert [each for each, times in noted.items() if times > 1] == []

    def _missing(self, expected: set[str]) -> str:
        return f"{sorted(expected - self.noted().keys())} to be run"


@contextmanager
def stage(system: str, servers: Servers, folder: Path) -> Iterator[Stage]:
    application = application_on(system, servers)
    plain = {name: value for name, value in os.environ.items() if not name.startswith("ANYJOB_")}
    environment = {
        **plain,
        **application.environment(),
        "ANYJOB_NAMESPACE": f"come{secrets.token_hex(5)}",
        "JOBS_URL": servers.url(f"{system.partition('-')[0]}+{application.transport}"),
        "NOTES": str(folder / "notes"),
        "PYTHONPATH": str(folder),
    }
    with ExitStack() as stack:
        stack.callback(application.close)
        made = Stage(application, environment, folder)
        stack.callback(made.operator.kill)
        stack.callback(made.producer.end)
        yield made


def jobs_worker_first(stage: Stage, run: Callable[[], None]) -> None:
    run()
    stage.producer.wait(A_SECOND)
    stage.producer.deploy(stage.operator.folder / "anyjob.toml", stage.environment)


def senders_first(stage: Stage, run: Callable[[], None]) -> None:
    stage.producer.deploy(stage.operator.folder / "anyjob.toml", stage.environment)
    stage.producer.wait(A_SECOND)
    run()


@pytest.mark.parametrize(
    ("system", "order", "stops"),
    [
        ("celery-redis", jobs_worker_first, False),
        ("celery-redis", senders_first, True),
        ("celery-amqp", senders_first, True),
        ("rq", jobs_worker_first, True),
        ("dramatiq-redis", senders_first, False),
        ("dramatiq-amqp", jobs_worker_first, True),
    ],
)
def test_a_task_becomes_a_job_while_others_stay(
    system: str, order: Callable[[Stage, Callable[[], None]], None], stops: bool, servers: Servers, tmp_path: Path
) -> None:
    with stage(system, servers, tmp_path) as made:
        operator, producer = made.operator, made.producer
        producer.wait(A_SECOND)
        for language, text in STEPS[1:]:
            if language != "sh":
                operator.write(language, text)
                continue
            (command,) = text.splitlines()
            if " worker" in command:
                order(made, lambda command=command: operator.run(command))  # type: ignore[misc]
            elif "--dry-run" in command:
                if stops:  # and then something surely waits
                    made.wait_for_a_job()
                    with made.application.at_rest():
                        operator.stop("native")
                producer.send_old(A_SECOND)
                operator.run(command)
            else:
                operator.run(command)
        if stops:
            assert _moved(operator) > 0
            operator.start_native()
        producer.wait(A_SECOND)
        made.everything_ran_once()


def _moved(operator: Operator) -> int:
    command, said = operator.said[-1]
    assert command.startswith("anyjob adopt tasks --task")
    found = re.search(r"moved (\d+) ", said)
    assert found is not None, said
    return int(found[1])


def test_jobs_in_the_workers_that_are_there(servers: Servers, tmp_path: Path) -> None:
    with stage("celery-redis", servers, tmp_path) as made:
        operator = made.operator
        for language, text in STEPS[1:3]:
            operator.write(language, text.replace('default = "jobs"', 'default = "tasks"'))
        wait_until(lambda: "discard our jobs" in operator.ask("anyjob doctor"), timeout=60, what="the warning")

        operator.stop("native")
        made.producer.send_old(A_SECOND)
        tasks = tmp_path / "shop" / "tasks.py"
        tasks.write_text(tasks.read_text() + '\napp.conf.imports = ("anyjob_celery.app",)\n')
        served = made.noted().total()
        operator.start_native()
        wait_until(lambda: made.noted().total() > served, timeout=60, what="the worker")
        assert "discard our jobs" not in operator.ask("anyjob doctor")

        operator.stop("native")
        made.producer.send_old(A_SECOND)
        operator.run(f"anyjob adopt tasks --task {SEND_MAIL}=mail.send")
        assert _moved(operator) > 0
        operator.start_native()
        made.everything_ran_once()
