"""A machine whose clock differs from the server's: nothing is promoted early, nothing spins, and it is said."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from itertools import pairwise

import pytest

pytest.importorskip("dramatiq")
pytest.importorskip("rq")

from envelopes import make_envelope
from servers import PrivateRedis

from anyjob import JobManager, JobRegistry, SystemClock
from anyjob.base.envelope import JobEnvelope
from anyjob.cli.doctor import Verdict, examine
from anyjob.seams.backend import BackendConfig
from anyjob.seams.stored import JobFilter, JobState
from anyjob.testing import FakeClock
from anyjob.testing.probes.journal import wait_until
from anyjob_dramatiq.redis_backend import DramatiqRedisBackend
from anyjob_redis import ClockSkew
from anyjob_rq import RQBackend, RQSimpleJobWorker

pytestmark = pytest.mark.timeout(60)

Backend = RQBackend | DramatiqRedisBackend
MAKERS: dict[str, Callable[[BackendConfig], Backend]] = {"rq": RQBackend, "dramatiq": DramatiqRedisBackend}
HOUR = 3600.0


class SetClock(SystemClock):
    """The clock of a machine on which somebody set it."""

    def __init__(self, ahead: float) -> None:
        self._ahead = timedelta(seconds=ahead)

    def now(self) -> datetime:
        return SystemClock.now() + self._ahead


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateRedis]:
    server = PrivateRedis(tmp_path_factory.mktemp("redis")).start()
    yield server
    server.kill()


@pytest.fixture(params=MAKERS)
def backend_at(request: pytest.FixtureRequest, server: PrivateRedis) -> Iterator[Callable[[float], Backend]]:
    made: list[Backend] = []

    def make(ahead: float) -> Backend:
        url = f"{request.param}+{server.url}"
        made.append(MAKERS[request.param](BackendConfig(alias="main", url=url, clock=SetClock(ahead))))
        return made[-1]

    with server.client() as client:
        client.flushall()
    yield make
    for each in made:
        each.close()


def promote(backend: Backend) -> object:
    return backend.messages.promote() if isinstance(backend, RQBackend) else backend.messages.scheduled.promote()


def test_a_clock_that_is_ahead_promotes_nothing_early(backend_at: Callable[[float], Backend]) -> None:
    here, ahead = backend_at(0.0), backend_at(HOUR)
    now = SystemClock().now()
    here.send([make_envelope(now, "later", delay=timedelta(seconds=HOUR / 2))])
    here.send([make_envelope(now, "soon", delay=timedelta(seconds=0.2))])

    def promoted() -> bool:
        promote(ahead)
        return here.inspector.count()[JobState.WAITING] == 1 and SystemClock().now() > now + timedelta(seconds=0.2)

    wait_until(promoted)
    found = {job.id: job.state for job in here.inspector.scan(JobFilter()).jobs}
    assert found == {"soon": JobState.WAITING, "later": JobState.SCHEDULED}


def test_the_doctor_and_the_log_tell_of_clocks_that_differ(
    backend_at: Callable[[float], Backend], caplog: pytest.LogCaptureFixture
) -> None:
    for ahead, told in ((HOUR, "3600.0 s ahead of"), (-HOUR, "3600.0 s behind"), (0.0, "")):
        backend = backend_at(ahead)
        manager = JobManager(backend, registry=JobRegistry())
        risks = [each.told for each in examine(manager) if each.verdict is Verdict.RISK]
        assert [told in each for each in risks] == [True] * bool(told)
    caplog.clear()
    skew = ClockSkew(backend_at(HOUR).client, SetClock(HOUR))
    with caplog.at_level(logging.WARNING):
        assert 3590 < skew.measure() < 3610
        skew.measure()
    assert caplog.text.count("ahead of the one of Redis") == 1


def test_a_clock_that_a_test_moves_is_none_of_a_machine(server: PrivateRedis) -> None:
    with server.client() as client:
        assert ClockSkew(client, FakeClock()).risks() == ()


def test_a_worker_whose_clock_is_behind_goes_easy_on_what_it_finds_early(
    server: PrivateRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    with server.client() as client:
        client.flushall()
    here, behind = (
        RQBackend(BackendConfig(alias="main", url=f"rq+{server.url}", clock=SetClock(ahead))) for ahead in (0.0, -HOUR)
    )
    manager = JobManager(behind, registry=JobRegistry(), clock=SetClock(-HOUR))
    ran: list[object] = []
    manager.registry.register_handler("note", ran.append)
    sent_back: list[float] = []
    resend = behind.resend

    def note_and_resend(envelope: JobEnvelope) -> None:
        sent_back.append(time.monotonic())
        resend(envelope)

    monkeypatch.setattr(behind, "resend", note_and_resend)
    now = SystemClock().now()
    here.send([make_envelope(now, "soon", delay=timedelta(seconds=0.1))])
    worker = RQSimpleJobWorker("*", backend=behind, executor=manager.executor)
    thread = threading.Thread(target=worker.work, daemon=True)
    thread.start()

    def came_thrice() -> bool:
        promote(here)
        return len(sent_back) >= 3

    try:
        wait_until(came_thrice)
        here.send([make_envelope(now, "at-once")])
        wait_until(lambda: ran)
    finally:
        worker._stop_requested = True  # noqa: SLF001
        thread.join(10)
    assert all(later - earlier > 0.9 for earlier, later in pairwise(sent_back))
    manager.close()
    here.close()
