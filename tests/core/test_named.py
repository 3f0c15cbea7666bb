"""Resolver and observers, given to `configure` or named in the settings and imported when they are needed."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import anyjob
from anyjob import BackgroundJob, ConfigurationError, JobEnvelope, JobExecutionContext, JobObserver
from anyjob.settings import load_settings
from anyjob.testing import FakeClock, in_memory


@dataclass
class Order:
    number: int


class ShipOrder(BackgroundJob[Order]):
    def __init__(self, shipped: list[int]) -> None:
        self.shipped = shipped

    def execute(self, args: Order) -> None:
        self.shipped.append(args.number)


class Tracing(JobObserver):
    def __init__(self) -> None:
        self.heard: list[str] = []

    def enqueued(self, envelope: JobEnvelope) -> None:
        self.heard.append("enqueued")

    def succeeded(self, job: JobExecutionContext, result: object) -> None:
        self.heard.append("succeeded")


APPLICATION = """
from anyjob import JobObserver

shipped, heard = [], []

def resolver(job):
    return job(shipped)

class Container:
    resolver = staticmethod(resolver)
    class NotAnObserver: ...

class Tracing(JobObserver):
    def enqueued(self, envelope):
        heard.append("enqueued")
    def succeeded(self, job, result):
        heard.append("succeeded")

tracing = Tracing()

class Broken(JobObserver):
    def __init__(self):
        raise ValueError("no collector")

number = 7
"""


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Write the settings beside an application of two modules; `shop_tracing` is imported by nobody but them."""
    (tmp_path / "shop_tracing.py").write_text(APPLICATION)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)

    def write(settings: str) -> None:
        (tmp_path / "anyjob.toml").write_text(settings)

    yield write
    sys.modules.pop("shop_tracing", None)


def test_configure_takes_a_resolver_observers_and_a_clock_beside_settings(clock: FakeClock) -> None:
    shipped: list[int] = []
    tracing = Tracing()
    with anyjob.override(
        backend="memory:", resolver=lambda job: job(shipped), observers=[tracing], clock=clock, lease=10
    ) as manager:
        ShipOrder.enqueue(Order(1), delay=60)
        assert manager.drain() == 0
        clock.travel(60)
        assert manager.drain() == 1
    assert (shipped, tracing.heard) == ([1], ["enqueued", "succeeded"])


@pytest.mark.parametrize("door", ["file", "environment", "arguments"])
def test_settings_name_them_and_nothing_is_imported_until_it_is_needed(
    shop: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, door: str
) -> None:
    named = {
        "observers": ["shop_tracing:Tracing", "shop_tracing:tracing"],
        "resolver": "shop_tracing:Container.resolver",
    }
    shop("")
    if door == "file":
        shop("\n".join(f"{key} = {value!r}" for key, value in named.items()))
    elif door == "environment":
        monkeypatch.setenv("ANYJOB_OBSERVERS", "shop_tracing:Tracing, shop_tracing:tracing")
        monkeypatch.setenv("ANYJOB_RESOLVER", "shop_tracing:Container.resolver")
    given: Any = named if door == "arguments" else {}
    with anyjob.override(backend="memory:", **given) as manager:
        manager.prepare(Order(1))
        assert "shop_tracing" not in sys.modules
        ShipOrder.enqueue(Order(1))
        application = sys.modules["shop_tracing"]
        assert application.heard == ["enqueued", "enqueued"]
        assert manager.drain() == 1
    assert (application.shipped, application.heard[2:]) == ([1], ["succeeded", "succeeded"])


def test_arguments_take_the_place_of_what_the_settings_name(shop: Callable[[str], None]) -> None:
    shop('observers = ["nowhere:Tracing"]\nresolver = "nowhere:resolver"')
    with anyjob.override(backend="memory:", observers=[], resolver=lambda job: job([])) as manager:
        ShipOrder.enqueue(Order(1))
        assert manager.drain() == 1


def test_a_sandbox_hears_the_observers_that_the_settings_name(shop: Callable[[str], None]) -> None:
    shop('observers = ["shop_tracing:Tracing"]\nresolver = "shop_tracing:resolver"')
    with anyjob.override(backend="memory:"), in_memory() as sandbox:
        ShipOrder.enqueue(Order(1))
        assert sandbox.run() == 1
    assert sys.modules["shop_tracing"].heard == ["enqueued", "succeeded"]


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ('observers = ["shop_trcing:T"]', "anyjob.toml: observers = 'shop_trcing:T': there is no module 'shop_trcing'"),
        ('observers = ["shop_tracing:Trace"]', "shop_tracing has no 'Trace'. Did you mean 'Tracing'?"),
        (
            'observers = ["shop_tracing:Container.NotAnObserver"]',
            "is a Container.NotAnObserver: an observer is a subclass",
        ),
        ('observers = ["shop_tracing:number"]', "is a int: an observer is a subclass of JobObserver"),
        ('observers = ["shop_tracing:Broken"]', "calling it raised ValueError: no collector"),
        ('resolver = "shop_tracing:resolve"', "anyjob.toml: resolver = 'shop_tracing:resolve': shop_tracing has no"),
        ('resolver = "shop_tracing:number"', "a resolver is a function that takes a job class"),
        ('resolver = "shop_tracing:Container"', "a resolver is a function that takes a job class"),
    ],
)
def test_what_is_named_and_missing_is_told_before_a_worker_starts(
    shop: Callable[[str], None], settings: str, fault: str
) -> None:
    shop(settings)
    with anyjob.override(backend="memory:") as manager:
        with pytest.raises(ConfigurationError) as told:
            manager.worker()
        assert fault in str(told.value)
        if "observers" in settings:  # an enqueue needs them, too, and says so before anything is sent
            for call in (ShipOrder.enqueue, lambda args: manager.enqueue_many([args])):
                with pytest.raises(ConfigurationError) as told:
                    call(Order(1))
                assert fault in str(told.value)
            assert sum(manager.backend().inspector.count().values()) == 0  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        ({"observers": "shop.tracing:Tracing"}, "observers: 'shop.tracing:Tracing' must be a list"),
        ({"observers": ["shop.tracing"]}, "observers: 'shop.tracing' must be 'module:name', as 'shop.tracing:Tracing'"),
        ({"observers": [Tracing]}, "Tracing'> must be 'module:name'"),
        ({"resolver": "shop.container"}, "must be 'module:name', as 'shop.container:resolver'"),
        ({"resolver": 7}, "resolver: 7 must be 'module:name'"),
    ],
)
def test_what_can_name_nothing_is_refused_with_all_other_faults(given: Any, fault: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as told:
        load_settings({"backends": {"a": "memory:"}, **given}, environ={}, directory=tmp_path)
    assert fault in str(told.value)


def test_a_manager_that_is_made_takes_neither(make_manager: Callable[..., anyjob.JobManager], clock: FakeClock) -> None:
    manager = make_manager()
    several: list[dict[str, Any]] = [{"resolver": lambda job: job()}, {"observers": []}, {"clock": clock}]
    for given in several:
        with pytest.raises(ConfigurationError, match=f"{next(iter(given))}.*can't change a manager that is made"):
            anyjob.configure(manager, **given)
    with pytest.raises(ConfigurationError, match="observers: .*Tracing'> is no object of a subclass of JobObserver"):
        make_manager(observers=[Tracing])
