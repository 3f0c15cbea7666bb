"""Celery's settings: ours, which are safe; those of an application of the user's own, whose risks are told."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from envelopes import make_envelope
from kombu import Queue

from anyjob import ConfigurationError, InvalidOptionError, JobRegistry, background_job
from anyjob.base.envelope import write_envelope
from anyjob.run.executor import JobExecutor
from anyjob.seams.backend import BackendConfig, NativeCommand
from anyjob.seams.capabilities import Quality
from anyjob.seams.stored import JobState
from anyjob.seams.worker_options import WorkerOptions
from anyjob.settings.loader import load_backend
from anyjob_celery import OwnCeleryBackend
from anyjob_celery.existing import ExistingCeleryBackend
from anyjob_celery.frame import body_of, headers_of
from anyjob_celery.task import AddJobTasks, JobTask, OpenedMessage

REDIS, AMQP = "celery+redis://:secret@host/0", "celery+amqp://me:secret@host//"


def own(url: str, **config: Any) -> OwnCeleryBackend:
    backend = load_backend(BackendConfig(alias="main", url=url, **config))
    assert isinstance(backend, OwnCeleryBackend)
    return backend


def application(backend: OwnCeleryBackend, registry: JobRegistry | None = None) -> Celery:
    return backend.application(JobExecutor(registry or JobRegistry()), stop_timeout=1.0)


@pytest.mark.parametrize("url", [REDIS, AMQP])
def test_our_application_is_safe(url: str) -> None:
    conf = application(own(url)).conf
    assert conf.task_acks_late is True
    assert conf.task_reject_on_worker_lost is True
    assert conf.worker_prefetch_multiplier == 1
    assert conf.accept_content == ["json"]
    assert conf.worker_enable_remote_control is True


def test_the_log_of_anyjob_stays_where_an_application_sets_it_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Celery replaces the handlers of the root logger unless told not to, and makes loggers children of its own."""
    root = logging.getLogger()
    ours = logging.getLogger("anyjob")
    assert logging.getLogger("anyjob.worker").parent is ours
    monkeypatch.setattr(root, "handlers", [])
    assert application(own(REDIS)).conf.worker_hijack_root_logger is True
    monkeypatch.setattr(root, "handlers", [logging.NullHandler()])
    assert application(own(REDIS)).conf.worker_hijack_root_logger is False
    told = {"worker_hijack_root_logger": True}
    assert application(own(REDIS, options=told)).conf.worker_hijack_root_logger is True


def test_an_environment_of_celerys_does_not_lead_astray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CELERY_BROKER_URL", "redis://elsewhere/0")
    app = application(own(REDIS))
    assert "host" in app.connection_for_read().as_uri()
    assert "host" in app.connection_for_write().as_uri()


@pytest.mark.parametrize(("url", "name"), [(REDIS, "{}"), (AMQP, "shop.{}")])
def test_queues(url: str, name: str) -> None:
    registry = JobRegistry()

    @background_job("shop.mail", queue="mail", registry=registry)
    def mail() -> None: ...

    queues = application(own(url, namespace="shop"), registry).amqp.queues
    assert {*queues} == {name.format("default"), name.format("mail")}
    queues.select(["mail", "tenant-7"])  # as -Q does
    assert {queue.name for queue in queues.consume_from.values()} == {name.format("mail"), name.format("tenant-7")}
    closed = application(own(url, namespace="shop", queues=("a",)), registry).amqp.queues
    assert {*closed} == {name.format("a")}
    with pytest.raises(KeyError):
        closed.select(["mail"])


