"""Runs one job: raw envelope in, outcome out. Every backend's worker, native or ours, comes through here."""

from __future__ import annotations

import logging
import math
import os
import threading
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from threading import Event
from typing import Any, Final

from msgspec import UNSET, Struct
from msgspec.structs import replace

from anyjob.clock import Clock, SystemClock
from anyjob.context import JobExecutionContext, running_job
from anyjob.envelope import MAX_ERROR_LENGTH, JobEnvelope, read_envelope, write_envelope
from anyjob.errors import (
    AnyjobError,
    EnvelopeError,
    InvalidArgsError,
    JobDefinitionError,
    JobLostError,
    JobResolutionError,
)
from anyjob.invoker import JobInvoker, JobResolver, construct
from anyjob.log import JobLogger, log_event
from anyjob.observer import JobObservers
from anyjob.outcome import Abandoned, Completed, Deferred, JobFailure, Outcome, Retry, describe_error
from anyjob.registry import JobConfiguration, JobRegistry
from anyjob.retry import DEFAULT_RETRY, GiveUp, RetryLater, RetryPolicy
from anyjob.serializer import JobSerializer, JsonJobSerializer
from anyjob.upgrades import args_version

__all__ = ["DEFAULT_MAX_LOSSES", "DEFERRALS_HEADER", "DEFER_UNKNOWN", "JobExecutor", "worker_name"]

logger = JobLogger("anyjob.worker")

DEFAULT_MAX_LOSSES: Final = 5
DEFERRALS_HEADER: Final = "anyjob-deferrals"
DEFER_UNKNOWN: Final = 3600.0

# What no further try can mend.
_PERMANENT: Final = (GiveUp, InvalidArgsError, JobDefinitionError, JobResolutionError)


class _Run(Struct, frozen=True, gc=False):
    """A job about to be called."""

    envelope: JobEnvelope
    configuration: JobConfiguration
    args: Any
    context: JobExecutionContext


