"""What sends for event loops: in order, within its time, and told apart when it is over."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import closing

import pytest

from anyjob import EnqueueError
from anyjob.send.senders import JobSenders

SOON = 0.05
pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def senders() -> Iterator[JobSenders]:
    with closing(JobSenders(SOON)) as senders:
        yield senders


@pytest.fixture
def hole() -> Iterator[threading.Event]:
    """Give what a send waits for that hangs; the test may end it."""
    answered = threading.Event()
    yield answered
    answered.set()


async def test_who_waits_too_long_is_never_sent(senders: JobSenders, hole: threading.Event) -> None:
    sent: list[str] = []
    first = asyncio.ensure_future(senders.send("main", ["a", "b"], hole.wait))
    await asyncio.sleep(0)  # it is given to the thread
    with pytest.raises(EnqueueError, match=r"not sent within 0.05 s") as failed:
        await senders.send("main", ["c"], lambda: sent.append("c"))
    assert (failed.value.rejected, failed.value.in_doubt) == (("c",), ())
    assert not first.done(), "many may take their time"
    hole.set()
    assert await first
    await senders.send("main", ["d"], lambda: sent.append("d"))
    assert sent == ["d"]


async def test_what_is_being_sent_is_in_doubt(
    senders: JobSenders, hole: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("anyjob.send.senders._GRACE", SOON)
    with pytest.raises(EnqueueError, match="no answer") as failed:
        await senders.send("main", ["a"], hole.wait)
    assert (failed.value.rejected, failed.value.in_doubt) == ((), ("a",))


async def test_a_backend_that_tells_soon_afterwards_is_heard(senders: JobSenders, hole: threading.Event) -> None:
    def refuse() -> None:
        hole.wait(5 * SOON)
        raise EnqueueError("away", rejected=["a"])

    with pytest.raises(EnqueueError, match="away"):
        await senders.send("main", ["a"], refuse)


async def test_backends_dont_wait_for_each_other(senders: JobSenders, hole: threading.Event) -> None:
    slow = asyncio.ensure_future(senders.send("slow", ["a"], hole.wait))
    assert await senders.send("main", ["b"], lambda: 7) == 7
    hole.set()
    await slow


async def test_what_is_cancelled_while_it_waits_is_not_sent(senders: JobSenders, hole: threading.Event) -> None:
    sent: list[str] = []
    first = asyncio.ensure_future(senders.send("main", ["a", "b"], hole.wait))
    second = asyncio.ensure_future(senders.send("main", ["c"], lambda: sent.append("c")))
    await asyncio.sleep(0)  # both are given to the thread
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    hole.set()
    await first
    await senders.send("main", ["d"], lambda: sent.append("d"))
    assert sent == ["d"]