@pytest.mark.parametrize("url", [REDIS, AMQP])
def test_the_worker_command_has_no_secret(url: str) -> None:
    command = own(url, options={"pool": "threads"}).native_worker(WorkerOptions(queues=("a", "b"), concurrency=3))
    assert isinstance(command, NativeCommand)
    told = " ".join(command.argv)
    assert "secret" not in told
    for option in ("-A anyjob_celery.app worker", "--concurrency 3", "--pool threads", "--queues a,b"):
        assert option in told


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"pool": "fork"}, "pool: 'fork' is none of prefork, threads, solo"),
        ({"delay": "nativ"}, "Did you mean 'native'"),
        ({"task_acks_late": False}, "task_acks_late: anyjob sees to that itself"),
        ({"accept_content": ["pickle"]}, "accept_content"),
        ({"task_time_limit": 60}, "task_time_limit: .* Give the job a time_limit"),
        ({"task_soft_time_limit": 60}, "Give the job a time_limit"),
        ({"task_annotations": {"*": {"acks_late": False}}}, "task_annotations: .* job's own attributes"),
        ({"task_acks_on_failure_or_timeout": False}, "acknowledged once what became of it is settled"),
        ({"worker_cancel_long_running_tasks_on_connection_loss": True}, "cost every running job a try"),
        ({"worker_pool": "gevent"}, "use the option pool"),
        ({"task_always_eager": True}, "run inside of enqueue"),
        ({"task_retry_on_worker_lost": True}, "task_retry_on_worker_lost"),
        ({"worker_deduplicate_successful_tasks": True}, "worker_deduplicate_successful_tasks"),
        ({"broker_connection_retry": False}, "broker_connection_retry"),
        ({"worker_concurrency": 4}, "worker_concurrency: say it to the worker: `anyjob worker --concurrency 4`"),
        ({"task_publish_retri": False}, r"no setting 'task_publish_retri'. Did you mean 'task_publish_retry'\?"),
        ({"CELERYD_CONCURRENCY": 4, "shop": 1}, "no setting 'CELERYD_CONCURRENCY'.*\n.*no setting 'shop'"),
        (
            {"broker_transport_options": {"confirm_publsh": True}},
            r"broker_transport_options: py-amqp's connection has no 'confirm_publsh'. Did you mean 'confirm_publish'\?",
        ),
    ],
)
def test_bad_options_are_refused(options: Mapping[str, Any], told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        own(AMQP, options=options)


@pytest.mark.parametrize(
    "url", ["celery+amqp://host//?heartbeat=3", "celery+amqp://a//;amqp://b//", "celery+amqp://h:x/"]
)
def test_urls_that_cant_be_used_are_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"backends\.main\.url"):
        own(url)


@pytest.mark.parametrize(
    "options",
    [
        {"task_default_rate_limit": "10/s"},
        {"worker_max_memory_per_child": 100_000},
        {"worker_max_tasks_per_child": 5},
        {"worker_state_db": "state"},
    ],
)
def test_options_that_undo_no_promise_pass(options: Mapping[str, Any]) -> None:
    assert application(own(REDIS, options=options)).conf[next(iter(options))] == next(iter(options.values()))


def test_the_pool_decides_what_a_limit_ends_and_what_silence_costs() -> None:
    for url in (REDIS, AMQP):
        apart = own(url).capabilities
        assert (apart.hard_time_limit, apart.silence_bound) == (True, None)
        together = own(url, options={"pool": "threads"}).capabilities
        assert not together.hard_time_limit
        assert together.silence_bound is not None
    short = own(AMQP, options={"pool": "threads", "broker_heartbeat": 5}).capabilities
    assert short.silence_bound == timedelta(seconds=10)


def test_options_are_celerys_settings() -> None:
    options = {"worker_max_tasks_per_child": 100, "broker_transport_options": {"client_properties": {"x": "y"}}}
    conf = application(own(AMQP, options=options)).conf
    assert conf.worker_max_tasks_per_child == 100
    assert conf.broker_transport_options["client_properties"] == {"x": "y"}


def test_native_delay_is_declared_for_what_it_is() -> None:
    for url in (REDIS, AMQP):
        assert own(url).capabilities.delay is Quality.EXACT
        assert own(url, options={"delay": "native"}).capabilities.delay is Quality.APPROXIMATE


def test_enqueuing_imports_no_celery() -> None:
    program = (
        "import sys; from anyjob.settings.loader import load_backend; from anyjob.seams.backend import BackendConfig\n"
        f"for url in ({REDIS!r}, {AMQP!r}): load_backend(BackendConfig(alias='x', url=url)).capabilities\n"
        "sys.exit('celery' in sys.modules or 'kombu' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


# An application of the user's own


@pytest.fixture
def shop(monkeypatch: pytest.MonkeyPatch) -> Celery:
    """Return the application that `celery://?app=shop:app` names."""
    module = ModuleType("shop")
    app = module.app = Celery("shop", broker="redis://:secret@host/0", set_as_current=False)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "shop", module)
    return app


def existing(url: str = "celery://?app=shop:app", **config: Any) -> ExistingCeleryBackend:
    backend = load_backend(BackendConfig(alias="main", url=url, **config))
    assert isinstance(backend, ExistingCeleryBackend)
    return backend


def test_risks_are_told_setting_by_setting(shop: Celery, caplog: pytest.LogCaptureFixture) -> None:
    shop.conf.update(accept_content=["json", "pickle"], worker_cancel_long_running_tasks_on_connection_loss=True)
    with caplog.at_level(logging.WARNING):
        backend = existing()
    told = {risk.partition(":")[0] for risk in backend.risks}
    assert {"accept_content", "worker_cancel_long_running_tasks_on_connection_loss"} <= told
    assert "worker_prefetch_multiplier" in told
    assert {f"broker_transport_options.{each}" for each in ("visibility_timeout", "socket_timeout")} <= told
    assert len(caplog.records) == len(backend.risks)
    assert "secret" not in caplog.text + repr(backend.config)


