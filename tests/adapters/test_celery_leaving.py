"""What waits in a Celery application's own queues is taken out, its own messages and our jobs; the rest stays."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from datetime import timedelta
from pathlib import Path

import pytest
from celery_natives import CHOSEN, WAITS, OwnApp, ReadSends, drained, own_app, running_worker
from rabbit import amqp_url, connect

from anyjob import JobFilter, JobManager, JobRegistry, JobState, UnsupportedCapabilityError, background_job
from anyjob.base.errors import InvalidOptionError
from anyjob.seams.backend import BackendConfig
from anyjob.seams.inspector import JobInspector
from anyjob.settings.loader import load_backend
from anyjob.testing.conformance.proxy import Proxy
from anyjob.testing.probes.journal import wait_until
from anyjob_amqp import read_url


@pytest.fixture(params=["redis", "amqp"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def shop(kind: str) -> Iterator[OwnApp]:
    with own_app(kind) as shop:
        yield shop


def natives(shop: OwnApp, *queues: str) -> JobInspector:
    return shop.backend().native_inspector(ReadSends(shop.clock), queues or None)


def test_what_is_taken_is_gone_and_the_rest_stays_in_order(shop: OwnApp) -> None:
    sent = [shop.send(number, task=task) for number in range(6) for task in ("shop.send", "shop.other")]
    inspector = natives(shop)
    with inspector.hold(CHOSEN, holder="mover", ahead=4) as taken:
        found = list(taken)
        assert [each.job.id for each in found] == sent[::2]
        assert inspector.acknowledge(found) == [True] * 6
    assert shop.left() == sent[1::2]


def test_a_message_of_no_job_is_told_and_stays(shop: OwnApp) -> None:
    other, hurried = shop.send(task="shop.other"), shop.send(expires=3600)
    found = drained(natives(shop))
    assert [(each.id, each.is_chosen, each.obstacle) for each in found] == [
        (other, False, None),
        (hurried, True, "It expires; a job does not."),
    ]
    assert shop.left() == [other, hurried]


def test_only_redis_shows_what_waits(shop: OwnApp, kind: str) -> None:
    sent = [shop.send(number) for number in range(3)]
    inspector = natives(shop)
    assert inspector.count() == {JobState.WAITING: 3}  # with those of ours, if there were any
    if kind == "redis":
        page = inspector.scan(JobFilter(states=WAITS), limit=2)
        assert [*page.jobs, *inspector.scan(JobFilter(states=WAITS), cursor=page.cursor).jobs] == drained(inspector)
    else:
        with pytest.raises(UnsupportedCapabilityError, match="can't list"):
            inspector.scan(JobFilter(states=WAITS))
    assert shop.left() == sent


def test_a_queue_that_cant_be_is_refused(kind: str) -> None:
    with (
        own_app(kind, task_create_missing_queues=False) as shop,
        pytest.raises(InvalidOptionError, match="no queue 'mial'"),
    ):
        natives(shop, "mial")


@pytest.mark.parametrize("url", ["celery+redis://host/0", "celery+amqp://host//"])
def test_without_an_application_the_way_out_is_told(url: str) -> None:
    backend = load_backend(BackendConfig(alias="main", url=url))
    with pytest.raises(UnsupportedCapabilityError, match=r"celery://\?app="):
        backend.native_inspector(lambda _: pytest.fail("nothing is read"))


def test_what_a_killed_holder_held_comes_back_to_its_place(shop: OwnApp, kind: str) -> None:
    sent = [shop.send(number) for number in range(5)]
    with ExitStack() as stack:
        kill = _killable(shop, kind, stack)
        context = kill.inspector.hold(CHOSEN, holder="mover", ahead=2)
        taken = context.__enter__()
        held = [next(taken), next(taken), next(taken)]
        assert kill.inspector.acknowledge(held[:1]) == [True]
        kill()
        with natives(shop).hold(CHOSEN, holder="mover", ahead=2) as again:
            assert [each.job.id for each in again] == sent[1:]
        assert shop.left() == sent[1:]
        stack.callback(context.__exit__, None, None, None)


class _Killable:
    """An inspector whose holder dies when this is called."""

    def __init__(self, inspector: JobInspector, die: Callable[[], object]) -> None:
        self.inspector = inspector
        self._die = die

    def __call__(self) -> None:
        self._die()


def _killable(shop: OwnApp, kind: str, stack: ExitStack) -> _Killable:
    if kind == "redis":
        return _Killable(natives(shop), lambda: None)  # a process that does nothing more
    server = read_url(amqp_url(), "tests")
    proxy = stack.enter_context(closing(Proxy(server.host, server.port)))
    there = OwnApp(shop.name, f"amqp://{server.user}:{server.password}@127.0.0.1:{proxy.port}//", {})
    stack.callback(there.close)
    return _Killable(natives(there), proxy.cut)


@pytest.mark.timeout(120)
def test_what_a_worker_took_ahead_is_back_when_it_is_stopped(shop: OwnApp, tmp_path: Path) -> None:
    sent = [shop.send(number, countdown=3600) for number in range(3)]
    due = [each.due_at for each in shop.read().values()]
    with running_worker(shop, tmp_path, "holds@here", "shop.send") as worker:
        wait_until(lambda: not shop.read(), what="the worker to have all of them in its memory")
        worker.terminate()
        worker.wait()
    assert {each.id: each.due_at for each in shop.read().values()} == dict(zip(sent, due, strict=True))


@pytest.fixture
def manager(shop: OwnApp) -> Iterator[JobManager]:
    registry = JobRegistry()

    @background_job("shop.job", registry=registry)
    def job(number: int) -> None: ...

    memory = load_backend(BackendConfig(alias="memory", url="memory:", clock=shop.clock))
    backends = {"app": shop.backend(), "memory": memory, "again": shop.backend()}
    manager = JobManager(backends, registry=registry, clock=shop.clock)
    yield manager
    manager.close()


def test_our_jobs_leave_and_the_applications_messages_stay(manager: JobManager, shop: OwnApp) -> None:
    jobs, others = [], []
    for number in range(4):
        jobs.append(manager.enqueue_by_name("shop.job", {"number": number}, delay=60 * (number % 2)))
        others.append(shop.send(number))
    preview = manager.migration("app", "memory").preview()
    report = manager.migration("app", "memory").move()
    assert [(each.moved, each.left, each.foreign) for each in (preview, report)] == [(4, 0, 0)] * 2
    moved = {each.id: each for each in manager.inspect("memory").scan(JobFilter()).jobs}
    assert [*moved] == jobs
    later = moved[jobs[1]].envelope
    assert later is not None
    assert later.due_at == shop.clock.now() + timedelta(seconds=60)
    assert shop.left() == others


def test_a_queue_that_only_a_call_named_is_emptied_by_another_process(
    manager: JobManager, shop: OwnApp, kind: str
) -> None:
    queue = f"{shop.name}_named"
    for number in range(2):
        manager.enqueue_by_name("shop.job", {"number": number}, queue=queue)
    settings = {"broker_transport_options": shop.app.conf.broker_transport_options}
    with closing(OwnApp(shop.name, shop.broker, settings)) as there:
        inspector = there.backend().inspector
        assert inspector is not None
        with inspector.hold(JobFilter(states=WAITS), holder="mover", ahead=5) as taken:
            found = list(taken)
            assert [each.job.envelope and each.job.envelope.queue for each in found] == [queue] * 2
            assert inspector.acknowledge(found) == [True] * 2
    if kind == "amqp":
        with closing(connect(shop.broker)) as connection, connection.channel() as channel:
            channel.queue_delete(queue)
            channel.exchange_delete(queue)


def test_a_message_that_is_almost_ours_is_foreign(manager: JobManager, shop: OwnApp) -> None:
    sent = shop.send("no envelope", task="anyjob.run")
    report = manager.migration("app", "memory").move()
    assert (report.moved, report.foreign) == (0, 1)
    assert shop.read() == {}
    assert shop.left() == [sent]


def test_an_application_is_one_place_by_any_alias(manager: JobManager, shop: OwnApp) -> None:
    sent = manager.enqueue_by_name("shop.job", {"number": 1})
    with pytest.raises(InvalidOptionError, match="are one place"):
        manager.migration("app", "again").move()
    assert shop.left() == [sent]


@pytest.mark.parametrize("kind", ["redis"], indirect=True)
def test_on_redis_our_jobs_are_seen_and_cancelled(manager: JobManager, shop: OwnApp) -> None:
    other = shop.send()
    job, later = (manager.enqueue_by_name("shop.job", {"number": 1}, delay=delay) for delay in (0, 60))
    inspector = manager.inspect("app")
    assert [(each.id, each.state) for each in inspector.scan(JobFilter()).jobs] == [
        (job, JobState.WAITING),
        (later, JobState.SCHEDULED),
    ]
    assert inspector.cancel(job)
    assert inspector.run_now(later)
    assert not inspector.cancel(other)
    assert inspector.count() == {JobState.ABANDONED: 0}
    assert shop.left() == [other, later]


@pytest.mark.parametrize("kind", ["amqp"], indirect=True)
def test_on_rabbitmq_what_waits_is_only_moved(manager: JobManager, shop: OwnApp) -> None:
    sent = manager.enqueue_by_name("shop.job", {"number": 1})
    inspector = manager.inspect("app")
    with pytest.raises(UnsupportedCapabilityError, match="can't take out waiting"):
        inspector.cancel(sent)
    with pytest.raises(UnsupportedCapabilityError, match="can't list waiting"):
        inspector.scan(JobFilter(states=frozenset({JobState.WAITING})))
    assert shop.left() == [sent]
