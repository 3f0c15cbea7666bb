"""One application on RQ, Celery and Dramatiq at once: the example, run as its docstring says."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from celery_worlds import CeleryAmqpWorld
from rabbit import amqp_url
from redis import Redis
from servers import redis_url

from anyjob.testing.conformance.processes import WorkerProcess
from anyjob.testing.probes.journal import wait_until

EXAMPLE = Path(__file__).parents[2] / "examples" / "06_three_backends"

pytestmark = pytest.mark.timeout(90)


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[Mapping[str, str]]:
    redis, rabbit, namespace = redis_url(), amqp_url(), f"three{secrets.token_hex(4)}"
    ours: dict[str, Any] = {"REDIS_URL": redis, "AMQP_URL": rabbit, "ANYJOB_NAMESPACE": namespace}
    yield {**os.environ, **ours, "ANYJOB_CONFIG": str(EXAMPLE / "anyjob.toml"), "PYTHONPATH": str(EXAMPLE)}
    with Redis.from_url(redis) as client:
        for key in client.scan_iter(f"*{namespace}*", 1000):
            client.delete(key)
        for name in client.smembers("rq:queues"):
            if namespace.encode() in name:
                client.srem("rq:queues", name)
    celerys = CeleryAmqpWorld(f"celery+{rabbit}", tmp_path, {"namespace": namespace}, None)
    celerys.clear()
    with celerys.connect() as connection, connection.channel() as channel:
        channel.queue_delete(celerys.names.queue("mail"))


def test_each_job_goes_to_the_system_that_the_settings_name(environment: Mapping[str, str], tmp_path: Path) -> None:
    signup = [sys.executable, str(EXAMPLE / "signup.py")]
    done = subprocess.run(signup, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "enqueued 3 jobs\n"), done.stderr

    log = tmp_path / "log"
    worker = WorkerProcess([sys.executable, "-m", "anyjob", "worker", "--all"], environment, log)
    try:
        for told in ("mail to a@b.c by dramatiq", "charged 7 with 999 by celery", "built report 2026 by rq"):
            wait_until(partial(_says, log, told), timeout=30, what=f"{told!r} in the log")
        worker.terminate()
        worker.wait(timeout=30)
        assert worker.process.returncode == 0, log.read_text()
    finally:
        worker.kill()


def _says(log: Path, text: str) -> bool:
    return text in log.read_text()


def test_the_extras_go_together() -> None:
    checked = subprocess.run([sys.executable, "-m", "pip", "check"], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout
