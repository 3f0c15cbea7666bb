"""What Sentry sees of a job on RQ: what it sees of a native one, in the same test."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any, Final

import pytest
from rq_world import World
from sentry_server import error_of, sentry_server, trace_of
from servers import redis_url

from anyjob import JobState
from anyjob.testing.probes.journal import wait_until

pytestmark = pytest.mark.timeout(120)

COUNT: Final = 20

SEND: Final = f"""
import sentry_sdk, watched_jobs
from redis import Redis
from rq import Queue, Retry

with sentry_sdk.start_transaction(name="checkout"):
    for number in range({COUNT}):
        watched_jobs.fails.enqueue(number)
    watched_jobs.works.enqueue(0)
    watched_jobs.fails_twice.enqueue(0)
    native = Queue(QUEUE, connection=Redis.from_url(URL))
    native.enqueue(watched_jobs.work, 0)
    native.enqueue(watched_jobs.fail, 0)
    native.enqueue(watched_jobs.fail, 0, retry=Retry(max=1))
"""

WORK: Final = """
import watched_jobs
from redis import Redis
from rq import Worker

Worker([QUEUE], connection=Redis.from_url(URL)).work(burst=True)
"""


def test_a_job_is_reported_as_a_native_one_is(tmp_path: Path) -> None:
    with sentry_server(tmp_path) as sentry, World(redis_url(), tmp_path) as world:
        watched: dict[str, Any] = {
            "WATCHED_DSN": sentry.dsn,
            "WATCHED_CA": str(sentry.ca_certs),
            "ANYJOB_APP": "watched_jobs",
        }
        names = f"QUEUE, URL = {world.namespace + '-native'!r}, {world.url!r}"

        def run(script: str) -> None:
            environment = {**os.environ, **world.environment(), **watched}
            command = [sys.executable, "-c", names + script]
            subprocess.run(command, env=environment, check=True, timeout=60, capture_output=True)

        run(SEND)
        worker = world.start_worker(**watched)
        run(WORK)
        wait_until(lambda: world.backend.inspector.count()[JobState.ABANDONED] == COUNT + 1, timeout=60, what="the end")
        worker.terminate()
        assert worker.wait() == 0

    (trace,) = {trace_of(each)["trace_id"] for each in sentry.transactions if each["transaction"] == "checkout"}
    assert {trace_of(each)["trace_id"] for each in (*sentry.errors, *sentry.transactions)} == {trace}
    ours = [each for each in sentry.errors if each["transaction"].startswith("watched.")]
    assert Counter(map(error_of, ours)) == {
        **{("watched.fails", "LookupError", f"no {number}", "fail"): 1 for number in range(COUNT)},
        ("watched.fails-twice", "LookupError", "no 0", "fail"): 1,
    }
    theirs = [each for each in sentry.errors if each not in ours]
    assert Counter(map(error_of, theirs)) == {("watched_jobs.fail", "LookupError", "no 0", "fail"): 2}
    assert {each["extra"]["rq-job"]["func"] == each["transaction"] for each in theirs} == {True}
    assert {each["extra"]["job_name"] == each["transaction"] for each in ours} == {True}  # Sentry cuts it to ten keys

    ended = Counter((each["transaction"], trace_of(each).get("status")) for each in sentry.transactions)
    native = {name: status for name, status in ended if name.startswith("watched_jobs.")}
    assert ended == {
        ("checkout", None): 1,
        ("watched.works", native["watched_jobs.work"]): 1,
        ("watched.fails", native["watched_jobs.fail"]): COUNT,
        ("watched.fails-twice", native["watched_jobs.fail"]): 2,
        ("watched_jobs.work", native["watched_jobs.work"]): 1,
        ("watched_jobs.fail", native["watched_jobs.fail"]): 3,
    }
