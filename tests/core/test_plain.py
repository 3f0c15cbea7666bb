"""Values of subclasses (an Enum's member, Markup, numpy's numbers) become plain ones at every door."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum, StrEnum
from numbers import Integral
from typing import Any

import pytest
from msgspec.structs import replace

import anyjob
from anyjob import (
    BackgroundJob,
    InvalidOptionError,
    JobEnvelope,
    JobFilter,
    JobManager,
    JobRegistry,
    JobState,
    RetryPolicy,
    WorkerOptions,
    background_job,
    job_name,
)
from anyjob.base.errors import UnknownJobError
from anyjob.base.plain import plain_number
from anyjob.extend import StoreBackend
from anyjob.seams.backend import BackendConfig
from anyjob.send.routing import JobRoute
from anyjob.settings import load_settings
from anyjob.testing import FakeClock


class Queue(str, Enum):  # noqa: UP042  # what most code has: its f-string is 'Queue.MAIL'
    MAIL = "mail"


class Name(StrEnum):
    SEND = "mail.send"
    OLD = "mail.old"


class Markup(str):
    __slots__ = ()

    def __str__(self) -> str:
        return f"<{self!r}>"

    def __format__(self, spec: str) -> str:
        return str(self)


class Seconds(float):
    pass


class Count(int):
    pass


@Integral.register
class NumpyInt:
    """As numpy's: a number, and no int."""

    def __init__(self, value: int) -> None:
        self._value = value

    def __index__(self) -> int:
        return self._value

    def __repr__(self) -> str:
        return f"NumpyInt({self._value})"


def all_plain(value: Any) -> bool:
    if isinstance(value, tuple | frozenset):
        return type(value) in (tuple, frozenset) and all(map(all_plain, value))
    if isinstance(value, dict):
        return all_plain(tuple(value.items()))
    return type(value) in (str, int, float, bool, datetime, type(None), JobState)


@pytest.fixture
def sent(backend: StoreBackend, monkeypatch: pytest.MonkeyPatch) -> list[JobEnvelope]:
    sent: list[JobEnvelope] = []
    monkeypatch.setattr(backend, "send", sent.extend)
    return sent


@pytest.fixture
def report(registry: JobRegistry, manager: JobManager) -> Callable[..., None]:
    background_job(Name.SEND, registry=registry)(_report)

    def enqueue(**options: Any) -> None:
        manager.enqueue_by_name("mail.send", {"number": 1}, **options)

    return enqueue


def _report(number: int) -> None:
    """Do nothing."""


@pytest.mark.parametrize(
    "options",
    [
        {"queue": Queue.MAIL},
        {"queue": Markup("mail")},
        {"job_id": Markup("mine")},
        {"headers": {Markup("tenant"): Markup("a"), "queue": Queue.MAIL}},
        {"delay": NumpyInt(60)},
        {"delay": Seconds(60)},
        {"delay": Count(60)},
    ],
    ids=str,
)
def test_options_of_any_type_travel_as_plain_values(
    report: Callable[..., None], sent: list[JobEnvelope], clock: FakeClock, options: dict[str, Any]
) -> None:
    report(**options)
    (envelope,) = sent
    assert all_plain((envelope.queue, envelope.id, envelope.due_at, dict(envelope.headers)))
    assert envelope.queue == ("mail" if "queue" in options else "default")
    assert envelope.due_at == (clock.now() + timedelta(minutes=1) if "delay" in options else None)
    assert f"{envelope.queue} {envelope.id}".isascii()
    assert envelope.id == options.get("job_id", envelope.id)
    assert envelope.headers == options.get("headers", {})


def test_an_envelope_that_was_changed_by_hand_travels_as_plain_values(
    report: Callable[..., None],  # registers the job
    manager: JobManager,
    sent: list[JobEnvelope],
) -> None:
    envelope = manager.prepare_by_name("mail.send", {"number": 1})
    manager.enqueue_many([replace(envelope, queue=Queue.MAIL)])
    assert [type(each.queue) for each in sent] == [str]
    assert (sent[0].queue, sent[0].id, bytes(sent[0].args)) == ("mail", envelope.id, bytes(envelope.args))


def test_jobs_are_configured_by_plain_values(registry: JobRegistry) -> None:
    @job_name(Name.SEND, aliases=[Name.OLD])
    class Args:
        pass

    @job_name(Name.OLD)
    @dataclass
    class Sent:
        pass

    class Send(BackgroundJob[Sent], registry=registry):
        queue = Queue.MAIL
        time_limit = NumpyInt(5)  # type: ignore[assignment]

        def execute(self, args: Sent) -> None:
            """Do nothing."""

    background_job(Markup("a.b"), aliases={Markup("a.c")}, queue=Markup("bulk"), registry=registry)(_report)
    registry.register_handler(Markup("dynamic"), print, queue=Queue.MAIL, time_limit=Seconds(1))
    assert [*registry]
    assert registry.find("a.c") is registry.find("a.b")
    assert registry.queues() == {"default", "mail", "bulk"}
    assert all(
        all_plain((each.name, each.aliases, each.queue, each.time_limit))
        for each in (*registry, registry.get("dynamic"))
    )
    assert vars(Args)["__anyjob_name__"] == ("mail.send", "mail.old")
    assert all_plain(vars(Args)["__anyjob_name__"])


