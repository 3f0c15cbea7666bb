"""The tasks that run jobs, one for each and one for all others; messages reach them undecoded."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Final, cast

import msgspec
from celery import bootsteps
from celery.exceptions import InvalidTaskError, Retry, TaskPredicate
from celery.worker.strategy import default as celery_strategy

from anyjob.extend import (
    TIME_LIMIT_GRACE,
    Abandoned,
    AnyjobError,
    Completed,
    Deferred,
    EnqueueError,
    EnvelopeError,
    JobEnvelope,
    JobExecutor,
    JobLogger,
    Outcome,
    log_event,
    read_envelope,
)
from anyjob.extend import Retry as RetryOutcome
from anyjob_celery.backend import CeleryBackend
from anyjob_celery.frame import TASK, ForeignMessageError, open_frame
from anyjob_celery.request import ENVELOPE
from anyjob_celery.stopping import StopFlag
from anyjob_celery.tracing import LED_TO, LedTo, TracedTask

__all__ = ["AddJobTasks", "JobAbandonedError", "JobTask", "OpenedMessage", "job_strategy"]

logger = JobLogger("anyjob.worker")


class JobAbandonedError(AnyjobError):
    """A job was given up and parked, after an error that Celery would take for an order. Shows Celery a failure."""


class JobTask(TracedTask):
    """Runs the job of a message. Its worker's main process settles the outcome, and acknowledges then (`JobRequest`).

    Celery learns the outcome from its exception, for events, results and signals: the job's own error, once the job was
    given up. It sets all options itself that safety needs, so that it is as safe in an application with other settings.
    """

    Request = "anyjob_celery.request:JobRequest"
    Strategy = "anyjob_celery.task:job_strategy"
    max_retries = 0
    ignore_result = True
    store_errors_even_if_ignored = True
    typing = False

    def __new__(cls, *_: Any, name: str = TASK, **__: Any) -> JobTask:
        """Make it of a class of its own, as Celery's decorator does: Sentry wraps a task's class."""
        made: JobTask = super().__new__(type(cls.__name__, (cls,), {"name": name, "__module__": cls.__module__}))
        return made

    def __init__(self, backend: CeleryBackend, executor: JobExecutor, stop: StopFlag, *, name: str = TASK) -> None:
        self.name = name
        self.jobs = backend
        self.executor = executor
        self.stop = stop
        # Set on the object: an application's annotations are set on its class.
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
        led_to: LedTo = request.get(LED_TO)
        led_to.outcome = outcome  # first of all: an exception from here on doesn't change it
        if isinstance(outcome, Completed):
            self._forget_failure()
            return
        if isinstance(outcome, RetryOutcome | Deferred):
            led_to.added = self._announce(outcome.envelope)
        _tell_celery(outcome)

    def _announce(self, envelope: JobEnvelope) -> Mapping[str, Any] | None:
        """Announce to tracers, in this process, a job that will be sent again; return the headers that they add."""
        publication = self.jobs.publication(envelope)
        publication.done()
        added: Mapping[str, Any] | None = None
        try:
            added = msgspec.json.decode(msgspec.json.encode(publication.added))  # plain values: they go through a pipe
        except Exception as error:  # noqa: BLE001  # theirs
            log_event(logger, logging.WARNING, "sent without what tracers add", envelope, reason=repr(error))
        return added

    def outcome_without(self, request: Mapping[str, Any], error: BaseException) -> Outcome:
        return self.executor.fail(
            request[ENVELOPE], error if isinstance(error, Exception) else RuntimeError(repr(error))
        )

    def is_stopping(self) -> bool:
        return self.stop.is_set()

    def _forget_failure(self) -> None:
        """Remove an earlier state of this job from a result backend, where its success writes none."""
        envelope = read_envelope(self.request.get(ENVELOPE))
        if not (envelope.try_count or envelope.lost_count or envelope.first_due_at != envelope.created_at):
            return  # it never ran before, and was neither put off nor retried
        try:
            self.backend.forget(envelope.id)
        except NotImplementedError:  # there is no result backend, or it can't
            return
        except Exception as error:  # noqa: BLE001  # the backend's
            log_event(logger, logging.WARNING, "its earlier state stays", envelope, reason=repr(error))

    def refuse(self, message: Any, why: object, connection_errors: tuple[type[Exception], ...]) -> None:
        """Park a message that is not ours; if it can't be parked, it goes back."""
        self.settle_unbegun(message, self.executor.refuse(_whole(message), str(why)), connection_errors)

    def settle_unbegun(self, message: Any, outcome: Outcome, connection_errors: tuple[type[Exception], ...]) -> None:
        """Settle a message that reached no job; if it can't be settled, it goes back."""
        try:
            self.jobs.settle(outcome)
        except EnqueueError as error:
            logger.error("a message could not be settled: it comes again: %s", error)  # noqa: TRY400
            message.reject_log_error(logger, connection_errors, requeue=True)
        else:
            message.ack_log_error(logger, connection_errors)


