"""Workers that the chaos hits in many ways, and producers."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final
from urllib.parse import urlsplit

from anyjob.run.stopping import HANDED_BACK
from anyjob.testing.conformance.harness import CHORES, JOBS, SHORT, UNREACHABLE, BackendHarness, WorkerHandle, World
from anyjob.testing.conformance.processes import ServerHarness, ServerWorld, WorkerProcess
from anyjob.testing.conformance.proxy import Proxy
from anyjob.testing.conformance.verdict import Fault
from anyjob.testing.probes.journal import wait_until
from anyjob.testing.probes.producer import STEADY, Ledger, produce
from anyjob.testing.probes.stepping import step_clock

__all__ = ["Stage", "stage_on"]

_STEPPED: Final = "anyjob.testing.probes.stepped"
ORPHANED: Final = 10.0
"""Seconds in which a worker's processes have to see that it was killed."""

Undo = Callable[[], None]
"""Ends a fault, or brings back what it ended."""


class Stage(ABC):
    """Workers and producers, and what can be done to them: `act` is a kind of fault, done at once."""

    acts: Sequence[str] = ()

    def __init__(self, world: World, seed: str) -> None:
        self.world = world
        self.seed = seed
        self.ledger = Ledger(world.journal.path.with_name("ledger"))
        self.faults: list[Fault] = []
        self.complaints: list[str] = []

    @abstractmethod
    def open(self) -> None:
        """Start the workers and the producers."""

    @abstractmethod
    def act(self, kind: str, dice: random.Random) -> tuple[float, Undo]:
        """Do it; return what brings things back into order, and in how many seconds."""

    @abstractmethod
    def close(self) -> None:
        """Stop all workers and producers, in order."""


class _ThreadStage(Stage):
    """Workers that are threads of this process can be killed, no more."""

    acts = ("kill",)

    def open(self) -> None:
        self._workers = [self._start() for _ in range(2)]
        arguments = (self.world.manager, self.ledger, self.world.journal.path, self.seed, "a0")
        self._producer = threading.Thread(target=produce, args=arguments, daemon=True)
        self._producer.start()

    def act(self, kind: str, dice: random.Random) -> tuple[float, Undo]:
        del kind
        fault = Fault("kill", time.time(), {os.getpid(), os.getppid()})
        self._workers.pop(dice.randrange(len(self._workers))).kill()
        fault.end = time.time()
        self.faults.append(fault)
        return 0.2, lambda: self._workers.append(self._start())

    def close(self) -> None:
        self.ledger.close()
        self._producer.join(20)
        for worker in self._workers:
            worker.stop()

    def _start(self) -> WorkerHandle:
        return self.world.start_worker(concurrency=2, imports=[JOBS, CHORES])


class _Post:
    """A place where a worker is."""

    def __init__(self, start: Callable[[], WorkerProcess]) -> None:
        self._start = start
        self.worker = start()
        self.orphans: set[int] = set()
        """Processes whose parent was killed here: they may go on for a while, by the same way."""

    def start(self) -> None:
        self.worker = self._start()

    @property
    def pids(self) -> set[int]:
        """All processes that a fault of this place hits."""
        return {*self.worker.pids, *self.orphans}


