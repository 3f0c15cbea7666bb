"""Runs one job: raw envelope in, outcome out. Every backend's worker, native or ours, comes through here."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from contextvars import copy_context
from datetime import datetime, timedelta
from functools import partial
from threading import Event
from typing import Any, Final, Literal

from msgspec import UNSET, Struct
from msgspec.structs import replace

from anyjob.base.clock import Clock, SystemClock
from anyjob.base.envelope import MAX_COUNT, MAX_ERROR_LENGTH, JobEnvelope, count_loss, read_envelope, write_envelope
from anyjob.base.error_text import describe_error, tellable, type_name
from anyjob.base.errors import (
    AnyjobError,
    EnvelopeError,
    InvalidArgsError,
    JobDefinitionError,
    JobLostError,
    JobResolutionError,
    JobTimeLimitError,
    UnknownJobError,
    UntellableError,
)
from anyjob.base.log import JobLogger, log_event
from anyjob.base.moments import plain_moment
from anyjob.define.configuration import JobConfiguration
from anyjob.define.context import JobExecutionContext, running_job
from anyjob.define.registry import JobRegistry
from anyjob.define.retry import DEFAULT_RETRY, GiveUp, RetryLater, RetryPolicy, Snooze
from anyjob.define.serializer import JobSerializer, JsonJobSerializer
from anyjob.define.upgrades import args_version
from anyjob.run.invoker import JobInvoker, JobResolver, construct
from anyjob.run.postponing import DEFERRALS_HEADER, defer, snooze, snoozes
from anyjob.seams.observer import JobObservers, ProcessObservers, shielded
from anyjob.seams.outcome import Abandoned, Completed, Deferred, JobFailure, Outcome, Retry, worker_name

__all__ = ["DEFAULT_MAX_LOSSES", "DEFER_UNKNOWN", "JobExecutor"]

logger = JobLogger("anyjob.worker")

DEFAULT_MAX_LOSSES: Final = 5
DEFER_UNKNOWN: Final = 3600.0

# Errors that no further try can mend.
_PERMANENT: Final = (GiveUp, InvalidArgsError, JobDefinitionError, JobResolutionError)


# Raised by a job on purpose, or about it: only its cause is worth a traceback.
_VERDICTS: Final = (GiveUp, RetryLater, Snooze, JobResolutionError, JobTimeLimitError, JobLostError)


class _Run(Struct, frozen=True, gc=False):
    """A job about to be called."""

    envelope: JobEnvelope
    configuration: JobConfiguration
    args: Any
    context: JobExecutionContext
    raw: bytes


class JobExecutor:
    """Executes envelopes. Thread-safe; one for each process is enough.

    `execute` decides everything and does nothing but run the job: the caller settles the outcome (in its store, or by
    `JobBackend.settle`) and then acknowledges the message. A caller that crashes in between leaves a job that is
    redelivered, never one that is lost.
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
        self._now = _plain_now(self.clock)
        self.serializer = serializer or JsonJobSerializer()
        self._worker = worker
        self._invoker = JobInvoker(self.clock, resolver)
        self._observers = ProcessObservers(observers or JobObservers())
        self._retry = retry
        self._max_losses = max_losses
        self._deferred_for = defer_unknown
        self._met_unknown = False

    def execute(self, raw: bytes, *, redelivered: bool = False, stop: Event | None = None) -> Outcome:
        """Run the job in `raw` and return its outcome. Raises no error of the job's own.

        `redelivered`: the broker delivered this very message before, to a worker that did not settle it; the loss is
        counted and the job sent anew before it runs. `stop`: set while the worker stops, before anything is raised in
        its jobs to end them.

        Re-raises only an exception meant for the process: any BaseException that is no Exception while `stop` is set.
        The caller then gives the job back, uncharged, and passes the exception on. At any other time the job raised it:
        that is a failed try, because a job that is given back uncharged would run for ever.
        """
        run = self._begin(raw, redelivered, stop)
        if not isinstance(run, _Run):
            return run
        token = running_job.set(run.context)
        try:
            # In a copy: the next job of this thread must not see the variables that this one sets.
            result = copy_context().run(self._invoker.invoke, run.configuration, run.args, stop, run.envelope)
        except BaseException as error:  # noqa: BLE001  # _failed re-raises an exception that is not the job's
            return self._failed(run, error)
        finally:
            running_job.reset(token)
        return self._succeeded(run, result)

    async def aexecute(self, raw: bytes, *, redelivered: bool = False, stop: Event | None = None) -> Outcome:
        """Like `execute`, with an async job in the caller's own task: for tests, whose loop has the resources it needs.

        Also re-raises the exception that cancels that task.
        """
        run = self._begin(raw, redelivered, stop)
        if not isinstance(run, _Run):
            return run
        token = running_job.set(run.context)
        try:
            result = await self._invoker.ainvoke(run.configuration, run.args, run.envelope)
        except BaseException as error:
            if run.configuration.is_async and _cancels_the_caller(error):
                self._observers.tell("released", run.envelope)
                raise
            return self._failed(run, error)
        finally:
            running_job.reset(token)
        return self._succeeded(run, result)

    def fail(self, raw: bytes, error: Exception, *, started_at: datetime | None = None) -> Outcome:
        """Return the outcome of a try that a worker ended together with its process: as if the job had raised `error`.
        `GiveUp` parks it. For workers that know why they ended a process; a job whose process crashed is redelivered.
        """
        try:
            envelope = read_envelope(raw)
        except EnvelopeError as unreadable:
            return self._abandon(raw, None, unreadable, self._now())
        configuration = self.registry.find(envelope.name)
        policy = self._retry if configuration is None else self.policy_of(configuration)
        context = JobExecutionContext(envelope, policy, started_at or self._now(), None)
        return self._charge(envelope, context, error)

    def time_limit_of(self, raw: bytes) -> float | None:
        """Return the seconds that the job in `raw` may run, or None: for workers that watch over a process."""
        try:
            configuration = self.registry.find(read_envelope(raw).name)
        except EnvelopeError:
            return None
        return None if configuration is None else configuration.time_limit

    def refuse(self, raw: bytes, why: str) -> Abandoned:
        """Return the outcome of a message whose frame shows that it is not ours: `raw` is kept, nothing runs."""
        return self._abandon(raw, None, EnvelopeError(why), self._now())

    @property
    def worker(self) -> str:
        """The name of this process in claims, logs and failures: asked each time, because the process may be a
        forked child.
        """
        return self._worker or worker_name()

    def policy_of(self, configuration: JobConfiguration) -> RetryPolicy | None:
        """Return the retry policy in force for a job: its own, or the one of the settings; None is a single try."""
        return self._retry if configuration.retry is UNSET else configuration.retry

    def cancel_async_jobs(self, stop: Event) -> None:
        """Cancel the running async jobs that were executed with this `stop`; uncharged, once it is set."""
        self._invoker.loop.cancel(stop)

    def tell(self, event: Literal["released", "lost"], raw: bytes) -> None:
        """Tell observers of a job that goes back although `execute` still runs it, or whose process has ended."""
        if self._observers:
            with suppress(EnvelopeError):
                self._observers.tell(event, read_envelope(raw))

    def end_process(self) -> None:
        """Tell observers, once, that this process ends, if they were told of jobs in it.

        For adapters whose processes end by `os._exit`; in any other the interpreter's exit does so.
        """
        self._observers.end_process()

    def close(self) -> None:
        """Stop the event loop of async jobs and the watch over time limits, if they were started."""
        self._invoker.close()

    def _begin(self, raw: bytes, redelivered: bool, stop: Event | None) -> _Run | Outcome:
        try:
            return self._read(raw, redelivered, stop)
        except BaseException as error:
            if _is_for_the_process(error, stop is not None and stop.is_set()):
                raise
            return self._abandon(raw, None, error, self._now())  # else it would be redelivered for ever

    def _read(self, raw: bytes, redelivered: bool, stop: Event | None) -> _Run | Outcome:
        now = self._now()
        try:
            envelope = read_envelope(raw)
        except EnvelopeError as error:
            return self._abandon(raw, None, error, now)
        if redelivered:
            envelope = count_loss(envelope)
            self._observers.tell("lost", envelope)
        if envelope.lost_count > self._max_losses or envelope.lost_count == MAX_COUNT:
            lost = JobLostError(f"its process ended {envelope.lost_count} times while it ran")
            return self._abandon(write_envelope(envelope), envelope, lost, now)
        if redelivered:
            self._log(logging.WARNING, "redelivered", envelope, lost=envelope.lost_count)
            return Retry(envelope)
        if envelope.due_at is not None and envelope.due_at > now:
            return Deferred(envelope)
        configuration = self.registry.find(envelope.name)
        if configuration is None:
            return self._defer_unknown(raw, envelope, now)
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
        except BaseException as error:
            if _is_for_the_process(error, context.should_stop):
                raise
            return self._abandon(raw, envelope, error, now)  # a serializer will raise the same error again
        if logger.isEnabledFor(logging.INFO):
            waited = (now - (envelope.due_at or envelope.created_at)).total_seconds()
            self._log(logging.INFO, "started", envelope, **_try_of(context), waited=waited, worker=self.worker)
        if self._observers:
            self._observers.tell("started", context)
        return _Run(envelope, configuration, args, context, raw)

    def _succeeded(self, run: _Run, result: Any) -> Completed:
        if logger.isEnabledFor(logging.INFO):
            took = (self._now() - run.context.started_at).total_seconds()
            self._log(logging.INFO, "done", run.envelope, **_try_of(run.context), took=took)
        if self._observers:
            self._observers.tell("succeeded", run.context, result)
        return _COMPLETED

    def _failed(self, run: _Run, error: BaseException) -> Outcome:
        """Return the outcome of a failed try; re-raise an exception that was meant for the process, not for the job."""
        envelope, context = run.envelope, run.context
        if _is_for_the_process(error, context.should_stop):
            self._log(logging.WARNING, "interrupted", envelope, error=type_name(error, module=True))
            self._observers.tell("released", envelope)
            raise error
        try:
            return self._snooze(envelope, context, error) or self._charge(envelope, context, error)
        except BaseException as broken:
            if _is_for_the_process(broken, context.should_stop):
                raise
            return self._abandon(run.raw, envelope, broken, self._now())  # our own fault must not repeat the job

    def _snooze(self, envelope: JobEnvelope, context: JobExecutionContext, error: BaseException) -> Deferred | None:
        """Postpone a job that asked for it, uncharged; None if it didn't ask, or asked too often."""
        kind = type(error)
        if not issubclass(kind, Snooze) and not (context.should_stop and issubclass(kind, RetryLater)):
            return None
        wish: Any = error
        try:
            later = snooze(envelope, wish, context.started_at, self._now())
        except Exception:  # noqa: BLE001  # a wish that can't be followed: _charge asks again, and tells
            return None
        if later is None or later.due_at is None:
            self._log(logging.WARNING, "snoozed too often", envelope, snoozes=snoozes(envelope))
            return None
        error = tellable(error)
        self._log(logging.INFO, "snoozed", later, until=later.due_at, **_why(error))
        self._observers.tell("snoozed", context, error, later.due_at)
        return Deferred(later, error)

    def _charge(self, envelope: JobEnvelope, context: JobExecutionContext, error: BaseException) -> Outcome:
        """Count the try as failed, and return its outcome."""
        now, next_try_at = self._now(), None
        try:
            next_try_at = _next_try_at(context, error, now)
        except BaseException as broken:
            if _is_for_the_process(broken, context.should_stop):
                raise
            error = broken  # a policy or a wish that can't be followed
        error = tellable(error)
        envelope = replace(
            envelope,
            args=envelope.args.copy(),
            try_count=min(context.try_count, MAX_COUNT),
            last_try_at=context.started_at,
            last_error=describe_error(error, MAX_ERROR_LENGTH),
            due_at=next_try_at or envelope.due_at,
            headers={key: value for key, value in envelope.headers.items() if key != DEFERRALS_HEADER},
        )
        self._observers.tell("failed", context, error, next_try_at)
        if next_try_at is None:
            return self._abandon(write_envelope(envelope), envelope, error, now, took=now - context.started_at)
        self._log(
            logging.WARNING,
            "failed",
            envelope,
            **_try_of(context),
            took=(now - context.started_at).total_seconds(),
            **_why(error),
            next_=next_try_at,
            worker=self.worker,
            exc_info=_traced(error, ran=True),
        )
        return Retry(envelope, error)

    def _defer_unknown(self, raw: bytes, envelope: JobEnvelope, now: datetime) -> Outcome:
        if not self._met_unknown:
            self._met_unknown = True
            self._log(logging.WARNING, "met an unknown name", envelope, reason=_ANOTHER_APPLICATION)
        return self._defer(raw, envelope, now, "unknown", partial(self._refuse_unknown, envelope.name))

    def _refuse_unknown(self, name: str) -> None:
        try:
            self.registry.get(name)
        except UnknownJobError as error:
            raise UnknownJobError(f"{error} {_ANOTHER_APPLICATION}") from None

    def _defer(
        self, raw: bytes, envelope: JobEnvelope, now: datetime, event: str, refuse: Callable[[], object]
    ) -> Outcome:
        """Let a job wait for newer code, uncharged; after an hour park it with the error that `refuse` raises."""
        later = defer(envelope, now, self._deferred_for)
        try:
            refuse()
        except AnyjobError as error:
            if later is None or later.due_at is None:
                return self._abandon(raw, envelope, error, now)
            wait = (later.due_at - now).total_seconds()
            self._log(logging.WARNING, event, envelope, deferred=wait, worker=self.worker)
            return Deferred(later, error)
        return Deferred(envelope)  # it is known by now

    def _abandon(
        self,
        raw: bytes,
        envelope: JobEnvelope | None,
        error: BaseException,
        now: datetime,
        took: timedelta | None = None,
    ) -> Abandoned:
        """Give up a job, after `took` if it ran."""
        error, tries = tellable(error), envelope.try_count if envelope else 0
        outcome = Abandoned(raw, JobFailure.of(error, at=now, worker=self.worker, tries=tries), envelope, error)
        self._log(
            logging.ERROR,
            "gave up",
            envelope,
            tries=tries,
            took=None if took is None else took.total_seconds(),
            **_why(error),
            worker=self.worker,
            exc_info=_traced(error, ran=took is not None),
        )
        self._observers.tell("abandoned", outcome)
        return outcome

    def _log(self, level: int, event: str, envelope: JobEnvelope | None, **facts: Any) -> None:
        with shielded():
            log_event(logger, level, event, envelope, **facts)