def job_strategy(task: JobTask, app: Any, consumer: Any, **options: Any) -> Callable[..., Any]:
    """Return the handler of messages for `task`: Celery's own, over messages that we have opened.

    Celery would decode the body, here and in the pool's child, and start tasks that are embedded in it; a job's
    arguments must arrive as they were sent, to the byte.
    """
    tasks: Mapping[str, Any] = app.tasks
    handlers: dict[str, Callable[..., Any]] = {}

    def handler_of(name: str) -> Callable[..., Any]:
        if name not in handlers:
            handlers[name] = celery_strategy(tasks[name], app, consumer, **options)
        return handlers[name]

    def on_message(message: Any, _body: Any, ack: Any, reject: Any, callbacks: Any, **more: Any) -> Any:
        opened = None
        try:
            opened = OpenedMessage(message, consumer, task, tasks)
            return handler_of(opened.headers["task"])(opened, None, ack, reject, callbacks, **more)
        except (ForeignMessageError, InvalidTaskError) as why:
            task.refuse(message, why, consumer.connection_errors)
        except Exception as error:
            logger.exception("raised around a message, before its job could be called")
            if opened is None or not opened.begun:
                raw = message.body if opened is None else opened.headers[ENVELOPE]
                task.settle_unbegun(message, task.executor.fail(raw, error), consumer.connection_errors)

    return on_message


_EMPTY: Final[Any] = ((), {}, {})


class OpenedMessage:
    """A message as Celery sees it: with an empty body, and the envelope among the headers."""

    content_type = content_encoding = None  # so that it is not decoded
    body = payload = _EMPTY
    begun = False

    def __init__(self, message: Any, consumer: Any, task: JobTask, tasks: Mapping[str, Any]) -> None:
        frame = open_frame(message.headers, message.body)
        self._message = message
        self.consumer = consumer
        self.headers = {**frame.headers, ENVELOPE: frame.raw, **_facts_of(frame.raw, task, tasks)}
        if not task.jobs.native_delay:
            self.headers["eta"] = None  # else any sender could fill a worker's memory until then

    def __getattr__(self, name: str) -> Any:
        return getattr(self._message, name)


def _facts_of(raw: bytes, task: JobTask, tasks: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the headers by which Celery knows the job: its task (or name, if it has none), its tries, its limit."""
    try:
        envelope = read_envelope(raw)
    except EnvelopeError:
        return {"shadow": None}
    name = envelope.name
    facts = {"retries": envelope.try_count, "shadow": name if name.isprintable() else repr(name)}
    configuration = task.executor.registry.find(name)
    if configuration is None:
        return facts
    if isinstance(tasks.get(configuration.name), JobTask):  # else it was registered after the pool, or is not ours
        facts |= {"task": configuration.name, "shadow": None}
    if configuration.time_limit is not None:  # a job that runs on beyond it is in a blocking call
        facts["timelimit"] = [configuration.time_limit + TIME_LIMIT_GRACE, None]
    return facts


class AddJobTasks(bootsteps.StartStopStep):
    """Gives a worker a task for each registered job, by the job's name.

    It does so when the application has all its own tasks, which keep their names: `anyjob.run` runs a job of such a
    name. And before the pool has children, which know the tasks that their parent knows.
    """

    def __init__(self, worker: Any, **options: Any) -> None:
        super().__init__(worker, **options)
        tasks, any_job = worker.app.tasks, worker.app.tasks[TASK]
        for configuration in any_job.executor.registry:
            if configuration.name not in tasks:
                worker.app.register_task(JobTask(any_job.jobs, any_job.executor, any_job.stop, name=configuration.name))
            elif not isinstance(tasks[configuration.name], JobTask):
                why = "a task has its name"
                log_event(
                    logger, logging.WARNING, "has no task of its own", job=configuration.name, task=TASK, reason=why
                )


def _tell_celery(outcome: Outcome) -> None:
    """Raise the exception that Celery shows for a failure or a retry."""
    if isinstance(outcome, Abandoned):
        raise _raised(outcome)
    if isinstance(outcome, Deferred):
        raise Retry("put off, uncharged", when=outcome.envelope.due_at)
    if isinstance(outcome, RetryOutcome):
        told = "its process was lost" if outcome.error is None else None
        raise Retry(told, outcome.error, outcome.envelope.due_at) from outcome.error


def _raised(outcome: Abandoned) -> Exception:
    error = outcome.error
    if issubclass(type(error), Exception) and not issubclass(type(error), TaskPredicate):
        return cast("Exception", error)
    return JobAbandonedError(f"{outcome.failure.error_type}: {outcome.failure.message}")


def _whole(message: Any) -> bytes:
    """Return a whole message: as it was delivered, if the transport has that, else as JSON, bytes in base64."""
    item: bytes | None = getattr(message, "item", None)
    if item is not None:
        return item
    body = message.body
    with suppress(UnicodeDecodeError):
        body = body if isinstance(body, str) else bytes(body).decode()
    return msgspec.json.encode({"headers": message.headers, "body": body}, enc_hook=repr)
