"""The one task that runs every job, and how a message gets to it undecoded."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

import msgspec
from celery import Task
from celery.exceptions import Ignore, InvalidTaskError, Reject, Retry
from celery.utils.log import get_logger
from celery.worker.strategy import default as celery_strategy

from anyjob.errors import AnyjobError, EnqueueError
from anyjob.executor import JobExecutor
from anyjob.log import JobLogger
from anyjob.outcome import Abandoned, Completed, Deferred, Outcome
from anyjob_celery.backend import CeleryBackend
from anyjob_celery.frame import TASK, ForeignMessageError, open_frame
from anyjob_celery.stopping import StopFlag

__all__ = ["JobAbandonedError", "JobTask", "job_strategy"]

get_logger("anyjob.worker")  # makes it a child of Celery's, whose worker sets up the output
logger = JobLogger("anyjob.worker")

ENVELOPE: Final = "anyjob_envelope"
"""The key of a request under which its task finds the raw envelope."""


class JobAbandonedError(AnyjobError):
    """A job was given up and parked. Raised for Celery's sake, which then shows a failure."""


class JobTask(Task):
    """Runs the job of a message: execute, settle, and only then does Celery acknowledge.

    What it raises after settling is how Celery learns the outcome, for its events, results and signals. All that it
    needs for safety it says itself, so that it is as safe in an application that is set up otherwise.
    """

    name = TASK
    Strategy = "anyjob_celery.task:job_strategy"
    acks_late = True
    acks_on_failure_or_timeout = True
    reject_on_worker_lost = True
    max_retries = 0
    ignore_result = True
    store_errors_even_if_ignored = True
    throws = (JobAbandonedError,)
    typing = False

    def __init__(self, backend: CeleryBackend, executor: JobExecutor, stop: StopFlag) -> None:
        self.jobs = backend
        self.executor = executor
        self.stop = stop

    @classmethod
    def annotate(cls) -> None:
        """Take over no `task_annotations`: `{"*": {"acks_late": False}}` of an application would lose killed jobs."""

    def run(self) -> None:
        request = self.request
        outcome = self.executor.execute(
            request.get(ENVELOPE), redelivered=bool(request.delivery_info.get("redelivered")), stop=self.stop
        )
        try:
            self.jobs.settle(outcome)
        except EnqueueError as error:
            logger.error("not settled id=%s: it comes again: %s", request.id, error)  # noqa: TRY400
            raise Reject(error, requeue=True) from error
        _tell_celery(outcome)

    def refuse(self, message: Any, why: object, connection_errors: tuple[type[Exception], ...]) -> None:
        """Park a message that is none of ours; if it can't be parked, it goes back."""
        try:
            self.jobs.settle(self.executor.refuse(_whole(message), str(why)))
        except EnqueueError as error:
            logger.error("a foreign message could not be parked: %s", error)  # noqa: TRY400
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
        try:
            opened = _Opened(message, native_delay=task.jobs.native_delay)
            return handle(opened, None, ack, reject, callbacks, **more)
        except (ForeignMessageError, InvalidTaskError) as why:
            task.refuse(message, why, consumer.connection_errors)

    return on_message


_EMPTY: Final[Any] = ((), {}, {})


class _Opened:
    """A message as Celery is to see it: nothing in its body, and the envelope among the headers."""

    content_type = content_encoding = None  # so that nobody decodes
    body = payload = _EMPTY

    def __init__(self, message: Any, *, native_delay: bool) -> None:
        frame = open_frame(message.headers, message.body)
        self._message = message
        self.headers = {**frame.headers, ENVELOPE: frame.raw}
        if not native_delay:
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