_COMPLETED: Final = Completed()
_ANOTHER_APPLICATION: Final = (
    "If another application has its jobs on this server, give each a `namespace` of its own in the settings: in one "
    "they take each other's."
)


def _plain_now(clock: Clock) -> Callable[[], datetime]:
    """Return a function that tells the time in the standard library's own type: the system's clock does so by
    itself.
    """
    return clock.now if type(clock) is SystemClock else lambda: plain_moment(clock.now())


def _is_for_the_process(error: BaseException, stopping: bool) -> bool:
    """Tell an order to the process from a job's own `sys.exit()`."""
    return stopping and not issubclass(type(error), Exception)


def _next_try_at(context: JobExecutionContext, error: BaseException, now: datetime) -> datetime | None:
    policy = context.policy
    # By the true type: isinstance would ask the exception as well, which may lie, or raise.
    if policy is None or issubclass(type(error), (*_PERMANENT, *policy.give_up_on)):
        return None
    wish: Any = error if issubclass(type(error), RetryLater | Snooze) else None
    at = policy.next_try_at(
        try_count=context.try_count,
        started_at=context.started_at,
        first_due_at=context.first_due_at,
        wanted=None if wish is None else plain_moment(wish.wanted_at(now)),
    )
    return None if at is None or context.try_count >= MAX_COUNT else plain_moment(at)


