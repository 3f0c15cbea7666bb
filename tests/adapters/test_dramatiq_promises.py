"""What Dramatiq does otherwise by itself, and where people look: each promise on both transports."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dramatiq_worlds import dramatiq_harness, message

from anyjob.seams.stored import JobState
from anyjob.testing.conformance import ServerHarness
from anyjob.testing.probes.jobs import NAME, Failing, FailingOnce
from anyjob.testing.probes.journal import wait_until

pytestmark = pytest.mark.timeout(90)


@pytest.fixture(scope="module", params=["redis", "amqp"])
def harness(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerHarness]:
    made = dramatiq_harness(request.param, tmp_path_factory.mktemp("server"))
    yield made
    made.close()


@pytest.fixture
def world(harness: ServerHarness, tmp_path: Path) -> Iterator[Any]:
    with harness.open(tmp_path) as world:
        yield world


def test_what_cant_be_decoded_strands_none_of_its_neighbours(world: Any) -> None:
    for number in range(4):
        world.enqueue(f"{number}")
        world.put(b'"no envelope"')
    gate = world.new_gate()
    for number in range(2):  # while threads are busy, nothing is held that could be stranded
        world.manager.enqueue(world.probe(f"busy-{number}", gate=str(gate)))
    world.start_worker(concurrency=4)
    world.journal.wait(6, "begin")
    assert len(world.wait_parked(4)) == 4
    gate.touch()
    world.journal.wait(6)


SPINNING = """
from anyjob import background_job

@background_job("shop.spins", time_limit=0.5, retry=None)
def spins():
    while True:
        pass

@background_job("shop.waits", time_limit=0.5, retry=None)
async def waits():
    import asyncio
    await asyncio.sleep(60)
"""


def test_time_limits_end_jobs_of_both_kinds(harness: ServerHarness, tmp_path: Path, monkeypatch: Any) -> None:
    module = f"spinning{secrets.token_hex(4)}"
    (tmp_path / f"{module}.py").write_text(SPINNING)
    monkeypatch.syspath_prepend(tmp_path)
    with harness.open(tmp_path) as world:
        world.start_worker(imports=[module], concurrency=2)
        world.manager.enqueue_many([world.envelope("shop.spins"), world.envelope("shop.waits")])
        parked = world.wait_parked(2)
        assert all(each.failure and "0.5" in each.failure.message for each in parked), parked


METRICS = """
from dramatiq.middleware.prometheus import Prometheus

class Counted(Prometheus):
    # Without the process that serves the metrics at a port: the samples are written down.
    forks = ()

    def after_process_message(self, broker, message, *, result=None, exception=None):
        super().after_process_message(broker, message, result=result, exception=exception)
        self.write()

    def after_nack(self, broker, message):
        super().after_nack(broker, message)
        self.write()

    def write(self):
        kinds = (self.total_messages, self.total_errored_messages, self.total_retried_messages)
        with open({path!r}, "w") as file:
            for metric in (*kinds, self.total_rejected_messages):
                for sample in metric.collect()[0].samples:
                    print(sample.name, *sample.labels.values(), sample.value, file=file)
"""


def test_monitors_see_the_jobs_by_their_names(
    harness: ServerHarness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("prometheus_client")
    seen, module = tmp_path / "metrics", f"counted{secrets.token_hex(4)}"
    (tmp_path / f"{module}.py").write_text(METRICS.format(path=str(seen)))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delenv("PROMETHEUS_MULTIPROC_DIR", raising=False)
    options = {"middleware": [f"{module}:Counted"]}
    with harness.open(tmp_path, backends={"main": {"url": harness.url, "options": options}}) as world:
        world.start_worker()
        world.enqueue("a")
        world.journal.wait(1)

        world.manager.enqueue(Failing(str(world.journal.path), "b", times=1))
        world.manager.enqueue(FailingOnce(str(world.journal.path), "c"))
        told = {
            f"dramatiq_messages_total default {NAME}.probe 1.0",
            f"dramatiq_messages_total default {NAME}.failing 2.0",
            f"dramatiq_messages_total default {NAME}.failing-once 1.0",
            f"dramatiq_message_errors_total default {NAME}.failing 1.0",
            f"dramatiq_message_errors_total default {NAME}.failing-once 1.0",
            f"dramatiq_message_retries_total default {NAME}.failing 1.0",
            f"dramatiq_message_rejects_total default {NAME}.failing-once 1.0",
        }

        def counted() -> set[str]:
            lines = seen.read_text().splitlines() if seen.exists() else []
            return {line for line in lines if "_created " not in line}

        wait_until(lambda: counted() == told, what=lambda: f"{counted() ^ told}")


def test_the_log_has_names_and_no_arguments(world: Any) -> None:
    world.start_worker()
    world.put(message("default", {"password": "hunter2"}))
    args = json.dumps({"journal": str(world.journal.path), "label": "hunter2"}).encode()
    world.manager.enqueue_many([world.envelope(f"{NAME}.hopeless", args)])
    world.wait_parked(2)
    log = next(world.folder.glob("worker-*.log"))
    wait_until(lambda: "Failed to process message" in log.read_text(), what="Dramatiq's own line")
    assert f"{NAME}.hopeless" in log.read_text()
    assert "hunter2" not in log.read_text()
    assert world.manager.inspect().count()[JobState.ABANDONED] == 2