def test_mended_settings_are_not_told(shop: Celery) -> None:
    shop.conf.update(
        broker_url="amqp://host//",
        worker_prefetch_multiplier=1,
        broker_channel_error_retry=True,
        broker_transport_options={"confirm_publish": True},
        task_queues=[Queue("celery", max_priority=4)],
    )
    backend = existing()
    assert {risk.partition(":")[0] for risk in backend.risks} == {"broker_transport"}
    assert backend.capabilities.priority is Quality.EXACT


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"task_default_priority": 5, "task_queue_max_priority": 10}, "5 is sooner than our HIGH jobs (4) in celery"),
        ({"task_routes": {"feeds.*": {"priority": 9}}, "task_queue_max_priority": 10}, "9 is sooner than our HIGH"),
        ({"task_routes": [{"feeds.*": {"priority": 9}}], "task_queue_max_priority": 5}, "9 is sooner than our HIGH"),
        ({"task_default_priority": 4, "task_queue_max_priority": 10}, None),
        ({"task_default_priority": 5, "task_queue_max_priority": 4}, None),  # the broker takes it for 4
        ({"task_default_priority": 5}, None),  # the queue has no priorities
        ({"task_queue_max_priority": 10}, None),  # unset is 0, the last
        ({"broker_url": "redis://host"}, "0 (unset) is the level of our HIGH jobs"),
        ({"broker_url": "redis://host", "task_default_priority": 2}, "2 is the level of our HIGH jobs"),
        ({"broker_url": "redis://host", "task_default_priority": 3}, None),
    ],
)
def test_tasks_that_come_before_our_high_jobs_are_told(shop: Celery, settings: Any, told: str | None) -> None:
    shop.conf.update({"broker_url": "amqp://host//", **settings})
    risks = [
        risk for risk in existing().risks if risk.startswith(("task_default_priority: ", "task_routes['feeds.*']: "))
    ]
    if told is None:
        assert risks == []
    else:
        (risk,) = risks
        assert told in risk


def test_nothing_of_theirs_is_changed(shop: Celery) -> None:
    before, tasks = dict(shop.conf.items()), {*shop.tasks}
    app = existing().application(JobExecutor(JobRegistry()), stop_timeout=1.0)
    assert app is shop
    assert dict(shop.conf.items()) == before
    assert {*shop.tasks} - tasks == {"anyjob.run"}
    task = shop.tasks["anyjob.run"]
    assert (task.acks_late, task.reject_on_worker_lost, task.max_retries) == (True, True, 0)


def test_a_worker_has_a_task_for_each_job_but_no_task_of_theirs_is_taken(
    shop: Celery, caplog: pytest.LogCaptureFixture
) -> None:
    def run() -> None: ...

    registry = JobRegistry()
    for name in ("mail.send", "shop.taken", "celery.chord"):
        background_job(name, registry=registry, aliases=[f"{name}-of-old"])(run)
    app = existing().application(JobExecutor(registry), stop_timeout=1.0)
    theirs = app.task(run, name="shop.taken", shared=False)  # after our module was imported
    before = {*app.tasks}
    with caplog.at_level(logging.WARNING):
        AddJobTasks(SimpleNamespace(app=app))
    assert {*app.tasks} - before == {"mail.send"}
    assert app.tasks["shop.taken"].name == theirs.name
    assert not isinstance(app.tasks["shop.taken"], JobTask)
    told = "has no task of its own job={} task=anyjob.run"
    assert [line.partition(" reason=")[0] for line in caplog.messages if line.startswith("has no task")] == [
        told.format("shop.taken"),
        told.format("celery.chord"),
    ]
    seen = {name: task_of(app, name) for name in ("mail.send", "mail.send-of-old", "shop.taken", "no.such-job")}
    assert seen == {
        "mail.send": ("mail.send", None),
        "mail.send-of-old": ("mail.send", None),
        "shop.taken": ("anyjob.run", "shop.taken"),
        "no.such-job": ("anyjob.run", "no.such-job"),
    }


def task_of(app: Celery, job: str) -> tuple[str, str | None]:
    """Return task and shadow of a message for that job, as Celery's worker gets to see it."""
    envelope = make_envelope(datetime(2026, 1, 1, tzinfo=UTC), "x", name=job)
    message = SimpleNamespace(headers=headers_of(envelope), body=body_of(write_envelope(envelope)))
    headers = OpenedMessage(message, None, app.tasks["anyjob.run"], app.tasks).headers
    return headers["task"], headers["shadow"]


