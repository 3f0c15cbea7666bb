"""rq-dashboard shows our queues, and our jobs by their names, running nothing and without their arguments."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from harnesses import RQHarness
from rq_dashboard import web
from rq_dashboard.cli import make_flask_app
from servers import PrivateRedis

from anyjob_rq import EnvelopeSerializer


@pytest.mark.filterwarnings("default")  # of its dependencies
def test_rq_dashboard_shows_our_jobs_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = PrivateRedis(tmp_path)
    harness = RQHarness(server)
    try:
        with harness.open(tmp_path) as world:
            world.enqueue("secret-argument")
            world.enqueue("later", delay=3600)
            shown = _dashboard(server.url, monkeypatch)
            queue = f"{world.namespace}:default:normal"
            assert queue in {each["name"] for each in shown("queues.json")["queues"]}
            for registry in ("queued", "scheduled"):
                (job,) = shown(f"jobs/{queue}/{registry}/10/asc/1.json")["jobs"]
                assert job["description"] == "anyjob.conformance.probe"
                assert "secret-argument" not in str(job)
                assert shown(f"job/{job['id']}.json")["description"] == "anyjob.conformance.probe"
    finally:
        harness.close()


def _dashboard(url: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(web.config, "serializer", EnvelopeSerializer)  # what `--json` is for RQ's own
    app = make_flask_app(None, None, None, "")
    app.config["RQ_DASHBOARD_REDIS_URL"] = url
    web.setup_rq_connection(app)
    client = app.test_client()

    def get(path: str) -> Any:
        answer = client.get(f"/0/data/{path}")
        assert answer.status_code == 200, answer.data
        return answer.json

    return get
