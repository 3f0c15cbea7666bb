"""What `anyjob doctor` finds on the broker, and in the workers, of a Celery application of the user's own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from celery_natives import OwnApp, own_app, running_worker
from kombu import Queue
from servers import free_port

from anyjob import EnqueueError


@pytest.fixture(params=["redis", "amqp"])
def shop(request: pytest.FixtureRequest) -> Iterator[OwnApp]:
    with own_app(str(request.param)) as shop:
        yield shop


@pytest.mark.timeout(120)
def test_workers_that_would_discard_our_jobs_are_named(shop: OwnApp, tmp_path: Path) -> None:
    shop.app.conf.task_default_priority = 3
    backend = shop.backend()
    assert backend.look_for_risks() == []
    with running_worker(shop, tmp_path, "knows@here", "anyjob.run"):
        assert backend.look_for_risks() == []
        with running_worker(shop, tmp_path, "lacks@here", "shop.send"):
            (risk,) = backend.look_for_risks()
    assert risk.startswith("imports: lacks@here discard our jobs")


@pytest.mark.filterwarnings("ignore::celery.exceptions.CDeprecationWarning")  # of `priority`
def test_a_task_that_comes_before_our_high_jobs_is_named() -> None:
    with own_app("amqp") as shop:
        shop.app.conf.task_queues = [Queue(shop.name, max_priority=10)]

        def work() -> None: ...

        for name, options in {"shop.usual": {}, "shop.urgent": {"priority": 9}}.items():
            shop.app.task(work, name=name, shared=False, **options)  # else every application of this process gets it
        (risk,) = shop.backend().look_for_risks()
        assert risk.startswith(f"shop.urgent.priority: 9 is sooner than our HIGH jobs (4) in {shop.name}")


@pytest.mark.parametrize("scheme", ["redis", "amqp"])
def test_a_broker_that_is_away_is_told(scheme: str) -> None:
    with own_app(scheme) as shop:
        shop.app.conf.broker_url = f"{scheme}://:secret@127.0.0.1:{free_port()}//"
        with pytest.raises(EnqueueError) as caught:
            shop.backend().look_for_risks()
        assert "secret" not in str(caught.value)
