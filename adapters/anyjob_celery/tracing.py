"""Brings a job's outcome out of Celery's tracer, whatever signals, loggers and result backends raise around it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Final

from billiard.einfo import ExceptionInfo, ExceptionWithTraceback
from celery.app.trace import TraceInfo, trace_ok_t
from celery.exceptions import Retry
from celery.states import FAILURE
from kombu.utils.encoding import safe_repr
from msgspec import Struct
from msgspec.structs import replace

from anyjob.extend import Completed, Deferred, JobLogger, Outcome, log_event
from anyjob_celery.private import TaskParts, Tracer

__all__ = ["LED_TO", "LedTo", "TracedTask", "added_in", "error_in", "outcome_in"]

logger = JobLogger("anyjob.worker")

LED_TO: Final = "anyjob_led_to"
"""The key of a request under which the task finds its `LedTo`."""


class LedTo(Struct):
    """The outcome of a job, and the headers that tracers added to the next message, if it was announced."""

    outcome: Outcome | None = None
    added: Mapping[str, Any] | None = None


class TracedTask(TaskParts):
    """A task whose result, for Celery's main process, is an outcome: see `outcome_in`."""

    def outcome_without(self, request: Mapping[str, Any], error: BaseException) -> Outcome:
        """Return the outcome of `request`, because `error` was raised before its job was called."""
        raise NotImplementedError

    def is_stopping(self) -> bool:
        """Whether this process is told to end."""
        raise NotImplementedError

    def trace(self, tracer: Tracer, task_id: str, args: Any, kwargs: Any, request: Mapping[str, Any]) -> Any:
        led_to = LedTo()
        traced = trace_ok_t(None, None, None, None)
        error: BaseException = RuntimeError("Celery did not call it")
        try:
            traced = super().trace(tracer, task_id, args, kwargs, {**request, LED_TO: led_to})
        except BaseException as raised:
            if not isinstance(raised, Exception) and self.is_stopping():
                raise
            log_event(logger, logging.WARNING, "raised around it, and to no effect", id=task_id, reason=repr(raised))
            error = raised
        told = traced.retval if isinstance(traced.retval, ExceptionInfo) else None
        outcome = led_to.outcome or self.outcome_without(request, error_in(told) if told else error)
        if isinstance(outcome, Completed):
            return trace_ok_t(None, None, traced.runtime, traced.retstr)
        if told is None:
            told = _told(error)
        told.outcome = replace(outcome, error=None)  # that may not go through a pipe
        told.added = led_to.added
        told.exception = _shown(error_in(told), None if isinstance(outcome, Deferred) else outcome.error)
        told.type = type(told.exception)
        return trace_ok_t(told, traced.info or TraceInfo(FAILURE), traced.runtime, None)


def outcome_in(told: Any) -> Outcome | None:
    """Return the outcome in a pool's report of a failed job; None if the pool itself failed it."""
    return getattr(told, "outcome", None)


def added_in(told: Any) -> Mapping[str, Any] | None:
    """Return the headers that were added where the job ran; None if it was not announced there."""
    return getattr(told, "added", None)


def error_in(told: Any) -> BaseException:
    """Return the error in a pool's report of a failed job."""
    error: BaseException = told.exception
    return error.exc if isinstance(error, ExceptionWithTraceback) else error  # not after it was pickled


class _ShownError(Exception):
    """Stands for a job's error on its way to the main process, which only shows it.

    The error itself may not go through a pipe, and may mean something to Celery.
    """

    def __repr__(self) -> str:
        return str(self)


def _shown(raised: BaseException, error: BaseException | None) -> Any:
    """Return a stand-in for a task's exception; `error` is the job's, which Celery may have wrapped."""
    if isinstance(raised, Retry):
        return Retry(str(raised), exc=None if error is None else _ShownError(safe_repr(error)), when=raised.when)
    return _ShownError(safe_repr(raised if error is None else error))


def _told(error: BaseException) -> Any:
    """Return `error` as Celery reports errors; one that ends a process would end the process that gets the report."""
    try:
        raise error if isinstance(error, Exception) else RuntimeError(repr(error))  # noqa: TRY301
    except Exception:  # noqa: BLE001
        return ExceptionInfo()
