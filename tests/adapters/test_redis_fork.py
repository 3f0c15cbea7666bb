"""A forked child can use its parent's client, whatever the parent's threads were doing."""

from __future__ import annotations

import os
import select
import signal
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from servers import redis_url

from anyjob.base.clock import SystemClock
from anyjob.seams.backend import BackendConfig
from anyjob_redis import RecurringThread, connect

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")


@pytest.fixture
def busy_client() -> Iterator[redis.Redis]:
    """A client whose pool another thread has locked: a pool makes its connections under its lock."""
    making, go_on = threading.Event(), threading.Event()

    def new_connection(**options: Any) -> redis.Connection:
        if threading.current_thread().name == "busy":
            making.set()
            go_on.wait()
        made: redis.Connection = redis.Connection(**options)
        return made

    url = redis_url()
    client = connect(BackendConfig(alias="main", url=url, options={"connection_class": new_connection}), url)
    thread = threading.Thread(target=client.ping, name="busy")
    thread.start()
    assert making.wait(10)
    yield client
    go_on.set()
    thread.join()
    client.close()


def test_a_child_does_not_wait_for_a_lock_of_its_parent(busy_client: redis.Redis) -> None:
    answer, told = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(told, b"yes" if busy_client.ping() else b"no")
        finally:
            os._exit(0)
    try:
        assert select.select([answer], (), (), 10)[0], "the child hangs"
        assert os.read(answer, 3) == b"yes"
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(answer)
        os.close(told)


def test_a_child_can_stop_a_recurring_thread_whose_lock_its_parent_held() -> None:
    thread = RecurringThread("test", lambda: 60.0, SystemClock()).start()
    with thread._changed:  # noqa: SLF001
        child = os.fork()
        if child == 0:
            signal.alarm(10)
            stopper = threading.Thread(target=thread.stop)  # another than the one that holds it
            stopper.start()
            stopper.join()
            os._exit(0)
    _, status = os.waitpid(child, 0)
    assert not os.WIFSIGNALED(status), "the child hung"
    thread.stop()
