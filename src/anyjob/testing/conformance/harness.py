"""An adapter gives the kit a harness: worlds that are apart from each other, real workers, and a server to stop."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from msgspec import Raw

from anyjob.base.envelope import ENVELOPE_VERSION, JobEnvelope, JobPriority
from anyjob.seams.capabilities import Capabilities, Quality
from anyjob.seams.stored import JobFilter, JobState, StoredJob
from anyjob.send.manager import JobManager
from anyjob.testing.probes.jobs import Probe
from anyjob.testing.probes.journal import Journal, wait_until

__all__ = ["CHORES", "JOBS", "PROBES", "SHORT", "UNREACHABLE", "BackendHarness", "WorkerHandle", "World", "retry_of"]

JOBS: Final = "anyjob.testing.probes.jobs"
CHORES: Final = "anyjob.testing.probes.chores"
PROBES: Final = (JOBS, "anyjob.testing.probes.endings", CHORES)
"""The modules of the kit's jobs."""
LOGS: Final = "anyjob.testing.probes.logs"
"""A module that sets up the log."""

UNREACHABLE: Final = 4
"""Exit code of an `anyjob worker` whose server is unreachable at its start."""
SHORT: Final[Mapping[str, Any]] = {"lease": 2.0, "stop_timeout": 10.0, "retry": {"max_tries": 2, "first_wait": 0.2}}
"""Settings of the kit's worlds: a crash shows soon. The defaults are proved by one slow test."""


def retry_of(can: Capabilities) -> Mapping[str, Any]:
    """Return the setting `retry` where a backend can do no other than that: without delays there are no retries."""
    return {"retry": "none"} if can.delay is Quality.NONE else {}


class WorkerHandle(ABC):
    """A worker that was started, with all its processes."""

    @abstractmethod
    def kill(self) -> None:
        """End it as `kill -9` does, all its processes at once; return when they are gone."""

    @abstractmethod
    def behead(self) -> None:
        """Kill the process that was started, and no other; return when all its processes are gone."""

    @property
    @abstractmethod
    def lives(self) -> bool:
        """Whether what was started is still there."""

    @abstractmethod
    def terminate(self) -> None:
        """Tell it to stop, as TERM does, and return at once."""

    @abstractmethod
    def wait(self, timeout: float = 20.0) -> None:
        """Wait until it has stopped; fail after `timeout` seconds."""

    @abstractmethod
    def wait_for_its_end(self, timeout: float = 20.0) -> int:
        """Wait until it has ended by itself; return its exit code, or 0. Fail after `timeout` seconds."""

    @abstractmethod
    def pause(self) -> None:
        """Keep all its processes where they are, as SIGSTOP does. Only for one of `start_pausable_worker`."""

    @abstractmethod
    def resume(self) -> None:
        """Let it go on, as if no time had passed."""

    @property
    @abstractmethod
    def exit_code(self) -> int:
        """What `anyjob worker` ended with: 0 if its jobs finished, `HANDED_BACK` if not. To be asked after `wait`."""

    def stop(self) -> int:
        """Tell it to stop, wait until it has, and return its exit code."""
        self.terminate()
        self.wait()
        return self.exit_code


