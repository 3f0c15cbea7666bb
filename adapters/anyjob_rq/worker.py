"""Our messages run by RQ's own workers: taken, executed and acknowledged our way, shown in RQ's way.

Of RQ's worker we keep what operators know: command line, process model, registration, states, counters, remote
commands, suspension, exception handlers. Its handling of a job (results, failures, retries, callbacks, webhooks,
dependencies, clean-up of registries, scheduler) never runs: no RQ job is ever read back from Redis, so that nothing in
there can name code.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from functools import partial
from types import FrameType
from typing import Any, Final, TypeVar

from redis.client import Pipeline
from redis.exceptions import RedisError, ResponseError
from rq import Queue
from rq.defaults import DEFAULT_LOGGING_DATE_FORMAT, DEFAULT_LOGGING_FORMAT
from rq.exceptions import StopRequested
from rq.executions import Execution
from rq.job import Job
from rq.logutils import setup_loghandlers
from rq.suspension import WORKERS_SUSPENDED
from rq.worker import DequeueStrategy
from rq.worker_pool import WorkerPool

from anyjob.extend import (
    DEFAULT_STOP_TIMEOUT,
    QUEUE_NAME,
    ClaimKeeper,
    ConfigurationError,
    Deferred,
    EnqueueError,
    JobExecutor,
    JobLogger,
    Outcome,
    SystemClock,
    insist,
    log_event,
)
from anyjob_redis.recurring import RecurringThread
from anyjob_redis.skew import ClockSkew
from anyjob_rq.backend import ALL_QUEUES, RQBackend
from anyjob_rq.frame import EnvelopeSerializer
from anyjob_rq.performing import JobRun, PerformingMixin
from anyjob_rq.source import RQClaim, RQSource
from anyjob_rq.wake import Wake

__all__ = ["JobWorkerMixin"]

logger = JobLogger("anyjob.worker")

T = TypeVar("T")


class JobWorkerMixin(PerformingMixin):
    """Makes a worker of RQ's run our messages, one at a time.

    `queues` are logical ones, in the order in which they count within a level; `ALL_QUEUES` serves all in turn. Of RQ's
    own parameters, those about serializers, job and queue classes and results have no meaning here.
    """

    def __init__(
        self,
        queues: str | Queue | Iterable[str | Queue],
        name: str | None = None,
        *,
        backend: RQBackend,
        executor: JobExecutor,
        stop_timeout: float = DEFAULT_STOP_TIMEOUT,
        **options: Any,
    ) -> None:
        self._backend = backend
        self._messages = backend.messages
        self._executor = executor
        self._stop_timeout = stop_timeout
        self._serves = _logical_names(queues, backend)
        self._look_for_suspension_at = 0.0
        self._stop = threading.Event()
        self._wake: Wake
        self._claim: RQClaim | None = None
        self.handed_back = False
        """Whether a running job was given back, because the worker was told to stop."""
        shown = self._serves or self._known_queues() or ("default",)
        super().__init__(
            [self._native_queue(each) for logical in shown for each in self._messages.names.queues(logical)],
            name,
            connection=backend.client,
            serializer=EnvelopeSerializer,
            **{key: options[key] for key in _KEPT_OPTIONS if key in options},
        )
        self._source = RQSource(backend, self.name, rotates=not self._serves)
        self._keeper = ClaimKeeper(
            self._source,
            executor,
            queues=self._serves,
            lease=backend.config.lease,
            insists=lambda: not self.is_told_to_stop,
            away=(EnqueueError,),
        )
        self._skew = ClockSkew(backend.client, backend.config.clock)

    # RQ's life of a worker

    def work(
        self,
        burst: bool = False,
        logging_level: str | None = None,
        date_format: str = DEFAULT_LOGGING_DATE_FORMAT,
        log_format: str = DEFAULT_LOGGING_FORMAT,
        max_jobs: int | None = None,
        max_idle_time: int | None = None,
        with_scheduler: bool = False,
        dequeue_strategy: DequeueStrategy = DequeueStrategy.DEFAULT,
    ) -> bool:
        """Run jobs until told to stop (`burst`: until none is due); return whether any ran. Waits while Redis is
        unreachable.

        With another strategy than RQ's default, the queues of a level take turns.
        """
        if with_scheduler:  # worker-pool always asks for it
            logger.debug("RQ's scheduler is not needed: every worker promotes what is due")
        self._source.rotates |= dequeue_strategy != DequeueStrategy.DEFAULT
        if logging.getLogger("anyjob").level == logging.NOTSET:
            setup_loghandlers(logging_level or "INFO", date_format, log_format, name="anyjob")
        before = signal.getsignal(signal.SIGINT)
        with closing(Wake()) as self._wake, self._wake.on_signals(self.request_stop):
            if _heard_for_its_pool(before):
                self.request_stop(signal.SIGINT, None)
            self.bootstrap(logging_level, date_format, log_format)
            try:
                with self._threads():
                    return self._serve(burst, max_jobs, max_idle_time) > 0
            finally:
                self._leave()

    def _serve(self, burst: bool, max_jobs: int | None, max_idle_time: int | None) -> int:
        done, pause, idle_since = 0, _SHORTEST_POLL, time.monotonic()
        try:
            while done != max_jobs and not self.is_told_to_stop:
                self._wait_while_suspended(burst)
                claim = self._insist(partial(self._take, promote=burst))
                if claim is None:
                    idle = time.monotonic() - idle_since
                    if burst or (max_idle_time is not None and idle >= max_idle_time):
                        break
                    self._wake.wait(pause)
                    pause = min(2 * pause, _LONGEST_POLL)
                elif not self.is_told_to_stop:
                    done += self._run(claim)
                    pause, idle_since = _SHORTEST_POLL, time.monotonic()
        except StopRequested:
            log_event(logger, logging.INFO, "suspended", worker=self.name)  # and this is a burst
        except _AWAY as error:
            if not self.is_told_to_stop:
                raise
            log_event(logger, logging.WARNING, "stops without Redis", worker=self.name, reason=error)
        return done

    def _wait_while_suspended(self, burst: bool) -> None:
        if time.monotonic() >= self._look_for_suspension_at:  # not with every claim: it is a round trip
            self._insist(partial(self._check_for_suspension, burst))
            self._look_for_suspension_at = time.monotonic() + 1.0

    def _check_for_suspension(self, burst: bool) -> None:
        if self.connection.exists(WORKERS_SUSPENDED):  # RQ asks in a transaction, which a full server refuses
            self.check_for_suspension(burst)

    @contextmanager
    def _threads(self) -> Iterator[None]:
        self._insist(self._skew.measure)
        self._insist(self._source.presence.beat)
        # RQ made sure that no other live worker has this name: its held messages are those of a crashed one.
        self._insist(partial(self._source.give_back, lost=True))
        keeper = RecurringThread(f"anyjob-presence-{self.name}", self._keep_alive, SystemClock())
        promoter = RecurringThread(f"anyjob-promoter-{self.name}", self._promote, self._backend.config.clock)
        with keeper, promoter:
            yield

    def _leave(self) -> None:
        for step in (partial(self._source.give_back, lost=False), self._source.presence.leave, self.teardown):
            try:
                step()
            except _AWAY as error:  # the lease will end by itself
                log_event(logger, logging.WARNING, "left without a word", worker=self.name, reason=error)

    def _keep_alive(self) -> float:
        """Renew our sign of life in Redis and for RQ's monitors, and give back the messages of crashed workers."""
        pause = self._keeper.keep()
        self._skew.measure()
        if self.connection.exists(self.key):
            self.heartbeat()
        else:
            self._register_birth()  # Redis forgot us
        return pause

    def _promote(self) -> float:
        due_in = self._messages.promote()
        return _LONGEST_TICK if due_in is None else min(due_in, _LONGEST_TICK)

    def request_stop(self, signum: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """Take no more, and tell the running job. A handler only notes it: it may interrupt code that holds a lock."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self.request_force_stop)
        self.note_stop()
        self._stop.set()

    def request_force_stop(self, signum: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """Interrupt the running job, which goes back, uncharged. As in RQ, a signal within a second is the first's
        echo.
        """
        if self._is_no_echo():
            raise SystemExit

    def _is_no_echo(self) -> bool:
        return self.told_to_stop_for is None or self.told_to_stop_for >= 1

    def run_maintenance_tasks(self) -> None:
        """Do nothing: RQ's clean-up of registries would fail jobs; leases rescue them."""

    def get_heartbeat_ttl(self, job: Job, working_time: float = 0.0) -> int:  # noqa: ARG002
        """Return a year: who cleans RQ's registries (as `rq info`) must not take a running job for abandoned."""
        return _YEAR

    # Our work does not depend on RQ's notes for its monitors: a full server, or a replica, refuses them.

    def register_birth(self) -> None:
        def register() -> None:
            try:
                self._register_birth()
            except ResponseError as error:  # the keeper tries again
                log_event(logger, logging.WARNING, "not shown to monitors yet", worker=self.name, reason=error)

        self._insist(register)

    def _register_birth(self) -> None:
        super().register_birth()  # type: ignore[no-untyped-call]

    def heartbeat(self, timeout: int | None = None, pipeline: Pipeline | None = None) -> None:
        """Beat, but not along with a read, which that would turn into a write: the keeper beats."""
        if pipeline is None:
            super().heartbeat(timeout)

    def set_state(self, state: str, pipeline: Pipeline | None = None) -> None:
        with suppress(RedisError):
            super().set_state(state, pipeline)

    def prepare_execution(self, job: Job) -> Execution:
        def prepare() -> Execution:
            try:
                return self.show_execution(job)
            except ResponseError as error:
                log_event(logger, logging.DEBUG, "not shown to monitors", worker=self.name, reason=error)
                return self.unshown_execution

        return self._insist(prepare)

    def _known_queues(self) -> Sequence[str]:
        try:
            return self._messages.known_queues()
        except RedisError:  # queues are only shown
            return ()

    # One message

    def _take(self, *, promote: bool) -> RQClaim | None:
        if promote:
            self._messages.promote()
        for claim in self._keeper.claim():
            assert isinstance(claim, RQClaim)  # noqa: S101  # for mypy
            return claim
        return None

    def _run(self, claim: RQClaim) -> bool:
        """Handle a message; return whether a job ran."""
        if claim.message.fault is not None:
            self._keeper.settle(claim, self._executor.refuse(claim.raw, claim.message.fault))
        elif (early := self._skew.early(claim.raw)) is not None:
            self._keeper.settle(claim, Deferred(early))
            self._wake.wait(_PAUSE_AFTER_EARLY)
        elif claim.redelivered:  # counted, and sent anew: the next claim runs it
            self._keeper.run(claim)
        else:
            self._claim = claim
            queue = Queue(claim.message.queue, connection=self.connection, serializer=EnvelopeSerializer)
            try:
                self.execute_job(JobRun(claim.message, self.connection, self._perform), queue)
            except _AWAY:  # while we stop: it goes back when its lease ends
                self.handed_back = True
                raise
            finally:
                self._keeper.forget(claim)
            self.forget_execution()
            return True
        return False

    def _perform(self, job: JobRun) -> Outcome | None:
        """Execute a message and settle it; None: it is given back, as lost."""
        claim = self._claim
        assert claim is not None  # noqa: S101  # for mypy
        self._source.begin()
        try:
            # In the context that RQ and its wrappers made: there they, and tracers, look for the job.
            outcome = self._executor.execute(claim.raw, redelivered=claim.redelivered, stop=self._stop)
            self._keeper.settle(claim, outcome)
        except BaseException as error:
            # While we stop it was meant for the process. Else a step between the job's begin and end failed: it
            # is redelivered, counted as a loss.
            stopping = self._stop.is_set()
            self._insist(partial(self._source.give_back, lost=not stopping))
            if stopping:
                self.handed_back = True
                raise
            log_event(logger, logging.ERROR, "lost", id=self._source.shown(job.message.native_id), exc_info=error)
            return None
        return outcome

    def _insist(self, action: Callable[[], T]) -> T:
        """Repeat the action while Redis is unreachable: a job that ran must not count as a crash.

        Raises the action's error if the worker has to stop; its messages then go back when its lease expires.
        """
        goes_on = lambda: not self.is_told_to_stop  # noqa: E731
        return insist(action, goes_on=goes_on, wait=self._wake.wait, away=_AWAY, worker=self.name)

    def _native_queue(self, name: str) -> Queue:
        return Queue(name, connection=self._backend.client, serializer=EnvelopeSerializer)


def _heard_for_its_pool(handler: Any) -> bool:
    """Whether a pool's handler, which its child has until it installs its own, was called in this child.

    The pool sends its signal once; if a child that was just forked ignored it, nothing else would tell the child.
    """
    pool = getattr(handler, "__self__", None)
    return isinstance(pool, WorkerPool) and pool.status == WorkerPool.Status.STOPPED


def _logical_names(queues: str | Queue | Iterable[str | Queue], backend: RQBackend) -> tuple[str, ...]:
    """Return the logical queues to serve; none means all that are known, now or later."""
    several = [queues] if isinstance(queues, str | Queue) else queues
    names = tuple(each.name if isinstance(each, Queue) else each for each in several)
    closed = backend.config.queues
    if ALL_QUEUES in names:
        return closed or ()
    for each in names:
        if not QUEUE_NAME.fullmatch(each) or (closed is not None and each not in closed):
            known = f" Its queues are closed to: {', '.join(closed)}." if closed else ""
            raise ConfigurationError(
                f"Backend {backend.config.alias!r} has no queue {each!r}.{known} A worker is given logical queues, "
                f"as 'mail', or {ALL_QUEUES!r} for all."
            )
    return names


_KEPT_OPTIONS: Final = (
    *("default_worker_ttl", "worker_ttl", "maintenance_interval", "job_monitoring_interval"),
    *("log_job_description", "prepare_for_work", "exception_handlers"),
)
_AWAY: Final = (RedisError, EnqueueError)
_PAUSE_AFTER_EARLY: Final = 1.0
_SHORTEST_POLL: Final = 0.01
_LONGEST_POLL: Final = 0.1
_LONGEST_TICK: Final = 0.2
_YEAR: Final = 365 * 86_400
