"""A unit test on the in-memory backend: real encoding, the real worker path, and a clock that the test moves.

pytest examples/02_unit_test
"""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

import anyjob
from anyjob import BackgroundJob, JobManager, JobRegistry, JobState
from anyjob.backend import BackendConfig
from anyjob.store_backend import memory_backend
from anyjob.testing import FakeClock

jobs = JobRegistry()
outbox: list[str] = []


@dataclass
class Welcome:
    to: str


class SendWelcome(BackgroundJob[Welcome], registry=jobs):
    def execute(self, args: Welcome) -> None:
        if args.to == "bounce@example.org":
            raise ConnectionError("mailbox unavailable")
        outbox.append(args.to)


def signup(address: str) -> None:
    SendWelcome.enqueue(Welcome(address), delay=300)


@pytest.fixture
def clock() -> FakeClock:
    outbox.clear()
    return FakeClock()


@pytest.fixture
def manager(clock: FakeClock) -> Iterator[JobManager]:
    backend = memory_backend(BackendConfig(alias="test", url="memory:", clock=clock))
    with anyjob.override(JobManager(backend, registry=jobs, clock=clock)) as manager:
        yield manager


def test_a_welcome_is_sent_five_minutes_after_signup(manager: JobManager, clock: FakeClock) -> None:
    signup("a@example.org")
    assert manager.drain() == 0
    clock.travel(minutes=5)
    assert manager.drain() == 1
    assert outbox == ["a@example.org"]


def test_a_mail_that_bounces_is_tried_again(manager: JobManager, clock: FakeClock) -> None:
    signup("bounce@example.org")
    clock.travel(minutes=5)
    manager.drain()
    assert manager.shelf().count()[JobState.SCHEDULED] == 1
    clock.travel(seconds=60)
    assert manager.drain() == 1  # the second of twelve tries