class _ProcessStage(Stage):
    """Processes, each with a way of its own to the server, if there is one.

    Two workers serve what may be delayed or fail. A third, whose wall clock is stepped by an hour back and forth,
    serves the queue `STEADY` alone: what it would say about due times and back-off is an hour off, rightly, so that
    nobody could tell what is early; what it runs must neither run twice nor be ended by its time limit.
    """

    acts: Sequence[str] = (
        "kill",
        "kill parent",
        "kill child",
        "stop",
        "stop",
        "cut",
        "cut",
        "swallow",
        "step",
        "kill producer",
    )

    def __init__(self, harness: ServerHarness | None, world: ServerWorld, seed: str) -> None:
        super().__init__(world, seed)
        self._harness = harness
        self._server = world
        if harness is None:
            self.acts = [act for act in self.acts if act not in ("cut", "swallow")]
        self._lease: float = SHORT["lease"]
        self._names = (f"{letter}{number}" for number in range(1_000) for letter in "ab")

    def open(self) -> None:
        self._ways = [self._way() for _ in range(4)]
        *_, steady, producing = self._ways
        self._posts = [self._post(way, ("default", "a"), CHORES) for way in self._ways[:2]]
        self._posts.append(self._post(steady, (STEADY,), _STEPPED, CHORES))
        self._settings = self._server.write_settings(JOBS, CHORES, **self._through(producing))
        self._producers = [self._producer() for _ in range(2)]

    def act(self, kind: str, dice: random.Random) -> tuple[float, Undo]:
        post, way = dice.choice([*zip(self._posts, self._ways, strict=False)])
        hit: dict[str, Callable[[], tuple[float, Undo]]] = {
            "kill": lambda: self._kill(post),
            "kill parent": lambda: self._kill_parent(post),
            "kill child": lambda: self._kill_child(post, dice),
            "stop": lambda: self._stop(post, self._lease + dice.uniform(0.3, 1.5)),
            "cut": lambda: self._cut(post, way),
            "swallow": lambda: self._swallow(post, way, dice.uniform(0.5, self._lease + 1)),
            "step": lambda: self._step(dice.choice([-3_600.0, 3_600.0])),
            "kill producer": lambda: self._kill_producer(dice.randrange(len(self._producers))),
        }
        return hit[kind]()

    def close(self) -> None:
        self.ledger.close()
        for producer in self._producers:
            producer.wait(timeout=30)
            self._complain(
                producer.process.returncode, f"a producer ended with {producer.process.returncode}", producer
            )
        for post in self._posts:
            self._see(post)
            post.worker.terminate()
        for post in self._posts:
            post.worker.wait(timeout=30)
            code = post.worker.exit_code
            self._complain(code not in _STOPPED, f"a worker was stopped, and ended with {code}", post.worker)
        self._see_to_orphans()
        for way in self._ways:
            if way is not None:
                way.close()

    def _way(self) -> Proxy | None:
        if self._harness is None:
            return None
        address = urlsplit(self._harness.url)
        assert address.hostname is not None
        assert address.port is not None
        return Proxy(address.hostname, address.port)

    def _through(self, way: Proxy | None) -> dict[str, Any]:
        queues, url = ["default", "a", STEADY], self._server.url
        if self._harness is not None and way is not None:
            url = self._harness.url_at("127.0.0.1", way.port)
        return {"backends": {"main": {"url": url, "queues": queues}}}

    def _post(self, way: Proxy | None, queues: Sequence[str], *imports: str) -> _Post:
        def start() -> WorkerProcess:
            return self._server.start_worker(
                queues=queues, concurrency=2, imports=[*imports, JOBS], **self._through(way)
            )

        return _Post(start)

    def _producer(self) -> WorkerProcess:
        paths = (self._settings, self.ledger.path, self.world.journal.path)
        return self._server.start_process(
            "-m", "anyjob.testing.probes.producer", *map(str, paths), self.seed, next(self._names)
        )

    def _kill(self, post: _Post) -> tuple[float, Undo]:
        self._see(post)
        fault = self._hit("kill", post)
        post.worker.kill()
        fault.end = time.time()
        return 0.2, post.start

    def _kill_parent(self, post: _Post) -> tuple[float, Undo]:
        self._see(post)
        fault = self._hit("kill parent", post)
        post.orphans |= fault.pids
        post.worker.process.kill()
        post.worker.process.wait()
        fault.end = time.time()
        return 0.2, post.start

    def _kill_child(self, post: _Post, dice: random.Random) -> tuple[float, Undo]:
        begun = {each.pid for each in self.world.journal.entries()} | {
            each.data for each in self.world.journal.entries("begin")
        }
        if not begun & set(post.worker.pids):  # still starting: Celery ends when a child dies then, with an error
            return self._kill(post)
        fault = self._hit("kill child", post)
        children = sorted({*post.worker.pids} - {post.worker.process.pid})
        _signal(dice.sample(children, min(len(children), 1)), signal.SIGKILL)
        fault.end = time.time()
        return 0.0, lambda: None

    def _stop(self, post: _Post, seconds: float) -> tuple[float, Undo]:
        fault = self._hit("stop", post)
        _signal(fault.pids, signal.SIGSTOP)

        def resume() -> None:
            fault.pids |= post.pids
            _signal(fault.pids, signal.SIGCONT)
            fault.end = time.time()

        return seconds, resume

    def _cut(self, post: _Post, way: Proxy | None) -> tuple[float, Undo]:
        assert way is not None
        fault = self._hit("cut", post)
        way.cut()
        fault.pids |= post.pids  # who was just being started
        fault.end = time.time()
        return 0.0, lambda: None

    def _swallow(self, post: _Post, way: Proxy | None, seconds: float) -> tuple[float, Undo]:
        assert way is not None
        fault = self._hit("swallow", post)
        way.swallow()

        def release() -> None:
            fault.pids |= post.pids
            way.release()
            fault.end = time.time()

        return seconds, release

    def _step(self, seconds: float) -> tuple[float, Undo]:
        step_clock(self._server.folder, seconds)
        return 2.0, lambda: step_clock(self._server.folder, 0.0)

    def _kill_producer(self, number: int) -> tuple[float, Undo]:
        self._producers[number].kill()

        def start() -> None:
            self._producers[number] = self._producer()

        return 0.2, start

    def _hit(self, kind: str, post: _Post) -> Fault:
        fault = Fault(kind, time.time(), post.pids)
        self.faults.append(fault)
        return fault

    def _see(self, post: _Post) -> None:
        """Complain about a worker that is gone though nobody killed it; start one again that met no server."""
        code = post.worker.process.poll()
        if code == UNREACHABLE:  # it was started while its connection was cut
            post.start()
        else:
            self._complain(code, f"a worker ended by itself, with {code}", post.worker)

    def _see_to_orphans(self) -> None:
        """Wait for those whose parent was killed to end as well; complain about the others, and kill them."""
        orphans = {pid for post in self._posts for pid in post.orphans}
        until = time.monotonic() + ORPHANED
        wait_until(lambda: not _alive(orphans) or time.monotonic() > until, timeout=2 * ORPHANED)
        if left := _alive(orphans):
            self.complaints.append(f"processes whose parent was killed are still at work: {sorted(left)}")
            _signal(left, signal.SIGKILL)

    def _complain(self, bad: object, what: str, process: WorkerProcess) -> None:
        if bad:
            self.complaints.append(f"{what}; it said:\n{process.said()}")


def stage_on(harness: BackendHarness, world: World, seed: str) -> Stage:
    """Return the stage of a world: where there are no processes to be hit, a smaller one."""
    if isinstance(world, ServerWorld):
        return _ProcessStage(harness if isinstance(harness, ServerHarness) else None, world, seed)
    return _ThreadStage(world, seed)


def _signal(pids: Iterable[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _alive(pids: set[int]) -> set[int]:
    """Return which of these run; one that ended and that nobody waits for doesn't."""
    listed = subprocess.run(["ps", "-A", "-o", "pid=,stat="], capture_output=True, text=True, check=True).stdout  # noqa: S607
    states = dict(line.split(maxsplit=1) for line in listed.splitlines())
    return {pid for pid in pids if not states.get(str(pid), "Z").startswith("Z")}


_STOPPED: Final = (0, HANDED_BACK, UNREACHABLE, -signal.SIGTERM)
"""What a worker ends with that is told to; the last two, if it was started a moment ago."""