class JobExecutor:
    """Executes envelopes. Thread-safe; one per process is enough.

    `execute` decides everything and does nothing but run the job: the caller settles the outcome (in its store, or by
    `JobBackend.settle`) and then acknowledges the message. A caller that dies in between leaves a job that runs again,
    never one that is lost.
    """

    def __init__(
        self,
        registry: JobRegistry,
        *,
        clock: Clock | None = None,
        serializer: JobSerializer | None = None,
        resolver: JobResolver = construct,
        observers: JobObservers | None = None,
        retry: RetryPolicy | None = DEFAULT_RETRY,
        max_losses: int = DEFAULT_MAX_LOSSES,
        defer_unknown: float = DEFER_UNKNOWN,
        worker: str | None = None,
    ) -> None:
        self.registry = registry
        self.clock = clock or SystemClock()
        self.serializer = serializer or JsonJobSerializer()
        self._worker = worker
        self._invoker = JobInvoker(self.clock, resolver)
        self._observers = observers or JobObservers()
        self._retry = retry
        self._max_losses = max_losses
        self._deferred_for = defer_unknown

    def execute(self, raw: bytes, *, redelivered: bool = False, stop: Event | None = None) -> Outcome:
        """Run the job in `raw` and return what became of it. Raises nothing of the job's own.

        `redelivered`: the broker handed this very message out before, and whoever had it did not settle it; the loss
        is counted and the job sent anew before it runs. `stop`: set while the worker stops.

        Re-raises only what is meant for the process: KeyboardInterrupt and SystemExit in the main thread, and any
        BaseException that is no Exception while stopping. The caller then gives the job back, uncharged, and passes
        the exception on.
        """
        run = self._begin(raw, redelivered, stop)
        if not isinstance(run, _Run):
            return run
        token = running_job.set(run.context)
        try:
            self._invoker.invoke(run.configuration, run.args, stop)
        except BaseException as error:  # noqa: BLE001  # _failed re-raises what is not the job's
            return self._failed(run, error)
        finally:
            running_job.reset(token)
        return self._succeeded(run)

    async def aexecute(self, raw: bytes, *, redelivered: bool = False) -> Outcome:
        """Like `execute`, with an async job in the caller's own task: for tests, whose loop holds what the job needs.

        Re-raises every BaseException that is no Exception: a cancellation is the caller's.
        """
        run = self._begin(raw, redelivered, None)
        if not isinstance(run, _Run):
            return run
        token = running_job.set(run.context)
        try:
            await self._invoker.ainvoke(run.configuration, run.args)
        except Exception as error:  # noqa: BLE001  # _failed tells what becomes of it
            return self._failed(run, error)
        finally:
            running_job.reset(token)
        return self._succeeded(run)

    def fail(self, raw: bytes, error: Exception, *, started_at: datetime | None = None) -> Outcome:
        """Return what a try leads to that somebody ended from outside, with its process: as if the job had raised
        `error`. `GiveUp` parks it. For workers that know why they ended a process; what just died is redelivered.
        """
        try:
            envelope = read_envelope(raw)
        except EnvelopeError as unreadable:
            return self._abandon(raw, None, unreadable, self.clock.now())
        configuration = self.registry.find(envelope.name)
        policy = self._retry if configuration is None else self.policy_of(configuration)
        context = JobExecutionContext(envelope, policy, started_at or self.clock.now(), None)
        return self._charge(envelope, context, error)

    def time_limit_of(self, raw: bytes) -> float | None:
        """Return the seconds that the job in `raw` may run, or None: for workers that watch over a process."""
        try:
            configuration = self.registry.find(read_envelope(raw).name)
        except EnvelopeError:
            return None
        return None if configuration is None else configuration.time_limit

    def refuse(self, raw: bytes, why: str) -> Abandoned:
        """Return the outcome of a message that is none of ours, as its frame shows: `raw` is kept, nothing runs."""
        return self._abandon(raw, None, EnvelopeError(why), self.clock.now())

    @property
    def worker(self) -> str:
        """The name of this process in claims, logs and failures: asked, for the process may be a forked child."""
        return self._worker or worker_name()

    def policy_of(self, configuration: JobConfiguration) -> RetryPolicy | None:
        """Return the retry policy in force for a job: its own, or the one of the settings; None is a single try."""
        return self._retry if configuration.retry is UNSET else configuration.retry

    def cancel_async_jobs(self, stop: Event) -> None:
        """Cancel the async jobs that were executed with this `stop` and still run; once it is set, uncharged."""
        self._invoker.loop.cancel(stop)

    def close(self) -> None:
        """Stop the event loop of async jobs and the watch over time limits, if they were started."""
        self._invoker.close()

    def _begin(self, raw: bytes, redelivered: bool, stop: Event | None) -> _Run | Outcome:
        try:
            return self._read(raw, redelivered, stop)
        except Exception as error:  # noqa: BLE001  # nothing that a message holds may make it come again for ever
            return self._abandon(raw, None, error, self.clock.now())

    def _read(self, raw: bytes, redelivered: bool, stop: Event | None) -> _Run | Outcome:
        now = self.clock.now()
        try:
            envelope = read_envelope(raw)
        except EnvelopeError as error:
            return self._abandon(raw, None, error, now)
        if redelivered:
            envelope = replace(envelope, args=envelope.args.copy(), lost_count=envelope.lost_count + 1)
        if envelope.lost_count > self._max_losses:
            lost = JobLostError(f"its process ended {envelope.lost_count} times while it ran")
            return self._abandon(write_envelope(envelope), envelope, lost, now)
        if redelivered:
            log_event(logger, logging.WARNING, "redelivered", envelope, lost=envelope.lost_count)
            return Retry(envelope)
        if envelope.due_at is not None and envelope.due_at > now:
            return Deferred(envelope)
        configuration = self.registry.find(envelope.name)
        if configuration is None:
            return self._defer(raw, envelope, now, "unknown", partial(self.registry.get, envelope.name))
        if envelope.headers and args_version(envelope.headers) > configuration.args_version:
            return self._defer(raw, envelope, now, "newer", partial(_refuse_newer, envelope, configuration))
        policy = self.policy_of(configuration)
        return self._start(raw, envelope, configuration, JobExecutionContext(envelope, policy, now, stop))

    def _start(
        self, raw: bytes, envelope: JobEnvelope, configuration: JobConfiguration, context: JobExecutionContext
    ) -> _Run | Outcome:
        now = context.started_at
        try:
            args = configuration.decode(envelope, self.serializer)
        except Exception as error:  # noqa: BLE001  # whatever a serializer raises, it will raise again
            return self._abandon(raw, envelope, error, now)
        if logger.isEnabledFor(logging.INFO):
            waited = (now - (envelope.due_at or envelope.created_at)).total_seconds()
            log_event(
                logger,
                logging.INFO,
                "started",
                envelope,
                try_=_of(context),
                waited=f"{waited:.3f}s",
                worker=self.worker,
            )
        if self._observers:
            self._observers.tell("started", context)
        return _Run(envelope, configuration, args, context)

    def _succeeded(self, run: _Run) -> Completed:
        if logger.isEnabledFor(logging.INFO):
            took = (self.clock.now() - run.context.started_at).total_seconds()
            log_event(logger, logging.INFO, "done", run.envelope, took=f"{took:.3f}s")
        if self._observers:
            self._observers.tell("succeeded", run.context)
        return _COMPLETED

    def _failed(self, run: _Run, error: BaseException) -> Outcome:
        """Decide what a failed try leads to; re-raise what was meant for the process, not for the job."""
        if not isinstance(error, Exception) and _is_for_the_process(error, run.context):
            log_event(logger, logging.WARNING, "interrupted", run.envelope, error=type(error).__qualname__)
            raise error
        return self._charge(run.envelope, run.context, error)

    def _charge(self, envelope: JobEnvelope, context: JobExecutionContext, error: BaseException) -> Outcome:
        """Count the try as failed, and decide what comes next."""
        now, next_try_at = self.clock.now(), None
        try:
            next_try_at = _next_try_at(context, error, now)
        except Exception as broken:  # noqa: BLE001  # a policy or a wish that can't be followed
            broken.__cause__ = error
            error = broken
        envelope = replace(
            envelope,
            args=envelope.args.copy(),
            try_count=context.try_count,
            last_try_at=context.started_at,
            last_error=describe_error(error, MAX_ERROR_LENGTH),
            due_at=next_try_at or envelope.due_at,
            headers={key: value for key, value in envelope.headers.items() if key != DEFERRALS_HEADER},
        )
        if self._observers:
            self._observers.tell("failed", context, error, next_try_at)
        if next_try_at is None:
            return self._abandon(write_envelope(envelope), envelope, error, now)
        log_event(
            logger,
            logging.WARNING,
            "failed",
            envelope,
            try_=_of(context),
            error=type(error).__qualname__,
            next=next_try_at.isoformat(timespec="seconds"),
        )
        return Retry(envelope)

    def _defer(
        self, raw: bytes, envelope: JobEnvelope, now: datetime, event: str, refuse: Callable[[], object]
    ) -> Outcome:
        """Send a job that this process is too old for back, uncharged; after an hour park it with what `refuse` raises.

        The waits double from a 120th of that time: 30 s, 1 min, 2 min, ...
        """
        count = _deferrals(envelope)
        waited, until = (_deferred_by(number, self._deferred_for) for number in (count, count + 1))
        if until == waited:
            try:
                refuse()
            except AnyjobError as error:
                return self._abandon(raw, envelope, error, now)
        wait = timedelta(seconds=until - waited)
        log_event(logger, logging.WARNING, event, envelope, deferred=f"{wait.total_seconds():g}s", worker=self.worker)
        return Deferred(
            replace(
                envelope,
                args=envelope.args.copy(),
                due_at=now + wait,
                first_due_at=envelope.first_due_at + wait,  # uncharged: the retry budget moves along
                headers={**envelope.headers, DEFERRALS_HEADER: str(count + 1)},
            )
        )

    def _abandon(self, raw: bytes, envelope: JobEnvelope | None, error: BaseException, now: datetime) -> Abandoned:
        tries = envelope.try_count if envelope else 0
        outcome = Abandoned(raw, JobFailure.of(error, at=now, worker=self.worker, tries=tries), envelope, error)
        # The traceback of our own refusals says nothing; that of the job's error is wanted once, here.
        own = isinstance(error, AnyjobError)
        log_event(
            logger,
            logging.ERROR,
            "gave up",
            envelope,
            tries=tries,
            error=type(error).__qualname__,
            exc_info=None if own else error,
        )
        if self._observers:
            self._observers.tell("abandoned", outcome)
        return outcome


