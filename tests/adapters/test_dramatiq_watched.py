"""What Sentry and Prometheus see of a job on Dramatiq: what they see of an actor, in the same test."""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.request
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import pytest
from dramatiq_worlds import dramatiq_redis_harness
from prometheus_client.parser import text_string_to_metric_families
from sentry_server import error_of, sentry_server, trace_of
from servers import free_port

from anyjob.testing.conformance import ServerWorld
from anyjob.testing.probes.journal import wait_until

pytestmark = pytest.mark.timeout(120)

TESTS: Final = Path(__file__).parents[1]

SHOP: Final = """
import dramatiq, watched_jobs
from dramatiq.brokers.redis import RedisBroker
from dramatiq.middleware import default_middleware
from dramatiq.middleware.prometheus import Prometheus

broker = RedisBroker(
    url={url!r}, namespace="shop", maintenance_chance=1_000_000,
    middleware=[Prometheus(), *(kind() for kind in default_middleware if kind is not Prometheus)]
)
dramatiq.set_broker(broker)

def actor(name, function, tries):
    options = dict(max_retries=tries - 1, min_backoff=100, max_backoff=200)
    return dramatiq.actor(function, actor_name=name, queue_name="shop", **options)

works = actor("native.works", watched_jobs.work, 1)
fails = actor("native.fails", watched_jobs.fail, 1)
fails_twice = actor("native.fails-twice", watched_jobs.fail, 2)
"""

SEND: Final = """
import sentry_sdk, watched_shop, watched_jobs

with sentry_sdk.start_transaction(name="checkout"):
    for number, name in enumerate(("works", "fails", "fails_twice")):
        getattr(watched_shop, name).send(number)
        for backend, queue in (("main", "default"), ("app", "shop")):
            getattr(watched_jobs, name).using(backend=backend, queue=queue).enqueue(number)
"""


_RUNS: Final = {"works": 1, "fails": 1, "fails-twice": 2}
_COUNTED: Final = {
    **{f"dramatiq_messages_total {{}}.{job}": float(runs) for job, runs in _RUNS.items()},
    "dramatiq_message_errors_total {}.fails": 1.0,
    "dramatiq_message_errors_total {}.fails-twice": 2.0,
    "dramatiq_message_rejects_total {}.fails": 1.0,
    "dramatiq_message_rejects_total {}.fails-twice": 1.0,
    "dramatiq_message_retries_total {}.fails-twice": 1.0,
    **{f"dramatiq_messages_inprogress {{}}.{job}": 0.0 for job in _RUNS},
}
"""What Dramatiq's endpoint shows of each, by its name."""


def test_a_job_is_seen_as_an_actor_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    harness = dramatiq_redis_harness(tmp_path)
    try:
        with sentry_server(tmp_path) as sentry, harness.open(tmp_path) as world:
            monkeypatch.setenv("WATCHED_DSN", sentry.dsn)
            monkeypatch.setenv("WATCHED_CA", str(sentry.ca_certs))
            monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(TESTS), str(tmp_path)]))
            ports = start_workers(world, tmp_path, monkeypatch)
            for alias, shown in (("main", ("watched",)), ("app", ("watched", "native"))):
                expected = {metric.format(name): value for name in shown for metric, value in _COUNTED.items()}
                page = _Page(ports[alias])
                wait_until(lambda page=page, expected=expected: page.read() == expected, timeout=30, what=page.read)  # type: ignore[misc]
            wait_until(lambda: len(sentry.transactions) == 13, what="all transactions")
    finally:
        harness.close()

    assert Counter(map(error_of, sentry.errors)) == {
        ("watched.fails", "LookupError", "no 1", "fail"): 2,
        ("native.fails", "LookupError", "no 1", "fail"): 1,
        ("watched.fails-twice", "LookupError", "no 2", "fail"): 4,
        ("native.fails-twice", "LookupError", "no 2", "fail"): 2,
    }
    (sent,) = {trace_of(each)["trace_id"] for each in sentry.transactions if each["transaction"] == "checkout"}
    ended = Counter(
        (each["transaction"], trace_of(each).get("status"), trace_of(each)["trace_id"] == sent)
        for each in sentry.transactions
    )
    assert ended == {
        ("checkout", None, True): 1,
        ("watched.works", "ok", True): 2,
        ("native.works", "ok", True): 1,
        ("watched.fails", "internal_error", True): 2,
        ("native.fails", "internal_error", True): 1,
        ("native.fails-twice", "internal_error", True): 1,
        ("native.fails-twice", "internal_error", False): 1,  # its delayed messages begin a trace of their own
        ("watched.fails-twice", "internal_error", True): 3,
        ("watched.fails-twice", "internal_error", False): 1,
    }
    ours = [each["contexts"]["dramatiq"]["data"] for each in sentry.errors if each["transaction"].startswith("watched")]
    assert {str(each["args"])[:7] for each in ours} == {"['<job "}


def start_workers(world: ServerWorld, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Mapping[str, int]:
    """Send; start a worker of ours, and one of the application's with its own actors; return their pages' ports."""
    url = world.url
    (folder / "watched_shop.py").write_text(SHOP.format(url=url.partition("+")[2]))
    main = {"url": url, "options": {"middleware": ["dramatiq.middleware.prometheus:Prometheus"]}}
    app = {"url": "dramatiq://?broker=watched_shop:broker", "queues": ["shop"]}
    settings = world.write_settings("watched_jobs", backends={"main": main, "app": app}, default="main")
    environment = {**os.environ, "ANYJOB_CONFIG": str(settings)}
    subprocess.run([sys.executable, "-c", SEND], env=environment, check=True, timeout=60)
    ports = {"main": free_port(), "app": free_port()}
    for alias, port in ports.items():
        monkeypatch.setenv("dramatiq_prom_port", str(port))
        monkeypatch.setenv("dramatiq_prom_db", str(folder / f"prom-{alias}"))
        world.start_process("-m", "anyjob", "--config", str(settings), "worker", "--backend", alias)
    return ports


class _Page:
    """The metrics page of a worker, by metric and actor, without times."""

    def __init__(self, port: int) -> None:
        self._url = f"http://localhost:{port}/metrics"

    def read(self) -> Mapping[str, float]:
        try:
            with urllib.request.urlopen(self._url, timeout=5) as page:  # noqa: S310
                text = page.read().decode()
        except OSError:
            return {}
        samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
        return {
            f"{each.name} {each.labels['actor_name']}": each.value
            for each in samples
            if not each.name.startswith(("dramatiq_message_duration", "dramatiq_delayed"))
            and not each.name.endswith("_created")
            and not each.labels["queue_name"].endswith(".DQ")
        }