class World(AbstractContextManager["World"], ABC):
    """A backend with nothing in it but what one test puts there; closed, it leaves nothing behind."""

    manager: JobManager
    journal: Journal
    """Where the jobs of `probe` write; a world that tests share gets a new one for each."""
    threaded: bool = False
    """Whether its workers are threads of the test's process, which a job must not kill."""
    _gates = itertools.count()

    @abstractmethod
    def start_worker(
        self,
        *,
        queues: Sequence[str] | None = None,
        concurrency: int = 1,
        imports: Sequence[str] = PROBES,
        burst: bool = False,
        max_jobs: int | None = None,
        **settings: Any,
    ) -> WorkerHandle:
        """Start the backend's own worker, which knows the jobs of `imports`; `settings` over those of the world."""

    def start_pausable_worker(self) -> WorkerHandle:
        """Start a worker whose jobs the server gives to others soon after it was paused."""
        return self.start_worker()

    @abstractmethod
    def put(self, raw: bytes, *, queue: str = "default") -> None:
        """Put `raw` where an envelope would be, past the core, in a frame that is otherwise in order."""

    @abstractmethod
    def put_hostile(self, path: Path) -> int:
        """Put messages into the queue `default`, past the core, that would crash a careless worker, or that it would
        run.

        Whatever runs code would make the file `path`. Return how many must end up parked.
        """

    @abstractmethod
    def close(self) -> None:
        """Stop all workers and remove what is left."""

    @contextmanager
    def another_manager(self, *, queues: Sequence[str] | None = None) -> Iterator[JobManager]:
        """Give a manager as another process of the application would have it, with another list of queues if given."""
        yield self.manager

    @property
    def can(self) -> Capabilities:
        """What the backend declares."""
        return self.manager.backend().capabilities

    def probe(self, label: str, *, gate: str | None = None, heeds_stop: bool = False) -> Probe:
        """Return arguments of the job that writes down its beginning and its end."""
        return Probe(str(self.journal.path), label, gate, heeds_stop)

    def new_gate(self) -> Path:
        """Return a path that no file has yet: the jobs that wait for it go on once it is touched."""
        return self.journal.path.with_name(f"gate-{next(self._gates)}")

    def enqueue(self, *labels: str, **options: Any) -> list[str]:
        """Enqueue a probe for each label, one by one; return their ids."""
        return [self.manager.enqueue(self.probe(label), **options) for label in labels]

    def envelope(self, name: str, args: bytes = b"{}", **fields: Any) -> JobEnvelope:
        """Return an envelope as another process, which knows other jobs, would make it."""
        now = self.manager.executor.clock.now()
        job_id = self.manager.prepare(self.probe("id")).id
        made = {"queue": "default", "priority": JobPriority.NORMAL, "created_at": now, "first_due_at": now}
        return JobEnvelope(**{"v": ENVELOPE_VERSION, "id": job_id, "name": name, "args": Raw(args), **made, **fields})

    def jobs(self, *states: JobState) -> Sequence[StoredJob]:
        """Return all jobs that the inspector shows, in these states."""
        chosen = JobFilter(states=frozenset(states or self.can.listing))
        return list(self._pages(chosen))

    def wait_parked(self, count: int = 1, timeout: float = 20.0) -> Sequence[StoredJob]:
        """Wait until so many jobs are parked, and return them."""

        def parked() -> Sequence[StoredJob] | None:
            found = self.jobs(JobState.ABANDONED)
            return found if len(found) >= count else None

        found = wait_until(parked, timeout=timeout, what=f"{count} parked jobs")
        assert found is not None
        return found

    def _pages(self, chosen: JobFilter) -> Iterator[StoredJob]:
        cursor = None
        while True:
            page = self.manager.inspect().scan(chosen, cursor=cursor, limit=500)
            yield from page.jobs
            cursor = page.cursor
            if cursor is None:
                return

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class BackendHarness(ABC):
    """Makes worlds on one server, or none; the kit opens one for all tests that can share it, and many more."""

    restartable: bool = False
    """Whether `stop_server` and `start_server` work."""

    @abstractmethod
    def open(self, folder: Path, **settings: Any) -> World:
        """Return a new world whose files are in `folder`; `settings` are anyjob's, over `SHORT` and `retry_of`."""

    @abstractmethod
    def unreachable(self, host: str, port: int) -> JobManager | None:
        """Return a manager, with `retry_of`, whose backend's server is said to be at `host` and `port`; None if it has
        no server that could be away.
        """

    def stop_server(self) -> None:
        """Take the server away, as a crash does."""
        raise NotImplementedError

    def start_server(self) -> None:
        """Bring it back, with what it kept."""
        raise NotImplementedError

    def close(self) -> None:
        """End what the harness started."""
        return
