"""What Sentry and OpenTelemetry see of a job on Celery: what they see of a native task, in the same test."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pytest
from celery_worlds import celery_amqp_harness
from sentry_server import SentryServer, sentry_server
from servers import PrivateRedis

from anyjob.testing.conformance import ServerWorld
from anyjob.testing.conformance.processes import QUEUES
from anyjob.testing.probes.journal import wait_until

pytestmark = pytest.mark.timeout(180)

TESTS: Final = Path(__file__).parents[1]
KINDS: Final = {"works": 0, "mends": 1, "fails": 9, **dict.fromkeys((f"again{number}" for number in range(2)), 9)}
"""How many tries fail; two are the most."""
ALIASES: Final = ("amqp", "redis", "app", "native")

SHOP: Final = """
from pathlib import Path
from celery import Celery

app = Celery("shop", broker={broker!r})
app.conf.update(task_default_queue="own", broker_connection_retry_on_startup=True, worker_prefetch_multiplier=1)

@app.task(bind=True, name="shop.native", max_retries=1, ignore_result=True)
def native(self, folder, label, fails):
    tries = Path(folder, label)
    with tries.open("a") as file:
        file.write("x")
    try:
        if tries.stat().st_size <= fails:
            raise LookupError(f"no {{label}}")
    except LookupError as error:
        raise self.retry(exc=error, countdown=0)
    tries.rename(tries.with_suffix(".done"))
"""


@pytest.fixture
def sentry(tmp_path: Path) -> Iterator[SentryServer]:
    with sentry_server(tmp_path) as server:
        yield server


@pytest.fixture
def world(tmp_path: Path, sentry: SentryServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[ServerWorld]:
    """Open the backends of all kinds, in an environment that is watched."""
    redis, harness = PrivateRedis(tmp_path), celery_amqp_harness()
    redis.start()
    (tmp_path / "watched_shop.py").write_text(SHOP.format(broker=redis.url))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(TESTS), str(tmp_path)]))
    for name, value in {"DSN": sentry.dsn, "CA": sentry.ca_certs, "SPANS": tmp_path / "spans"}.items():
        monkeypatch.setenv(f"WATCH_{name}", str(value))
    backends = {
        "amqp": {"url": harness.url, "queues": list(QUEUES)},
        "redis": {"url": f"celery+{redis.url}", "options": {"pool": "threads"}},
        "app": {"url": "celery://?app=watched_shop:app"},
    }
    try:
        with harness.open(tmp_path, backends=backends, default="amqp") as world:
            yield world
    finally:
        harness.close()
        redis.close()


def test_a_job_is_reported_as_a_native_task_is(world: ServerWorld, tmp_path: Path, sentry: SentryServer) -> None:
    settings = world.write_settings("celery_watch")
    worker = world.start_process("-m", "anyjob", "--config", str(settings), "worker", "--all", "-c", "1")
    sent = produce(settings, tmp_path)
    tries = sum(min(fails + 1, 2) for fails in KINDS.values()) * len(ALIASES)
    wait_until(lambda: len(spans_in(tmp_path, "run/")) == tries, timeout=60, what=f"{tries} tries to end")
    worker.terminate()
    worker.wait(timeout=30)  # what is not flushed by then is lost

    reported = {
        label: [_error(each) for each in sentry.errors if _id(each) == job_id] for job_id, label in sent.items()
    }
    expected = [{**_ERROR, "trace": _trace_of(sentry.transactions, "checkout")}]
    assert reported == {label: expected if KINDS[label.partition("-")[2]] > 1 else [] for label in sent.values()}
    ended = {label: _statuses(sentry.transactions, job_id) for job_id, label in sent.items()}
    assert ended == {label: _STATUSES[KINDS[label.partition("-")[2]]] for label in sent.values()}

    spans = spans_in(tmp_path)
    traced = {label: _way(spans, job_id) for job_id, label in sent.items()}
    native = {label.partition("-")[2]: way for label, way in traced.items() if label.startswith("native-")}
    assert native["works"] == ["checkout", "apply_async", "run SUCCESS"]
    assert native["fails"][-1] == "run FAILURE ERROR no * LookupError: no * retries=1"
    assert traced == {label: native[label.partition("-")[2]] for label in sent.values()}


_ERROR: Final = {"type": "LookupError", "value": "no *", "level": "error", "trace": ""}
_STATUSES: Final = {0: ["ok"], 1: ["aborted", "ok"], 9: ["aborted", "internal_error"]}


def _id(event: Mapping[str, Any]) -> str:
    return str(event["tags"]["celery_task_id"])


def _error(event: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what Sentry is told of an error, where its task is told apart by its name and its code."""
    (error,) = event["exception"]["values"]
    frame = error["stacktrace"]["frames"][-1]
    assert (event["transaction"], frame["function"]) in {("shop.native", "native"), (_JOB, "execute")}
    value = error["value"].replace(error["value"].split()[-1], "*")
    return {
        "type": error["type"],
        "value": value,
        "level": event["level"],
        "trace": event["contexts"]["trace"]["trace_id"],
    }


