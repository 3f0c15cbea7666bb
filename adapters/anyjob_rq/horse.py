"""RQ's forking worker with our messages: a process per job, watched, told to stop, killed when its time is up."""

from __future__ import annotations

import logging
import math
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from datetime import datetime
from functools import partial
from types import FrameType
from typing import Any, Final

from rq import Queue
from rq.executions import Execution
from rq.job import Job
from rq.worker import Worker

from anyjob.extend import TIME_LIMIT_GRACE, ConfigurationError, JobLogger, JobTimeLimitError, log_event
from anyjob_rq.wake import Wake
from anyjob_rq.worker import JobWorkerMixin

__all__ = ["ForkingMixin"]

logger = JobLogger("anyjob.worker")


class ForkingMixin(JobWorkerMixin, Worker):
    """Each job runs in a child, RQ's work horse, which settles it. If the child crashes before, that is a loss."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._hurry = False

    def work(self, *args: Any, **options: Any) -> bool:
        """Run the job as RQ does: in the main thread, where a child's end and signals are noticed."""
        if threading.current_thread() is not threading.main_thread():
            raise ConfigurationError("A forking worker needs the main thread. In another: RQSimpleJobWorker.")
        return super().work(*args, **options)

    def monitor_work_horse(self, job: Job, queue: Queue, execution: Execution | None = None) -> None:  # noqa: ARG002
        """Wait for the child; while we stop, for `stop_timeout` at most, and for a job's time limit and a grace."""
        begun, began_at, kill_at = time.monotonic(), self._executor.clock.now(), None
        limit = None if self._claim is None else self._executor.time_limit_of(self._claim.raw)
        late_at = math.inf if limit is None else begun + limit + TIME_LIMIT_GRACE
        killed = late = False
        while not self._has_ended():
            if self.is_told_to_stop and kill_at is None:
                kill_at = time.monotonic() + self._stop_timeout
                log_event(
                    logger, logging.INFO, "stopping", id=self._source.shown(job.id), timeout=float(self._stop_timeout)
                )
                self._tell_horse()
            now = time.monotonic()
            late = late or (not killed and now >= late_at)
            if not killed and (late or self._hurry or (kill_at is not None and now >= kill_at)):
                killed = True
                self.kill_horse()
            next_at = min(late_at, math.inf if kill_at is None else kill_at)
            self._wake.wait(_LONGEST_WAIT if killed else min(max(0.0, next_at - now), _LONGEST_WAIT))
        self.forget_child()
        if late:
            self._charge_for_time(limit, began_at)
        self._see_to_what_is_left(job, lost=not killed)

    def _charge_for_time(self, limit: float | None, began_at: datetime) -> None:
        """Settle a try whose process was killed, because nothing in it could end it: it may be in a call of C code."""
        claim = self._claim
        if claim is None or not self._insist(partial(self._source.holds, claim)):
            return  # it ended just then
        log_event(logger, logging.WARNING, "killed", id=claim.id, time_limit=limit)
        error = JobTimeLimitError(f"The job ran longer than its time limit of {limit:g} s; its process was killed.")
        self._keeper.settle(claim, self._executor.fail(claim.raw, error, started_at=began_at))

    def perform_job(self, job: Job, queue: Queue, *execution: Execution) -> bool:
        try:
            return super().perform_job(job, queue, *execution)
        finally:
            self._end_horse()

    def _end_horse(self) -> None:
        """Run a process's exit steps in the child, because RQ ends that by `os._exit`."""
        self._executor.end_process()
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()

    def setup_work_horse_signals(self) -> None:
        """In the child: ignore INT, which the parent handles; on TERM tell the job."""
        Wake.leave_to_child()
        self._wake.close()
        self._wake = Wake()
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, self._tell_job)
        if self.is_told_to_stop:  # told between the fork and here, by the parent's handler
            self._tell_job(signal.SIGTERM, None)

    def request_force_stop(self, signum: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """Have the child killed at once; its job is given back, uncharged."""
        self._hurry = self._hurry or self._is_no_echo()

    def _tell_job(self, _signum: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # first: a second one must not find the event's lock taken
        self.forget_stop()  # this process settles its job
        self._stop.set()

    def _tell_horse(self) -> None:
        """Send TERM to the child alone: its job deals with the programs that it runs."""
        with suppress(ProcessLookupError):
            os.kill(self.horse_pid, signal.SIGTERM)

    def _has_ended(self) -> bool:
        try:
            return os.waitpid(self.horse_pid, os.WNOHANG)[0] != 0
        except ChildProcessError:
            return True

    def _see_to_what_is_left(self, job: Job, *, lost: bool) -> None:
        claim = self._claim
        if claim is not None and self.take_stopped(job.id):  # it must not run again by itself
            if self._insist(partial(self._source.holds, claim)):
                self._keeper.settle(claim, self._executor.refuse(claim.raw, "RQ was told to stop it (stop-job)."))
        elif lost:
            for job_id in self._insist(partial(self._source.give_back, lost=True)):
                log_event(logger, logging.WARNING, "lost", id=job_id, reason="its process ended while it ran")
        elif claim is not None and self._insist(partial(self._source.holds, claim)):
            self._keeper.hand_back()
            self.handed_back = True


_LONGEST_WAIT: Final = 1.0  # should the application have taken the signals that wake us
