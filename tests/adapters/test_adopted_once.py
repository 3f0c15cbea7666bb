"""A mover that dies between sending and letting go leaves no job twice where the server remembers a move."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import pytest
from native_app import Jobs, message
from redis import Redis
from servers import redis_url

from anyjob import JobState
from anyjob.seams.backend import BackendConfig, JobBackend
from anyjob.seams.inspector import JobInspector
from anyjob.settings.loader import load_backend


class KilledError(Exception):
    pass


@pytest.fixture(params=["celery", "dramatiq", "rq"])
def new(request: pytest.FixtureRequest) -> Iterator[JobBackend]:
    namespace = f"once{secrets.token_hex(5)}"
    backend = load_backend(BackendConfig(alias="new", url=f"{request.param}+{redis_url()}", namespace=namespace))
    yield backend
    backend.close()
    with Redis.from_url(redis_url()) as client:
        client.delete(*client.scan_iter(f"*{namespace}*"))
        client.srem("rq:queues", *(each for each in client.smembers("rq:queues") if namespace.encode() in each), "")


def test_what_was_sent_and_is_read_again_comes_once(new: JobBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = Jobs(*map(message, range(5)), new=new)
    jobs.define()

    def die(*_: object) -> None:
        raise KilledError

    killed = jobs.manager.adoption("app", {"shop.send": "shop.send"})
    with monkeypatch.context() as patch:
        patch.setattr(JobInspector, "acknowledge", die)
        with pytest.raises(KilledError):
            killed.move()
    assert len(jobs.app.messages) == 5

    jobs.clock.step(60)
    report = jobs.adopt({"shop.send": "shop.send"}, resume=killed.run)
    assert (report.moved, report.left, report.in_doubt) == (5, 0, [])
    assert new.inspector is not None
    assert new.inspector.count()[JobState.WAITING] == 5