def _trace_of(transactions: Sequence[Mapping[str, Any]], name: str) -> str:
    (trace,) = {each["contexts"]["trace"]["trace_id"] for each in transactions if each["transaction"] == name}
    return str(trace)


def _statuses(transactions: Sequence[Mapping[str, Any]], job_id: str) -> Sequence[str]:
    """Return how its tries ended, in their order: all of them in the trace that they were sent in."""
    tries = {}
    for each in transactions:
        for span in each["spans"]:
            if span["op"] == "queue.process" and span["data"]["messaging.message.id"] == job_id:
                assert each["transaction"] in {"shop.native", _JOB}
                assert each["contexts"]["trace"]["trace_id"] == _trace_of(transactions, "checkout")
                tries[span["data"]["messaging.message.retry.count"]] = each["contexts"]["trace"]["status"]
    return [tries[number] for number in sorted(tries)]


def _way(spans: Sequence[Mapping[str, Any]], job_id: str) -> Sequence[str]:
    """Return the way from what it was sent in to its last try, by what began what, without its own name."""
    by_id = {span["context"]["span_id"]: span for span in spans}
    last = max(
        (each for each in spans if each["name"].startswith("run/") and each["attributes"][_MESSAGE] == job_id),
        key=lambda each: str(each["start_time"]),
    )
    way, span = list[str](), last
    while True:
        assert span["name"].partition("/")[2] in {"", "shop.native", _JOB}
        way.append(_told(span))
        if span["parent_id"] is None:
            return way[::-1]
        span = by_id[span["parent_id"]]


def _told(span: Mapping[str, Any]) -> str:
    attributes, status = span["attributes"], span["status"]
    told = [span["name"].partition("/")[0], attributes.get("celery.state")]
    told += [status["status_code"], status.get("description")] if status["status_code"] != "UNSET" else []
    told += [f"{e['attributes']['exception.type']}: {e['attributes']['exception.message']}" for e in span["events"]]
    told += [
        f"{name}={attributes[f'celery.{name}']}"
        for name in ("retries",)
        if told[0] == "run" and f"celery.{name}" in attributes
    ]
    text = " ".join(filter(None, told))
    return re.sub(r"\b(amqp|redis|app|native)-[\w-]+", "*", text)


_JOB: Final = "celery-tests.fails-first"
_MESSAGE: Final = "messaging.message.id"


def produce(settings: Path, folder: Path) -> Mapping[str, str]:
    """Send from a process of its own; return the labels by id."""
    argv = [sys.executable, str(TESTS / "celery_watch.py"), "watched_shop", str(folder), json.dumps(KINDS)]
    environment = {**os.environ, "ANYJOB_CONFIG": str(settings)}
    done = subprocess.run(argv, env=environment, cwd=folder, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    sent: dict[str, str] = json.loads(done.stdout)
    return sent


def spans_in(folder: Path, name: str = "") -> Sequence[dict[str, Any]]:
    """Return the spans whose names begin so."""
    file = folder / "spans"
    spans = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    return [span for span in spans if span["name"].startswith(name)]
