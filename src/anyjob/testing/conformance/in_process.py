"""Worlds of a store and our own worker in this process; a killed worker is one whose hands are cut off."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from importlib import import_module
from pathlib import Path
from typing import Any

from anyjob.base.envelope import JobEnvelope
from anyjob.current import default_registry, override
from anyjob.define.registry import JobRegistry
from anyjob.run.stopping import HANDED_BACK
from anyjob.run.worker import JobWorker
from anyjob.seams.backend import BackendConfig
from anyjob.seams.capabilities import Quality
from anyjob.seams.outcome import JobFailure, Outcome
from anyjob.seams.source import JobClaim, LostJob
from anyjob.seams.store import JobStore
from anyjob.seams.stored import JobFilter, JobPage, JobState
from anyjob.seams.undelayed import UndelayedSource
from anyjob.seams.worker_options import WorkerOptions
from anyjob.send.manager import JobManager
from anyjob.settings import load_settings
from anyjob.settings.compose import build
from anyjob.stores.store_backend import StoreBackend
from anyjob.testing.conformance.harness import PROBES, SHORT, BackendHarness, WorkerHandle, World, retry_of
from anyjob.testing.probes.journal import Journal, wait_until

__all__ = ["InProcessHarness", "SeveredStore"]


class SeveredStore(JobStore):
    """A worker's view of a store, until it is cut: then, as after a kill, nothing that the worker does arrives."""

    def __init__(self, store: JobStore) -> None:
        self._store = store
        self.clock = store.clock
        self.cut = False
        self.goes_on = threading.Event()
        """Until then a paused worker waits with what its jobs led to."""
        self.goes_on.set()

    def insert(self, envelopes: Sequence[JobEnvelope], *, once: str | None = None) -> None:
        if not self.cut:
            self._store.insert(envelopes, once=once)

    def claim(self, *, queues: Sequence[str] | None, limit: int, lease: timedelta, worker: str) -> Sequence[JobClaim]:
        return () if self.cut else self._store.claim(queues=queues, limit=limit, lease=lease, worker=worker)

    def settle(self, claim: JobClaim, outcome: Outcome) -> bool:
        self.goes_on.wait()
        return not self.cut and self._store.settle(claim, outcome)

    def release(self, claims: Sequence[JobClaim]) -> None:
        if not self.cut:
            self._store.release(claims)

    def renew(self, claims: Sequence[JobClaim], lease: timedelta) -> Sequence[JobClaim]:
        return claims if self.cut else self._store.renew(claims, lease)

    def recover(self) -> Sequence[LostJob]:
        return () if self.cut else self._store.recover()

    def next_due_at(self, queues: Sequence[str] | None) -> datetime | None:
        return None if self.cut else self._store.next_due_at(queues)

    def listen(self, wake: Callable[[], None]) -> None:
        self._store.listen(wake)

    def hold(self, chosen: JobFilter, *, limit: int, lease: timedelta, worker: str) -> Sequence[JobClaim]:
        return () if self.cut else self._store.hold(chosen, limit=limit, lease=lease, worker=worker)

    def park(self, raw: bytes, failure: JobFailure) -> str:
        return "" if self.cut else self._store.park(raw, failure)

    def scan(self, chosen: JobFilter, *, cursor: str | None = None, limit: int = 100) -> JobPage:
        return self._store.scan(chosen, cursor=cursor, limit=limit)

    def count(self) -> Mapping[JobState, int]:
        return self._store.count()


