"""What `anyjob doctor` finds on the broker, and in the workers, of a Celery application of the user's own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest
from celery_natives import OwnApp, own_app
from kombu import Queue
from servers import free_port

from anyjob import EnqueueError
from anyjob.testing.probes.journal import wait_until

WORKER: Final = """
import os
from celery import Celery

app = Celery("worker", broker={broker!r})
app.conf.update(
    task_default_queue={name!r},
    control_exchange={name!r},
    broker_transport_options={options!r},
    worker_enable_remote_control=True,
)
if "KNOWS" in os.environ:
    def run(envelope):
        pass

    app.task(run, name="anyjob.run")
"""


@pytest.fixture(params=["redis", "amqp"])
def shop(request: pytest.FixtureRequest) -> Iterator[OwnApp]:
    with own_app(str(request.param)) as shop:
        yield shop


@contextmanager
def worker(shop: OwnApp, folder: Path, host: str, **environment: str) -> Iterator[None]:
    """Run a worker of the application's, which has a program of its own."""
    options = shop.app.conf.broker_transport_options
    program = WORKER.format(broker=shop.broker, name=shop.name, options=options)
    (folder / f"of_{shop.name}.py").write_text(program)
    argv = [sys.executable, "-m", "celery", "-A", f"of_{shop.name}", "worker", "-P", "solo", "-n", host]
    process = subprocess.Popen(
        [*argv, "--without-gossip", "--without-mingle"],
        cwd=folder,
        env={**os.environ, **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_until(lambda: host in (shop.app.control.inspect(timeout=0.5).ping() or {}), timeout=60, what=host)
        yield
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


@pytest.mark.timeout(120)
def test_workers_that_would_discard_our_jobs_are_named(shop: OwnApp, tmp_path: Path) -> None:
    shop.app.conf.task_default_priority = 3
    backend = shop.backend()
    assert backend.look_for_risks() == []
    with worker(shop, tmp_path, "knows@here", KNOWS="1"):
        assert backend.look_for_risks() == []
        with worker(shop, tmp_path, "lacks@here"):
            (risk,) = backend.look_for_risks()
    assert risk.startswith("imports: lacks@here discard our jobs")


@pytest.mark.filterwarnings("ignore:.*'priority' task attribute")  # deprecated, and there until Celery 6
def test_a_task_that_comes_before_our_high_jobs_is_named() -> None:
    with own_app("amqp") as shop:
        shop.app.conf.task_queues = [Queue(shop.name, max_priority=10)]

        def work() -> None: ...

        for name, options in {"shop.usual": {}, "shop.urgent": {"priority": 9}}.items():
            shop.app.task(work, name=name, shared=False, **options)  # else every application of this process gets it
        (risk,) = shop.backend().look_for_risks()
        assert risk.startswith(f"shop.urgent.priority: 9 is sooner than our HIGH jobs (4) in {shop.name}")


@pytest.mark.parametrize("scheme", ["redis", "amqp"])
def test_a_broker_that_is_away_is_told(scheme: str) -> None:
    with own_app(scheme) as shop:
        shop.app.conf.broker_url = f"{scheme}://:secret@127.0.0.1:{free_port()}//"
        with pytest.raises(EnqueueError) as caught:
            shop.backend().look_for_risks()
        assert "secret" not in str(caught.value)
