"""A worker's stop: jobs are told, and those that don't end in time are given back."""

from __future__ import annotations

import mmap
import os
import signal
import threading
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

from billiard import active_children
from celery import bootsteps, signals
from celery.worker.request import Request
from celery.worker.state import active_requests, reserved_requests

from anyjob.extend import HANDED_BACK, JobExecutor, JobLogger, end_at_once, log_released
from anyjob_celery.backend import CeleryBackend
from anyjob_celery.private import is_told_to_end
from anyjob_celery.request import JobRequest
from anyjob_celery.safety import refusal_of

__all__ = ["StopBound", "StopFlag", "TellJobs"]

logger = JobLogger("anyjob.worker")


class StopFlag(threading.Event):
    """Set in a worker's main process, seen by the children of its pool as well: they share a byte of memory.

    Set for a child, too, that got a signal of its own to end.
    """

    def __init__(self) -> None:
        super().__init__()
        self._byte = mmap.mmap(-1, 1)
        self.handed_back = False
        """Whether a running job was given back."""

    @property
    def exit_code(self) -> int:
        """The exit code of a stopped worker."""
        return HANDED_BACK if self.handed_back else 0

    def is_set(self) -> bool:
        return self._byte[0] != 0 or is_told_to_end()

    def set(self) -> None:
        self._byte[0] = 1
        super().set()


class TellJobs(bootsteps.StartStopStep):
    """Lets running jobs see that their worker stops."""

    requires = ("celery.worker.components:Pool",)
    _is_told = False

    @dataclass(frozen=True)
    class Options:
        """The application's data for this step, as `app.anyjob`."""

        backend: CeleryBackend
        executor: JobExecutor
        stop: StopFlag

    def __init__(self, worker: Any, **options: Any) -> None:
        super().__init__(worker, **options)
        executor = worker.app.anyjob.executor

        def on_end(**_: Any) -> None:
            executor.end_process()

        # Before the pool forks: its children end by os._exit.
        signals.worker_process_shutdown.connect(on_end, weak=False)

    def start(self, worker: Any) -> None:
        stop = worker.app.anyjob.stop

        def on_shutdown(**_: Any) -> None:
            # A signal handler may interrupt code that holds logging's locks: call only what is made for handlers.
            stop.set()
            self._is_told = True
            self.on_signal()

        def on_end(**_: Any) -> None:  # after a warm stop; Celery's own exit code tells the signal
            if self._is_told:
                worker.exitcode = stop.exit_code

        signals.worker_shutting_down.connect(on_shutdown, weak=False)
        signals.worker_shutdown.connect(on_end, weak=False)

    def close(self, worker: Any) -> None:
        """Stop for another reason than a signal: a control command, an error."""
        worker.app.anyjob.stop.set()

    def terminate(self, worker: Any) -> None:
        stop = worker.app.anyjob.stop
        stop.handed_back |= bool(_held())
        worker.exitcode = stop.exit_code

    def on_signal(self) -> None:
        """Do a transport's own step when the worker is told to stop."""


class StopBound(TellJobs):
    """Bounds Celery's warm shutdown, which waits for running jobs however long they take.

    When the time is up the pool's children are killed, held messages go back uncharged, and the process ends: nothing
    else ends a thread, or a job in the main process, that doesn't end by itself.
    """

    @dataclass(frozen=True)
    class Options(TellJobs.Options):
        """Take the step's data, and how long running jobs may take, in seconds."""

        timeout: float

    def __init__(self, worker: Any, **options: Any) -> None:
        refusal = refusal_of(worker)
        if refusal is not None:
            raise SystemExit(f"anyjob: {refusal}.")
        super().__init__(worker, **options)

    def start(self, worker: Any) -> None:
        self._told: SimpleQueue[None] = SimpleQueue()
        self._awake, self._wake = os.pipe()
        threading.Thread(target=_bound, args=(self._told, worker.app.anyjob), name="anyjob-stop", daemon=True).start()
        super().start(worker)

    def on_signal(self) -> None:
        self._told.put(None)
        os.write(self._wake, b"!")

    def register_with_event_loop(self, _worker: Any, hub: Any) -> None:
        """Let a signal end the loop's wait, which otherwise lasts until another event: 2 s."""
        hub.add_reader(self._awake, os.read, self._awake, 1)


def _bound(told: SimpleQueue[None], options: StopBound.Options) -> None:
    told.get()
    if threading.Event().wait(options.timeout):
        return
    held = _held()
    options.stop.handed_back |= bool(held)
    for child in active_children():
        with suppress(ProcessLookupError):
            os.kill(child.pid, signal.SIGKILL)
    try:
        options.backend.give_back_held()
    except Exception:
        logger.exception("what is held comes back when the broker misses this worker")
    for request in held:
        log_released(request.id)
        request.tell_released()
    end_at_once(options.executor, options.stop.exit_code)


def _held() -> Sequence[JobRequest]:
    """Return the jobs that were given to the pool and are not settled; without those that wait here until they are due.

    A child may have begun a job that is only reserved: its report is not read yet, and a stop doesn't wait for it.
    Celery before 5.7 empties the set of reserved jobs at a stop, though they run.
    """
    found = {*_all_of(active_requests), *(each for each in _all_of(reserved_requests) if not each.eta)}
    return [each for each in found if isinstance(each, JobRequest)]


def _all_of(requests: Iterable[Request]) -> Sequence[Request]:
    """Return the members of a set that the main thread may change meanwhile."""
    while True:
        with suppress(RuntimeError):  # changed during the iteration
            return tuple(requests)