def _cancels_the_caller(error: BaseException) -> bool:
    """Tell a cancellation of the task that runs an async job from an exception that the job itself raised."""
    import asyncio

    if issubclass(type(error), Exception | SystemExit | KeyboardInterrupt):
        return False
    try:
        task = asyncio.current_task()
    except RuntimeError:  # another library's loop, whose cancellation has a type of its own
        return True
    return task is None or task.cancelling() > 0 or issubclass(type(error), GeneratorExit)


def _refuse_newer(envelope: JobEnvelope, configuration: JobConfiguration) -> None:
    raise InvalidArgsError(
        f"{configuration.name}: the arguments have version {args_version(envelope.headers)}; this process knows "
        f"version {configuration.args_version}. Retry it with newer code."
    )


def _try_of(context: JobExecutionContext) -> Mapping[str, Any]:
    return {"try_": context.try_count, "max_tries": context.max_tries}


def _why(error: BaseException) -> Mapping[str, Any]:
    """Return the facts about a tellable error."""
    return {"error": type_name(error, module=True), "reason": str(error) or None}


def _traced(error: BaseException, *, ran: bool) -> BaseException | None:
    """Return the error whose traceback is worth logging: none for a job that we refuse before it runs."""
    kind = type(error)
    if issubclass(kind, _VERDICTS):
        return error.__cause__
    own = issubclass(kind, AnyjobError) and kind is not UntellableError
    return None if own and not ran else error