def test_a_job_is_found_by_a_name_of_any_type(report: Callable[..., None], manager: JobManager) -> None:
    assert manager.enqueue_by_name(Name.SEND, {"number": 1})
    for wrong in (["mail.send"], None, 5):
        with pytest.raises(UnknownJobError, match="a name is a string"):
            manager.enqueue_by_name(wrong, {})  # type: ignore[arg-type]


def test_settings_given_in_code_are_plain() -> None:
    settings = load_settings(
        {
            "default": Markup("main"),
            "namespace": Markup("shop"),
            "lease": NumpyInt(5),
            "retry": {"first_wait": NumpyInt(5), "max_tries": Count(2)},
            "routes": [{"queue": Queue.MAIL, "backend": Markup("main")}],
            "imports": [Markup("shop.jobs")],
            "observers": [Markup("shop.tracing:Tracing")],
            "resolver": Markup("shop.container:resolver"),
            "backends": {"main": {"url": Markup("memory:"), "queues": [Queue.MAIL, "default"]}},
        },
        environ={},
    )
    assert settings is not None
    row, (route,), retry = settings.backends["main"], settings.routes, settings.retry
    assert retry is not None
    assert all_plain((settings.default, settings.namespace, settings.lease, settings.imports, row.url, row.queues))
    assert all_plain((settings.observers, settings.resolver))
    assert all_plain((route.queue, route.backend, retry.first_wait, retry.max_tries))
    with anyjob.override(backend=Markup("memory:"), enqueue_timeout=Seconds(2)) as manager:
        assert manager.default == "default"


def test_what_is_made_by_hand_is_plain() -> None:
    config = BackendConfig(alias=Markup("a"), url=Markup("memory:"), namespace=Name.OLD, queues=[Queue.MAIL])  # type: ignore[arg-type]
    assert all_plain((config.alias, config.url, config.namespace, config.queues))
    route = JobRoute(backend=Markup("a"), job=Name.SEND)
    assert all_plain((route.backend, route.job, route.queue))
    options = WorkerOptions(queues=[Queue.MAIL], concurrency=NumpyInt(2), stop_timeout=Seconds(5))  # type: ignore[arg-type]
    assert all_plain((options.queues, options.concurrency, options.stop_timeout))
    policy = RetryPolicy(max_tries=NumpyInt(3), first_wait=Seconds(1), max_wait=Count(9))  # type: ignore[arg-type]
    assert all_plain((policy.max_tries, policy.first_wait, policy.max_wait))
    chosen = JobFilter(ids=[Markup("a")], states={"waiting"}, queues={Queue.MAIL}, name=Name.SEND)  # type: ignore[arg-type]
    assert all_plain((chosen.ids, chosen.states, chosen.queues, chosen.name))
    assert chosen.states == frozenset({JobState.WAITING})


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"states": {"abandond"}}, r"no state 'abandond'. Did you mean 'abandoned'\? States: waiting, scheduled"),
        ({"states": "abandoned"}, r"states='abandoned'.*a set of strings"),
        ({"ids": "abc"}, r"ids='abc'.*a set of strings"),
        ({"ids": {5}}, r"ids=\(5,\).*a set of strings"),
        ({"queues": 5}, r"queues=5.*a set of strings"),
        ({"name": 5}, r"name=5.*a pattern, as 'mail\.\*'"),
    ],
    ids=str,
)
def test_a_filter_that_chooses_nothing_is_refused(given: dict[str, Any], told: str) -> None:
    with pytest.raises(InvalidOptionError, match=told):
        JobFilter(**given)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"concurrency": 1.5}, "concurrency=1.5"),
        ({"concurrency": True}, "concurrency=True"),
        ({"stop_timeout": float("nan")}, "stop_timeout=nan"),
        ({"stop_timeout": 10**400}, "stop_timeout=1000"),
        ({"stop_timeout": float("inf")}, "stop_timeout=inf"),
        ({"queues": "mail"}, "queues='mail'.*are a tuple"),
        ({"queues": ("Mail",)}, "queues=.*a to z first"),
        ({"queues": (5,)}, "queues=.*are a tuple"),
    ],
    ids=str,
)
def test_worker_options_that_make_no_sense_are_refused(given: dict[str, Any], told: str) -> None:
    with pytest.raises(InvalidOptionError, match=told):
        WorkerOptions(**given)


def test_what_is_no_number_stays_what_it_is() -> None:
    for value in (True, "5", None, 1j):
        assert plain_number(value) is value


def test_jobs_run_before_1970(manager: JobManager, clock: FakeClock, report: Callable[..., None]) -> None:
    clock.step((datetime(1969, 7, 20, tzinfo=UTC) - clock.now()).total_seconds())
    report(delay=60)
    assert manager.drain() == 0
    clock.travel(minutes=1)
    assert manager.drain() == 1