_COMPLETED: Final = Completed()


def worker_name() -> str:
    """Return `host-pid`, the name by which this process is known in logs and failures."""
    import socket  # a tenth of the whole import, for a name

    return f"{socket.gethostname()}-{os.getpid()}"


def _next_try_at(context: JobExecutionContext, error: BaseException, now: datetime) -> datetime | None:
    policy = context.policy
    if policy is None or isinstance(error, (*_PERMANENT, *policy.give_up_on)):
        return None
    return policy.next_try_at(
        try_count=context.try_count,
        started_at=context.started_at,
        first_due_at=context.first_due_at,
        wanted=error.wanted_at(now) if isinstance(error, RetryLater) else None,
    )


def _is_for_the_process(error: BaseException, context: JobExecutionContext) -> bool:
    """Tell an order to the process from a job's own `sys.exit()`.

    Signal handlers raise in the main thread only; anywhere else it was the job, and giving it back uncharged would run
    it for ever.
    """
    if context.should_stop:
        return True
    in_main = threading.current_thread() is threading.main_thread()
    return in_main and isinstance(error, KeyboardInterrupt | SystemExit)


def _deferrals(envelope: JobEnvelope) -> int:
    count = envelope.headers.get(DEFERRALS_HEADER, "0")
    return int(count) if count.isascii() and count.isdigit() and len(count) < 4 else 0


def _deferred_by(count: int, longest: float) -> float:
    """Return the seconds for which `count` deferrals hold a job back in all: of an hour 30, 90, 210, ..., 3600."""
    first = longest / 120
    return min(math.ldexp(first, count) - first, longest)


def _refuse_newer(envelope: JobEnvelope, configuration: JobConfiguration) -> None:
    raise InvalidArgsError(
        f"{configuration.name}: the arguments have version {args_version(envelope.headers)}; this process knows "
        f"version {configuration.args_version}. Retry it with newer code."
    )


def _of(context: JobExecutionContext) -> str:
    return f"{context.try_count}/{context.max_tries}" if context.max_tries else str(context.try_count)