class _ThreadedWorker(WorkerHandle):
    def __init__(self, store: SeveredStore, worker: JobWorker) -> None:
        self._store = store
        self._worker = worker.start()
        self._stopping: threading.Thread | None = None
        self._finished = False

    def kill(self) -> None:
        self._store.cut = True
        self._store.goes_on.set()  # to nowhere
        self._worker.stop(timeout=0)

    @property
    def lives(self) -> bool:
        return self._worker.running

    def behead(self) -> None:
        self.kill()  # it has no other

    def pause(self) -> None:
        self._store.cut = True
        self._store.goes_on.clear()

    def resume(self) -> None:
        self._store.cut = False
        self._store.goes_on.set()

    def terminate(self) -> None:
        def stop() -> None:
            self._finished = self._worker.stop()

        self._stopping = threading.Thread(target=stop, daemon=True)
        self._stopping.start()

    @property
    def exit_code(self) -> int:
        return 0 if self._finished else HANDED_BACK

    def wait_for_its_end(self, timeout: float = 20.0) -> int:
        wait_until(lambda: not self._worker.running, timeout=timeout, what="the worker's end")
        return 0

    def wait(self, timeout: float = 20.0) -> None:
        stopping = self._stopping
        assert stopping is not None
        wait_until(lambda: not stopping.is_alive(), timeout=timeout, what="the worker's stop")


class _StoreWorld(World):
    threaded = True

    def __init__(self, harness: InProcessHarness, folder: Path, settings: Mapping[str, Any]) -> None:
        self._harness = harness
        self._settings = settings
        self.journal = Journal(folder / "journal")
        self.manager = self._manager(PROBES, {})
        self.lease: float = {**SHORT, **settings}["lease"]
        self._override = override(self.manager)  # for the jobs that enqueue
        self._override.__enter__()
        self._workers: list[_ThreadedWorker] = []

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
        manager = self._manager(imports, settings)
        store = SeveredStore(self.backend.store)
        options = WorkerOptions(
            queues=None if queues is None else tuple(queues),
            concurrency=concurrency,
            burst=burst,
            max_jobs=max_jobs,
            stop_timeout=manager.worker_options.stop_timeout,
        )
        source = UndelayedSource(store) if self.can.delay is Quality.NONE else store
        made = JobWorker(source, manager.executor, options, lease=self.lease)
        worker = _ThreadedWorker(store, made)
        self._workers.append(worker)
        return worker

    def put(self, raw: bytes, *, queue: str = "default") -> None:
        self._harness.put(self.backend.store, raw, queue)

    def put_hostile(self, path: Path) -> int:
        del path  # nothing but bytes can get into a store
        self.put(b"\x80\x04\x95 no JSON")
        self.put(b"[" * 100_000)
        return 2

    def close(self) -> None:
        for worker in self._workers:
            worker.kill()
        self._override.__exit__(None, None, None)
        self.manager.close()

    @property
    def backend(self) -> StoreBackend:
        backend = self.manager.backend()
        assert isinstance(backend, StoreBackend)
        return backend

    def _manager(self, imports: Sequence[str], settings: Mapping[str, Any]) -> JobManager:
        """Return a manager over the world's one backend that knows the jobs of `imports` alone."""
        lease = {**SHORT, **self._settings, **settings}["lease"]
        backend = (
            self.backend
            if hasattr(self, "manager")
            else self._harness.make(BackendConfig(alias="main", url="memory:", lease=lease))
        )
        given = {"backends": {"main": "memory:"}, **SHORT, **retry_of(backend.capabilities)}
        loaded = load_settings({**given, **self._settings, **settings}, environ={}, directory=Path("/"))
        assert loaded is not None
        manager = build(loaded, registry=_registry_of(imports))
        manager.backends.made["main"] = backend
        return manager


def _registry_of(imports: Sequence[str]) -> JobRegistry:
    registry = JobRegistry()
    for name in imports:
        import_module(name)
    for configuration in default_registry:
        if configuration.source_location.startswith(tuple(f"{name}." for name in imports)):
            registry.register(configuration)
    return registry


class InProcessHarness(BackendHarness):
    """Worlds of a `StoreBackend`: `make` returns a new one; `put` writes raw bytes into a queue of its store."""

    def __init__(
        self, make: Callable[[BackendConfig], StoreBackend], put: Callable[[JobStore, bytes, str], None]
    ) -> None:
        self.make = make
        self.put = put

    def open(self, folder: Path, **settings: Any) -> World:
        return _StoreWorld(self, folder, settings)

    def unreachable(self, host: str, port: int) -> None:
        return
