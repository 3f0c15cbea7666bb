"""The wirings of the application's managers inside a sandbox: a line of jobs for each alias of each manager."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from anyjob.base.envelope import JobEnvelope
from anyjob.base.errors import InvalidOptionError
from anyjob.current import default_registry
from anyjob.define.configuration import JobConfiguration
from anyjob.define.context import running_job
from anyjob.run.worker import JobWorker
from anyjob.seams.capabilities import Capabilities
from anyjob.seams.worker_options import WorkerOptions
from anyjob.send.manager import JobManager
from anyjob.send.wiring import JobWiring
from anyjob.testing.faults import SandboxFaults
from anyjob.testing.record import JobRecord, JobWatcher, WatchedObservers
from anyjob.testing.runner import EVERY_JOB, JobLine, SandboxRunner
from anyjob.testing.sandbox_backend import SandboxBackend, SandboxStore
from anyjob.testing.sandbox_clock import SandboxClock

__all__ = ["IDLE_WITHIN", "MAX_JOBS", "SandboxWorld"]

MAX_JOBS: Final = 1000
IDLE_WITHIN: Final = 10.0


class SandboxWorld:
    """Wires managers, each on its first use. Thread-safe."""

    def __init__(self, clock: SandboxClock, record: JobRecord, capabilities: Capabilities) -> None:
        self.lines: list[JobLine] = []
        self.faults = SandboxFaults()
        self.runner = SandboxRunner(self.lines, clock, record, self.faults)
        self._clock = clock
        self._record = record
        self._capabilities = capabilities
        self._lock = threading.RLock()
        self._changed = threading.Condition()
        self._wirings: dict[JobManager, JobWiring] = {}
        self._watchers: list[JobWatcher] = []
        self._at_enqueue = 0
        self._batch_ends: set[str] = set()
        self._here = threading.local()
        self._serving: WorkerOptions | None = None
        self._workers: list[JobWorker] = []

    def wiring_of(self, manager: JobManager) -> JobWiring:
        """Return the wiring of a manager in here."""
        wiring = self._wirings.get(manager)
        if wiring is None:
            with self._lock:
                wiring = self._wirings.get(manager)
                if wiring is None:
                    wiring = self._wirings[manager] = self._wire(manager)
        return wiring

    def known_jobs(self) -> Sequence[JobConfiguration]:
        """Return the jobs of the default registry, and of the managers that were used in here."""
        registries = {default_registry, *(watcher.registry for watcher in self._watchers)}
        return [configuration for registry in registries for configuration in registry]

    @contextmanager
    def at_enqueue(self) -> Iterator[None]:
        """Run what is due at the end of each enqueue."""
        self._at_enqueue += 1
        try:
            yield
        finally:
            self._at_enqueue -= 1

    @contextmanager
    def served(self, options: WorkerOptions) -> Iterator[None]:
        """Let real workers serve every line, those that are added meanwhile too."""
        with self._lock:
            if self._serving is not None:
                raise InvalidOptionError("The sandbox has workers already: one worker() at a time.")
            self._serving = options
            for line in self.lines:
                self._serve(line)
        try:
            yield
        finally:
            with self._lock:
                workers, self._workers, self._serving = self._workers, [], None
            _stop(workers)

    def wait_until_idle(self, timeout: float) -> None:
        """Wait until nothing is due and nothing runs; raise AssertionError after so many seconds."""
        with self._changed:
            if not self._changed.wait_for(self.runner.idle, timeout):
                raise AssertionError(f"After {timeout:g} s there are still jobs that are due or run.")

    def close(self) -> None:
        """End all that runs in here, workers that the application started too."""
        for wiring in self._wirings.values():
            _stop(wiring.workers)
            wiring.executor.close()

    def _wire(self, manager: JobManager) -> JobWiring:
        watcher = JobWatcher(self._record, manager.registry, self._enqueued)
        wiring = manager.rewired(
            lambda alias: self._add_line(alias, watcher),
            clock=self._clock,
            observers=WatchedObservers(manager.observers, watcher),
            off_loop=self._on_the_loop,
        )
        watcher.executor = wiring.executor
        self._watchers.append(watcher)
        return wiring

    def _add_line(self, alias: str, watcher: JobWatcher) -> SandboxBackend:
        def accepted(envelopes: Sequence[JobEnvelope]) -> None:
            for envelope in envelopes:
                watcher.accepted(envelope, alias)
            if self._at_enqueue:
                self._batch_ends.add(envelopes[-1].id)

        store = SandboxStore(self._clock, self._changed, unique_ids=self._capabilities.unique_ids)
        backend = SandboxBackend(store, self._capabilities, self.faults, accepted)
        line = JobLine(alias, backend, watcher)
        with self._lock:
            self.lines.append(line)
            if self._serving is not None:
                self._serve(line)
        return backend

    def _serve(self, line: JobLine) -> None:
        assert self._serving is not None  # noqa: S101  # for mypy: whoever calls has seen to it
        self._workers.append(JobWorker(line.backend.store, line.watcher.executor, self._serving).start())

    def _enqueued(self, envelope: JobEnvelope) -> None:
        """An enqueue is over for one job: run, if that is the mode, after the last of them, and inside of no job."""
        if envelope.id in self._batch_ends:
            self._batch_ends.discard(envelope.id)
            if running_job.get(None) is None:
                if getattr(self._here, "awaits", False):
                    self._here.due = True
                else:
                    self.runner.drive(self.runner.all_due(EVERY_JOB), raises=True, limit=MAX_JOBS)

    async def _on_the_loop(self, _alias: str, _ids: Sequence[str], call: Callable[[], Any]) -> Any:
        """Call it here, because memory never blocks."""
        self._here.awaits, self._here.due = True, False
        try:
            result, due = call(), self._here.due
        finally:
            self._here.awaits = False
        if due:
            await self.runner.adrive(self.runner.all_due(EVERY_JOB), raises=True, limit=MAX_JOBS)
        return result


def _stop(workers: Iterable[JobWorker]) -> None:
    """Stop workers, in a thread that is left behind if a job never ends: their own time-out stands still."""
    for worker in workers:
        stopping = threading.Thread(target=worker.stop, name="anyjob-sandbox-stop", daemon=True)
        stopping.start()
        stopping.join(IDLE_WITHIN)
