"""The page "Change your broker", run from top to bottom while a producer goes on."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from anyjob import JobManager, JobRegistry
from anyjob.settings import load_settings
from anyjob.settings.compose import build
from anyjob.testing.conformance.processes import WorkerProcess
from anyjob.testing.probes.journal import wait_until

PAGE = Path(__file__).parents[2] / "docs" / "change_your_broker.md"
STEPS = re.findall(r"^```(toml|sh)\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
COMMANDS = [line for language, text in STEPS if language == "sh" for line in text.splitlines()]

SHOP = """
import os
from anyjob import background_job

@background_job("shop.sell")
def sell(number: int) -> None:
    with open(os.environ["SOLD"], "a") as file:
        file.write(f"{number}\\n")
"""

A_SECOND = 100
"""How many jobs are enqueued in a second."""

pytestmark = pytest.mark.timeout(170)


class Producer:
    """Enqueues a job each hundredth of a second, every tenth of them for later; settings change under it."""

    def __init__(self) -> None:
        self.sent = 0
        self._manager: JobManager | None = None
        self._lock = threading.Lock()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def deploy(self, settings: Path, environment: Mapping[str, str]) -> None:
        """Go on with new settings, as a restarted process would."""
        loaded = load_settings({"imports": []}, environ=environment, directory=Path("/"), config=settings)
        assert loaded is not None
        with self._lock:
            if self._manager is None:
                self._thread.start()
            else:
                self._manager.close()
            self._manager = build(loaded, registry=JobRegistry())
            self._manager.registry.register_handler("shop.sell", lambda _: None)

    def wait(self, count: int) -> None:
        """Wait until so many more were sent."""
        until = self.sent + count
        wait_until(lambda: self.sent >= until, timeout=30, what=f"{count} more jobs to be sent")

    def end(self) -> None:
        self._end.set()
        if self._manager is not None:
            self._thread.join()
            self._manager.close()

    def _run(self) -> None:
        while not self._end.wait(1 / A_SECOND):
            with self._lock:
                assert self._manager is not None
                delay = 1 + self.sent % 5 if self.sent % 10 == 0 else None
                self._manager.enqueue_by_name("shop.sell", {"number": self.sent}, delay=delay)
                self.sent += 1


class Operator:
    """Does what the page says."""

    def __init__(self, folder: Path, environment: Mapping[str, str], producer: Producer) -> None:
        self.folder = folder
        self.said: list[tuple[str, str]] = []
        self._environment = environment
        self._producer = producer
        self._worker: WorkerProcess | None = None

    def write(self, settings: str) -> None:
        file = self.folder / "anyjob.toml"
        file.write_text(settings)
        self._producer.deploy(file, self._environment)

    def run(self, command: str) -> None:
        argv = [sys.executable, "-m", *shlex.split(command)]
        if argv[3] == "worker":
            self._exchange(argv)
            return
        said = self._ask(argv)
        if argv[3] == "count":  # what ran at that moment ends, and then all are zeros
            wait_until(lambda: self._ask(argv).split()[-2] in ("0", "?"), timeout=30, what="zeros")
            said = self._ask(argv)
        self.said.append((command, said))

    def _ask(self, argv: Sequence[str]) -> str:
        done = subprocess.run(
            argv, env=self._environment, cwd=self.folder, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, (argv, done.stdout, done.stderr)
        return done.stdout

    def end(self) -> None:
        if self._worker is not None:
            self._stop(self._worker)

    def kill(self) -> None:
        if self._worker is not None:
            self._worker.kill()

    def _exchange(self, argv: Sequence[str]) -> None:
        before = self._worker
        log = self.folder / f"worker-{len(list(self.folder.glob('worker-*')))}.log"
        self._worker = WorkerProcess(argv, self._environment, log)
        self._producer.wait(A_SECOND)  # as long as one looks whether the new one works
        if before is not None:
            self._stop(before)

    @staticmethod
    def _stop(worker: WorkerProcess) -> None:
        worker.terminate()
        worker.wait(30)
        assert worker.process.returncode == 0, worker.log.read_text()


def test_the_broker_is_changed_without_a_stop_and_back(environment: Mapping[str, str], tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(SHOP)
    producer = Producer()
    operator = Operator(tmp_path, environment, producer)
    try:
        for language, text in STEPS:
            if language == "toml":
                operator.write(text)
                producer.wait(A_SECOND)
            else:
                for command in text.splitlines():
                    operator.run(command)
        producer.end()
        sold = tmp_path / "sold"
        wait_until(lambda: len(set(sold.read_text().split())) == producer.sent, timeout=40, what="all jobs to be run")
        operator.end()
    finally:
        producer.end()
        operator.kill()
    ran = Counter(map(int, sold.read_text().split()))
    assert set(ran) == set(range(producer.sent))
    assert producer.sent > len(STEPS) * A_SECOND // 2
    assert ran.total() == producer.sent  # nobody was killed: nothing ran twice
    counts = [text for command, text in operator.said if "count" in command]
    assert len(counts) == 2
    for text in counts:
        waiting, scheduled, running, abandoned = text.split()[-4:]
        assert (waiting, scheduled, abandoned) == ("0", "0", "0"), text
        assert running in ("0", "?"), text  # RabbitMQ doesn't tell
