"""The server is unreachable: an enqueue fails soon and says which jobs are where; accepted jobs survive."""

from __future__ import annotations

import asyncio
import signal
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest

from anyjob.base.errors import EnqueueError
from anyjob.send.manager import JobManager
from anyjob.testing.conformance.fixtures import KitFixtures, not_proved, promised
from anyjob.testing.conformance.harness import PROBES, UNREACHABLE, BackendHarness, World
from anyjob.testing.conformance.processes import ServerHarness, ServerWorld
from anyjob.testing.probes.journal import wait_until

__all__ = ["OutagesConformance"]

BOUND = 5.0


class OutagesConformance(KitFixtures):
    """Refused, black-holed, restarted."""

    def test_a_refused_enqueue_fails_in_time(self, harness: BackendHarness, running: World) -> None:
        with _closed_port() as port:
            _assert_fails(_away(harness, port), running, "rejected")

    def test_a_worker_that_finds_no_server_says_so_and_ends(self, harness: BackendHarness, world: World) -> None:
        """Whoever supervises it starts it again. What goes away later is waited for."""
        if not (isinstance(harness, ServerHarness) and isinstance(world, ServerWorld)):
            not_proved("what happens while its server is away: it has none, or none with an address")
        with _closed_port() as port:
            backends = {"main": {"url": harness.url_at("127.0.0.1", port), "queues": ["default"]}}
            worker = world.start_worker(backends=backends)
            worker.wait()
        assert worker.exit_code == UNREACHABLE
        (line,) = worker.said().splitlines()
        assert line.startswith("anyjob: No worker starts, for backend 'main' does not answer: ")

    def test_a_black_holed_enqueue_fails_in_time(self, harness: BackendHarness, running: World) -> None:
        with _black_hole() as port:
            _assert_fails(_away(harness, port), running, "unknown")

    def test_a_black_holed_bulk_fails_in_time(self, harness: BackendHarness, running: World) -> None:
        with _black_hole() as port:
            manager = _away(harness, port)
            envelopes = [manager.prepare(running.probe("x"), job_id=f"bulk-{number}") for number in range(1_000)]
            with _in_time(), pytest.raises(EnqueueError) as failed:
                manager.enqueue_many(envelopes)
            assert failed.value.accepted == ()
            told = {*failed.value.rejected, *failed.value.in_doubt}
            assert told == {envelope.id for envelope in envelopes}
            manager.close()

    def test_aenqueue_leaves_the_loop_free_meanwhile(self, harness: BackendHarness, running: World) -> None:
        async def enqueue(manager: JobManager) -> float:
            longest, failing = 0.0, asyncio.create_task(manager.aenqueue(running.probe("x")))
            while not failing.done():
                before = time.monotonic()
                await asyncio.sleep(0.01)
                longest = max(longest, time.monotonic() - before)
            with pytest.raises(EnqueueError):
                await failing
            return longest

        with _black_hole() as port:
            manager = _away(harness, port)
            with _in_time():
                longest = asyncio.run(enqueue(manager))
            assert longest < 0.5, "the event loop stood still"
            manager.close()

    def test_many_aenqueues_at_once_fail_in_time_all_of_them(self, harness: BackendHarness, running: World) -> None:
        async def enqueue(manager: JobManager) -> Sequence[object]:
            calls = [manager.aenqueue(running.probe("x"), job_id=f"x{number}") for number in range(8)]
            return await asyncio.gather(*calls, return_exceptions=True)

        with _black_hole() as port:
            manager = _away(harness, port)
            with _in_time():
                failures = asyncio.run(enqueue(manager))
            for number, failure in enumerate(failures):
                assert isinstance(failure, EnqueueError)
                assert failure.accepted == ()
                assert (*failure.rejected, *failure.in_doubt) == (f"x{number}",)
            assert any(isinstance(failure, EnqueueError) and failure.rejected for failure in failures)
            manager.close()

    def test_what_was_accepted_outlives_its_sender(self, world: World) -> None:
        promised(world, lambda can: not can.in_process, "that jobs outlive the process which enqueued them")
        if not isinstance(world, ServerWorld):
            not_proved("that a job outlives its sender: this harness starts no processes")
        labels = [f"{number}" for number in range(5)]
        config = world.write_settings(*PROBES)
        sender = world.start_process(
            "-m", "anyjob.testing.probes.sender", str(config), str(world.journal.path), *labels
        )
        assert sender.wait_for_its_end() == -signal.SIGKILL, sender.said()
        world.start_worker()
        world.journal.wait(len(labels))
        assert world.journal.begun() == labels

    def test_a_server_restart_loses_nothing(self, harness: BackendHarness, world: World) -> None:
        promised(world, lambda can: can.durable, "to survive a restart of its server")
        if not harness.restartable:
            not_proved("that jobs survive a restart of its server: this harness can't restart any")
        world.start_worker()
        world.enqueue("warm")
        world.journal.wait(1)
        gate = world.new_gate()
        world.manager.enqueue(world.probe("held", gate=str(gate)))
        world.journal.wait(1, "begin", "held")
        world.enqueue(*(f"{number}" for number in range(10)))
        delayed = 0 if world.can.delay == "none" else 5
        for number in range(delayed):
            world.enqueue(f"delayed-{number}", delay=1)
        harness.stop_server()
        try:
            with _in_time(), pytest.raises(EnqueueError):
                world.enqueue("refused")
        finally:
            harness.start_server()
        gate.touch()
        _enqueue_again(world, "after")
        expected = {"warm", "held", "after", *(f"{n}" for n in range(10)), *(f"delayed-{n}" for n in range(delayed))}
        wait_until(
            lambda: {each.label for each in world.journal.entries("end")} >= expected,
            timeout=60,
            what=lambda: f"{expected - {each.label for each in world.journal.entries('end')}} to end",
        )
        again = len(world.journal.entries("begin")) - len({*world.journal.begun()})
        assert again <= 2, "more ran twice than were in the worker's hands"


def _away(harness: BackendHarness, port: int) -> JobManager:
    manager = harness.unreachable("127.0.0.1", port)
    if manager is None:
        not_proved("what happens while its server is away: it has none, or none with an address")
    return manager


def _assert_fails(manager: JobManager, world: World, fate: str) -> None:
    for _ in range(2):  # the second time with whatever the first left behind
        with _in_time(), pytest.raises(EnqueueError) as failed:
            manager.enqueue(world.probe("x"), job_id="x")
        assert failed.value.__cause__ is not None
        assert failed.value.accepted == ()
        told = (failed.value.rejected, failed.value.in_doubt)
        assert told == (("x",), ()) or (fate == "unknown" and told == ((), ("x",)))
    manager.close()


def _enqueue_again(world: World, label: str) -> None:
    def accepted() -> bool:
        try:
            world.enqueue(label)
        except EnqueueError:
            return False
        return True

    wait_until(accepted, timeout=30, what="the server to take jobs again")


@contextmanager
def _in_time(slack: float = 0.0) -> Iterator[None]:
    before = time.monotonic()
    yield
    assert time.monotonic() - before < BOUND + slack


@contextmanager
def _closed_port() -> Iterator[int]:
    with socket.socket() as bound:  # bound and not listening: refused, and nobody else's meanwhile
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


@contextmanager
def _black_hole() -> Iterator[int]:
    """Give a port that takes connections and never answers."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(128)
        yield listening.getsockname()[1]
