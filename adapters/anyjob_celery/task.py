"""The one task that runs every job, and how a message gets to it undecoded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Final

import msgspec
from celery.exceptions import Ignore, InvalidTaskError, Retry
from celery.utils.log import get_logger
from celery.worker.strategy import default as celery_strategy

from anyjob.errors import AnyjobError, EnqueueError
from anyjob.executor import JobExecutor
from anyjob.log import JobLogger
from anyjob.outcome import Abandoned, Completed, Deferred, Outcome
from anyjob.timelimit import TIME_LIMIT_GRACE
from anyjob_celery.backend import CeleryBackend
from anyjob_celery.frame import TASK, ForeignMessageError, open_frame
from anyjob_celery.request import ENVELOPE
from anyjob_celery.stopping import StopFlag
from anyjob_celery.tracing import LED_TO, TracedTask

__all__ = ["JobAbandonedError", "JobTask", "job_strategy"]

get_logger("anyjob.worker")  # makes it a child of Celery's, whose worker sets up the output
logger = JobLogger("anyjob.worker")


class JobAbandonedError(AnyjobError):
    """A job was given up and parked. Raised for Celery's sake, which then shows a failure."""


class JobTask(TracedTask):
    """Runs the job of a message. Its worker's main process settles the outcome, and acknowledges then (`JobRequest`).

    What it raises is how Celery learns the outcome, for its events, results and signals. All that it needs for safety
    it says itself, so that it is as safe in an application that is set up otherwise.
    """

    name = TASK
    Request = "anyjob_celery.request:JobRequest"
    Strategy = "anyjob_celery.task:job_strategy"
    max_retries = 0
    ignore_result = True
    store_errors_even_if_ignored = True
    throws = (JobAbandonedError,)
    typing = False

    def __init__(self, backend: CeleryBackend, executor: JobExecutor, stop: StopFlag) -> None:
        self.jobs = backend
        self.executor = executor
        self.stop = stop
        # Said of the object: what an application's annotations say is said of its class.
        self.acks_late = self.acks_on_failure_or_timeout = self.acks_on_failure = self.acks_on_timeout = True
        self.reject_on_worker_lost = True
        self.retry_on_worker_lost = False

    @classmethod
    def annotate(cls) -> None:
        """Take over no `task_annotations`: `{"*": {"acks_late": False}}` of an application would lose killed jobs."""

    def run(self) -> None:
        request = self.request
        outcome = self.executor.execute(
            request.get(ENVELOPE), redelivered=bool(request.delivery_info.get("redelivered")), stop=self.stop
        )
        request.get(LED_TO).append(outcome)
        _tell_celery(outcome)

    def outcome_without(self, request: Mapping[str, Any], error: BaseException) -> Outcome:
        return self.executor.fail(
            request[ENVELOPE], error if isinstance(error, Exception) else RuntimeError(repr(error))
        )

    def is_stopping(self) -> bool:
        return self.stop.is_set()

    def refuse(self, message: Any, why: object, connection_errors: tuple[type[Exception], ...]) -> None:
        """Park a message that is none of ours; if it can't be parked, it goes back."""
        self.settle_unbegun(message, self.executor.refuse(_whole(message), str(why)), connection_errors)

    def settle_unbegun(self, message: Any, outcome: Outcome, connection_errors: tuple[type[Exception], ...]) -> None:
        """Settle a message that came to no job; if it can't be settled, it goes back."""
        try:
            self.jobs.settle(outcome)
        except EnqueueError as error:
            logger.error("a message could not be settled: it comes again: %s", error)  # noqa: TRY400
            message.reject_log_error(logger, connection_errors, requeue=True)
        else:
            message.ack_log_error(logger, connection_errors)


def job_strategy(task: JobTask, app: Any, consumer: Any, **options: Any) -> Callable[..., Any]:
    """Return the handler of messages for `task`: Celery's own, but what it is given has been opened by us.

    Celery would decode the body, here and in the pool's child, and start what is embedded in it; the arguments of a job
    are to come out as they went in, to the byte.
    """
    handle = celery_strategy(task, app, consumer, **options)

    def on_message(message: Any, _body: Any, ack: Any, reject: Any, callbacks: Any, **more: Any) -> Any:
        opened = None
        try:
            opened = _Opened(message, consumer, task)
            return handle(opened, None, ack, reject, callbacks, **more)
        except (ForeignMessageError, InvalidTaskError) as why:
            task.refuse(message, why, consumer.connection_errors)
        except Exception as error:
            logger.exception("raised around a message, before its job could be called")
            if opened is None or not opened.begun:
                raw = message.body if opened is None else opened.headers[ENVELOPE]
                task.settle_unbegun(message, task.executor.fail(raw, error), consumer.connection_errors)

    return on_message


_EMPTY: Final[Any] = ((), {}, {})


class _Opened:
    """A message as Celery is to see it: nothing in its body, and the envelope among the headers."""

    content_type = content_encoding = None  # so that nobody decodes
    body = payload = _EMPTY
    begun = False

    def __init__(self, message: Any, consumer: Any, task: JobTask) -> None:
        frame = open_frame(message.headers, message.body)
        self._message = message
        self.consumer = consumer
        limit = task.executor.time_limit_of(frame.raw)
        self.headers = {**frame.headers, ENVELOPE: frame.raw}
        if limit is not None:  # in the job's own process; what is still there then is in a call that blocks
            self.headers["timelimit"] = [limit + TIME_LIMIT_GRACE, None]
        if not task.jobs.native_delay:
            self.headers["eta"] = None  # else anybody could fill a worker's memory until then

    def __getattr__(self, name: str) -> Any:
        return getattr(self._message, name)


def _tell_celery(outcome: Outcome) -> None:
    if isinstance(outcome, Completed):
        return
    if isinstance(outcome, Deferred):
        raise Ignore
    if isinstance(outcome, Abandoned):
        raise JobAbandonedError(f"{outcome.failure.error_type}: {outcome.failure.message}")
    raise Retry(outcome.envelope.last_error or "its process was lost", when=outcome.envelope.due_at)


def _whole(message: Any) -> bytes:
    """Return all that a message holds: as it came, if the transport has it, else as JSON, bytes in base64."""
    item: bytes | None = getattr(message, "item", None)
    if item is not None:
        return item
    body = message.body
    with suppress(UnicodeDecodeError):
        body = body if isinstance(body, str) else bytes(body).decode()
    return msgspec.json.encode({"headers": message.headers, "body": body}, enc_hook=repr)
