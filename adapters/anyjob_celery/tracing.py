"""Brings a job's outcome out of Celery's tracer, whatever signals, loggers and result backends raise around it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from billiard.einfo import ExceptionInfo, ExceptionWithTraceback
from celery.app.trace import TraceInfo, trace_ok_t
from celery.states import FAILURE
from msgspec.structs import replace

from anyjob.log import JobLogger
from anyjob.outcome import Abandoned, Completed, Outcome
from anyjob_celery.private import TaskParts, Tracer

__all__ = ["LED_TO", "TracedTask", "error_in", "outcome_in"]

logger = JobLogger("anyjob.worker")

LED_TO: Final = "anyjob_led_to"
"""The key of a request under which the task leaves its outcome, in a list."""


class TracedTask(TaskParts):
    """A task whose result, for Celery's main process, is an outcome: see `outcome_in`."""

    def outcome_without(self, request: Mapping[str, Any], error: BaseException) -> Outcome:
        """Return what `request` leads to, since something raised `error` before its job was called."""
        raise NotImplementedError

    def is_stopping(self) -> bool:
        """Whether this process is told to end."""
        raise NotImplementedError

    def trace(self, tracer: Tracer, task_id: str, args: Any, kwargs: Any, request: Mapping[str, Any]) -> Any:
        led_to: list[Outcome] = []
        traced = trace_ok_t(None, None, None, None)
        error: BaseException = RuntimeError("Celery did not call it")
        try:
            traced = super().trace(tracer, task_id, args, kwargs, {**request, LED_TO: led_to})
        except BaseException as raised:
            if not isinstance(raised, Exception) and self.is_stopping():
                raise
            logger.warning("id=%s: raised around it, and to no effect: %r", task_id, raised)
            error = raised
        told = traced.retval if isinstance(traced.retval, ExceptionInfo) else None
        outcome = led_to[0] if led_to else self.outcome_without(request, error_in(told) if told else error)
        if isinstance(outcome, Completed):
            return trace_ok_t(None, None, traced.runtime, traced.retstr)
        if told is None:
            told = _told(error)
        told.outcome = replace(outcome, error=None) if isinstance(outcome, Abandoned) else outcome
        return trace_ok_t(told, traced.info or TraceInfo(FAILURE), traced.runtime, None)


def outcome_in(told: Any) -> Outcome | None:
    """Return the outcome in what a pool told of a job that failed; None if the pool itself told it."""
    return getattr(told, "outcome", None)


def error_in(told: Any) -> BaseException:
    """Return the error in what a pool told of a job that failed."""
    error: BaseException = told.exception
    return error.exc if isinstance(error, ExceptionWithTraceback) else error  # not so once it was pickled


def _told(error: BaseException) -> Any:
    """Return `error` as Celery tells of errors; one that means the end of a process would end the one that is told."""
    try:
        raise error if isinstance(error, Exception) else RuntimeError(repr(error))  # noqa: TRY301
    except Exception:  # noqa: BLE001
        return ExceptionInfo()
