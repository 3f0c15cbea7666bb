"""Sends the signals of a publish by Celery. Tracers put their headers into the message there."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping
from contextvars import Context, copy_context
from typing import Any

import msgspec

from anyjob.extend import JobEnvelope, JobLogger, log_event, write_envelope
from anyjob_celery.frame import headers_of
from anyjob_celery.private_publishing import is_send_task_wrapped, known_task, through_send_task

__all__ = ["Publication", "heard_apart", "send_with"]

logger = JobLogger("anyjob.backend")


class Publication:
    """A job on its way to the broker: to listeners, the publication of a task that has the job's name.

    Headers that they add to its `headers` travel; their other changes have no effect. They are not called if there are
    headers that they `added` before, in another process.
    """

    def __init__(
        self, envelope: JobEnvelope, eta: str | None = None, *, added: Mapping[str, Any] | None = None
    ) -> None:
        self._envelope = envelope
        self.headers = {**(added or {}), **headers_of(envelope)}
        if eta is not None:
            self.headers["eta"] = eta
        self.added: Mapping[str, Any] | None = added
        self._context = copy_context() if added is None and _is_heard() else None
        if self._context is not None:
            through = through_send_task if is_send_task_wrapped() else _at_once
            try:
                self._hear(self._context, through, envelope.name, {**self.headers, "task": envelope.name}, self._before)
            except Exception as error:  # noqa: BLE001  # of who wraps it: no job is to be lost for that
                log_event(logger, logging.ERROR, "sent without what tracers add", envelope, exc_info=error)

    def done(self) -> None:
        """Tell that the broker accepted it."""
        if self._context is not None:
            self._hear(self._context, _signals().after_task_publish.send, **self._told(self.headers))

    def _before(self, headers: Mapping[str, Any]) -> None:
        from kombu import Queue  # a listener has imported it

        told, declare = self._told(headers), [Queue(self._envelope.queue)]
        _signals().before_task_publish.send(**told, declare=declare, retry_policy={}, properties={})
        self.added = {name: value for name, value in told["headers"].items() if name not in self.headers}
        self.headers |= self.added

    def _told(self, headers: Mapping[str, Any]) -> dict[str, Any]:
        name = self._envelope.name
        return {
            "sender": name,
            "headers": {**headers, "task": name},
            "body": ((msgspec.json.decode(write_envelope(self._envelope)),), {}, {}),
            "exchange": "",
            "routing_key": self._envelope.queue,
        }

    def _hear(self, context: Context, tell: Callable[..., object], *args: Any, **options: Any) -> None:
        with known_task(self._envelope.name):
            context.run(tell, *args, **options)


def heard_apart(name: str, publish: Callable[[], object]) -> None:
    """Let Celery publish a job of that name, and call its listeners, in a context of its own.

    A span that a tracer begins before a publish and ends after it neither stays open nor contains the next job.
    """
    if not _is_heard():
        publish()
        return
    with known_task(name):
        copy_context().run(publish)


def send_with(app: Any, added: Mapping[str, Any], name: str, **options: Any) -> None:
    """Call `send_task`, whose message has these headers and those that listeners add."""

    class Producer:
        def __init__(self, producer: Any) -> None:
            self._producer = producer

        def __getattr__(self, name: str) -> Any:
            return getattr(self._producer, name)

        def publish(self, body: Any, *, headers: Mapping[str, Any], **options: Any) -> Any:
            return self._producer.publish(body, headers={**headers, **added}, **options)

    with app.producer_or_acquire() as producer:
        app.send_task(name, producer=Producer(producer), **options)


def _is_heard() -> bool:
    """Whether there are listeners: none in a process that never imported Celery."""
    signals = _signals()
    if signals is None:
        return False
    return bool(signals.before_task_publish.receivers or signals.after_task_publish.receivers or is_send_task_wrapped())


def _at_once(_name: str, headers: Mapping[str, Any], publish: Callable[[Mapping[str, Any]], None]) -> None:
    publish(headers)


def _signals() -> Any:
    return sys.modules.get("celery.signals")