@pytest.mark.parametrize("task", ["*", "anyjob.run"])
def test_no_annotation_of_theirs_undoes_what_our_task_promises(
    shop: Celery, task: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh = type("JobTask", (JobTask,), {"__bound__": False})  # Celery annotates a class once
    monkeypatch.setattr("anyjob_celery.existing.JobTask", fresh)
    undone = {"acks_late": False, "reject_on_worker_lost": False, "acks_on_failure_or_timeout": False, "time_limit": 2}
    shop.conf.update(task_annotations={task: undone})
    app = existing().application(JobExecutor(JobRegistry()), stop_timeout=1.0)
    ours = app.tasks["anyjob.run"]
    assert (ours.acks_late, ours.reject_on_worker_lost, ours.acks_on_failure_or_timeout) == (True, True, True)
    assert ours.time_limit is None


@pytest.mark.parametrize(
    ("settings", "priority"),
    [
        ({"broker_url": "amqp://host//"}, Quality.NONE),  # no x-max-priority
        ({"broker_url": "amqp://host//", "task_queue_max_priority": 10}, Quality.APPROXIMATE),
        ({}, Quality.APPROXIMATE),  # four steps, prefetch 4
        ({"broker_transport_options": {"priority_steps": [0, 1, 2, 3, 4]}}, Quality.APPROXIMATE),
        (
            {"broker_transport_options": {"priority_steps": [0, 1, 2, 3, 4]}, "worker_prefetch_multiplier": 1},
            Quality.EXACT,
        ),
    ],
)
def test_what_is_promised_depends_on_their_settings(shop: Celery, settings: Any, priority: Quality) -> None:
    shop.conf.update(settings)
    can = existing().capabilities
    assert can.priority is priority
    assert can.delay is Quality.APPROXIMATE
    assert can.moving == {*JobState} - {JobState.RUNNING}
    assert can.listing == can.removal == ({JobState.ABANDONED} if "broker_url" in settings else can.moving)
    assert {*can.counts} == {JobState.ABANDONED}  # the rest is among messages of others


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("celery://", "name the application"),
        ("celery://?app=no_such_module:app", "no module 'no_such_module'"),
        ("celery://?app=shop:nothing", "has no 'nothing'"),
    ],
)
def test_an_application_that_isnt_there_is_told(shop: Celery, url: str, told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        existing(url)


def test_other_brokers_are_refused(shop: Celery) -> None:
    shop.conf.broker_url = "memory://"
    with pytest.raises(ConfigurationError, match="it uses memory"):
        existing()


def test_a_queue_that_isnt_there_is_refused(shop: Celery) -> None:
    shop.conf.update(task_create_missing_queues=False, task_queues=[Queue("celery")])
    with pytest.raises(InvalidOptionError, match="no queue 'mail'"):
        existing().send([make_envelope(datetime(2026, 1, 1, tzinfo=UTC), "x", queue="mail")])


def test_settings_belong_to_the_application(shop: Celery) -> None:
    with pytest.raises(ConfigurationError, match="settings of its own"):
        existing(options={"worker_concurrency": 4})


def test_a_concurrency_that_is_not_in_force_is_told(shop: Celery, caplog: pytest.LogCaptureFixture) -> None:
    shop.conf.update(worker_concurrency=4)
    backend = existing()
    caplog.clear()
    backend.native_worker(WorkerOptions(concurrency=4))
    assert not caplog.messages
    backend.native_worker(WorkerOptions())
    (told,) = caplog.messages
    assert told.startswith('sets its own concurrency=1 reason="worker_concurrency = 4 is')


def test_kombus_own_options_of_a_connection_pass() -> None:
    own(AMQP, options={"broker_transport_options": {"max_retries": 3, "confirm_publish": True}})
    with pytest.raises(ConfigurationError, match="'visibility_timout'"):
        own(REDIS, options={"broker_transport_options": {"visibility_timout": 3}})


def test_annotations_of_theirs_undo_nothing(shop: Celery) -> None:
    unsafe = {"acks_late": False, "acks_on_timeout": False, "reject_on_worker_lost": False}
    shop.conf.task_annotations = {"*": unsafe}
    task = existing().application(JobExecutor(JobRegistry()), stop_timeout=1.0).tasks["anyjob.run"]
    assert {name: getattr(task, name) for name in unsafe} == dict.fromkeys(unsafe, True)


def test_app_needs_a_backend_on_celery(tmp_path: Path) -> None:
    (tmp_path / "anyjob.toml").write_text('backends = {main = "rq+redis://localhost/0"}')
    done = subprocess.run(
        [sys.executable, "-c", "import anyjob_celery.app"], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert "is no CeleryBackend" in done.stderr
