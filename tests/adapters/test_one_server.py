"""Several systems, or several processes, on one server: who sees what."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from datetime import timedelta

import pytest
from envelopes import make_envelope
from rabbit import amqp_url, connect
from redis import Redis
from servers import redis_url

from anyjob import JobManager, JobRegistry, background_job, override
from anyjob.seams.stored import JobFilter, JobState
from anyjob.settings import load_settings
from anyjob.settings.compose import build
from anyjob.testing.probes.journal import wait_until

SYSTEMS = ("rq", "celery", "dramatiq")


@pytest.fixture
def manager() -> Iterator[JobManager]:
    url, namespace = redis_url(), f"one{secrets.token_hex(4)}"
    manager = _manager(namespace, JobRegistry(), {system: f"{system}+{url}" for system in SYSTEMS})
    yield manager
    manager.close()
    with Redis.from_url(url) as client:
        for key in client.scan_iter(f"*{namespace}*", 1000):
            client.delete(key)
        for name in client.smembers("rq:queues"):
            if namespace.encode() in name:
                client.srem("rq:queues", name)


def test_systems_in_one_namespace_of_one_redis_see_their_own_jobs_alone(manager: JobManager) -> None:
    why = manager.executor.refuse(b"", "unreadable").failure
    for number, system in enumerate(SYSTEMS, 1):
        inspector, backend = manager.inspect(system), manager.backend(system)
        for each in range(number):
            backend.park(system.encode(), why)
            now = manager.executor.clock.now()
            later = make_envelope(now, f"later-{each}", delay=timedelta(minutes=1))
            backend.send([make_envelope(now, f"now-{each}"), later])
    for number, system in enumerate(SYSTEMS, 1):
        inspector = manager.inspect(system)
        states = (JobState.WAITING, JobState.SCHEDULED, JobState.ABANDONED)
        assert {state: inspector.count()[state] for state in states} == dict.fromkeys(states, number)
        parked = inspector.scan(JobFilter(states=frozenset({JobState.ABANDONED}))).jobs
        assert [job.raw for job in parked] == [system.encode()] * number


@pytest.mark.parametrize("system", ["celery", "dramatiq"])
def test_on_rabbitmq_a_process_that_sent_nothing_counts_what_waits(system: str) -> None:
    url, namespace = amqp_url(), f"one{secrets.token_hex(4)}"
    registry = JobRegistry()

    @background_job("mail.send", queue="mail", registry=registry)
    def send(to: str) -> None: ...

    sender, other = (_manager(namespace, registry, {"main": f"{system}+{url}"}) for _ in range(2))
    try:
        with override(sender):
            send.enqueue("a@b.c")
        wait_until(lambda: other.inspect().count()[JobState.WAITING] == 1, what="it to be counted")
    finally:
        for each in (sender, other):
            each.close()
        with connect(url) as connection, connection.channel() as channel:
            for prefix in (namespace, f"{namespace}.dramatiq"):
                channel.queue_delete(f"{prefix}.mail")


def _manager(namespace: str, registry: JobRegistry, backends: Mapping[str, object]) -> JobManager:
    given = {"backends": backends, "default": next(iter(backends)), "namespace": namespace}
    settings = load_settings(given, environ={})
    assert settings is not None
    return build(settings, registry=registry)
