"""RQ's monitors, opened page by page while jobs wait, run, fail and retry: by their names, without their arguments."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import pytest
from click.testing import CliRunner
from rq import Worker
from rq.cli.cli import main
from rq.serializers import DefaultSerializer, JSONSerializer
from rq_dashboard import web
from rq_dashboard.cli import make_flask_app
from rq_world import World
from servers import PrivateRedis

from anyjob import JobState
from anyjob.testing.probes.journal import wait_until

REGISTRIES = ("queued", "started", "scheduled", "failed", "deferred", "finished", "canceled")


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A job runs, one waits, one is for later, one failed and is to be tried again, one was given up."""
    server, folder = PrivateRedis(tmp_path_factory.mktemp("redis")).start(), tmp_path_factory.mktemp("world")
    with ExitStack() as stack:
        stack.callback(server.kill)
        world = stack.enter_context(World(server.url, folder))
        world.start_worker("fails")
        world.start_worker("default")
        world.send("fail", word="secret", queue="fails")
        wait_until(lambda: world.backend.inspector.count()[JobState.ABANDONED] == 1, what="a job to be given up")
        world.send("fail-later", word="secret", queue="fails")
        wait_until(lambda: world.ran("fail-later"), what="a try to fail")
        world.send("listen", word="secret")
        wait_until(lambda: world.ran("begin"), what="a job to run")
        world.send("say", word="secret")
        world.manager.enqueue_by_name("say", {"word": "secret"}, delay=3600)
        yield world


@pytest.mark.filterwarnings("default")  # of its dependencies
@pytest.mark.parametrize("serializer", [DefaultSerializer, JSONSerializer], ids=["", "--json"])
def test_rq_dashboard_shows_our_jobs_by_name(
    watched: World, serializer: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web.config, "serializer", serializer)
    pages = _Pages(watched.url)
    for page in ("", "0/view/queues", "0/view/workers", "0/view/jobs"):
        pages.open(page)
    queues = [each["name"] for each in pages.read("queues.json")["queues"]]
    default, fails = (f"{watched.namespace}:{each}:normal" for each in ("default", "fails"))
    assert {default, fails} <= set(queues)
    jobs = {
        (queue.split(":")[1], registry, job["description"]): job["id"]
        for queue in queues
        for registry in REGISTRIES
        for order in ("asc", "dsc")
        for job in pages.jobs(queue, registry, order)
    }
    assert jobs.keys() == {
        ("default", "queued", "say"),
        ("default", "scheduled", "say"),
        ("default", "started", "listen"),
        ("fails", "scheduled", "fail-later"),
    }
    states = {}
    for (_, registry, name), job_id in jobs.items():
        pages.open(f"0/view/job/{job_id}")
        job = pages.read(f"job/{job_id}.json")
        assert job["description"] == name
        states[registry, name] = job["status"]
    assert set(states.values()) == {"queued", "scheduled", "started"}

    (busy,) = [each for each in pages.read("workers.json")["workers"] if each["current_job"] != "idle"]
    assert (busy["state"], busy["queues"][0]) == ("busy", f"{watched.namespace}:default:high")
    assert busy["current_job"]["job_id"] == jobs["default", "started", "listen"]
    assert busy["current_job"]["description"] == "listen"
    assert "listen" in busy["current_job"]["call_string"]
    assert "secret" not in pages.seen


def test_rq_info_shows_our_queues_and_workers(watched: World) -> None:
    default = f"{watched.namespace}:default:normal"
    plain, raw = _info(watched), _info(watched, "--raw")
    assert re.search(rf"{default}.* 1, 1 executing, 0 finished, 0 failed", plain)
    assert f"queue {default} 1, 1 executing, 0 finished, 0 failed" in raw
    for said in (plain, raw, _info(watched, "-W"), _info(watched, "-W", "--raw"), _info(watched, default)):
        assert re.search(r"busy .*jobs: 0 finished, 0 failed", said)
    assert re.search(r"idle .*jobs: 0 finished, 3 failed", plain)
    assert re.search(rf"{default}: +\w+ \(busy\)", _info(watched, "-R"))
    assert "busy" not in _info(watched, "-Q")
    assert default in _info(watched, "-Q", "--raw")
    assert "1 executing" in _info(watched, "-S", "json", default)
    assert "secret" not in plain + raw


def test_rq_reads_what_its_workers_run(watched: World) -> None:
    (busy,) = [each for each in Worker.all(connection=watched.client) if each.get_state() == "busy"]
    job = busy.get_current_job()
    assert job is not None
    assert (job.description, job.args) == ("listen", ("listen",))


class _Pages:
    """The pages of rq-dashboard as its command line serves them."""

    def __init__(self, url: str) -> None:
        self.seen = ""
        app = make_flask_app(None, None, None, "")
        app.config["RQ_DASHBOARD_REDIS_URL"] = url
        web.setup_rq_connection(app)
        self._client = app.test_client()

    def open(self, path: str) -> Any:
        answer = self._client.get(f"/{path}", follow_redirects=True)
        assert answer.status_code == 200, (path, answer.data)
        self.seen += answer.get_data().decode(errors="replace")
        return answer

    def read(self, path: str) -> Any:
        return self.open(f"0/data/{path}").json

    def jobs(self, queue: str, registry: str, order: str) -> Sequence[dict[str, Any]]:
        self.open(f"0/view/jobs/{queue}/{registry}/8/{order}/1")
        jobs: list[dict[str, Any]] = self.read(f"jobs/{queue}/{registry}/8/{order}/1.json")["jobs"]
        return jobs


def _info(world: World, *argv: str) -> str:
    done = CliRunner().invoke(main, ["info", "--url", world.url, *argv], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output
