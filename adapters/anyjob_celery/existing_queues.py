"""The queues of an application of the user's own, and to whom the messages in them belong."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

from celery import Celery

from anyjob.extend import (
    BackendConfig,
    Clock,
    EnvelopeError,
    InvalidOptionError,
    JobState,
    ReadNative,
    StoredJob,
    read_envelope,
)
from anyjob_amqp import NotedNames as NamesOnAmqp
from anyjob_celery.frame import TASK, ForeignMessageError, open_frame
from anyjob_celery.native_messages import CarriedMessage, call_in
from anyjob_redis import NotedNames as NamesOnRedis

__all__ = ["AppQueues", "ReadCarried", "read_jobs", "read_natives"]

ReadCarried = Callable[[CarriedMessage], StoredJob | None]
"""Returns the job in a message; None: it is not to be shown. Never raises."""


def read_jobs(clock: Clock) -> ReadCarried:
    """Return a reader that shows our jobs only."""

    def read(message: CarriedMessage) -> StoredJob | None:
        if message.task != TASK:
            return None
        try:
            raw = open_frame(message.headers, message.body).raw
            envelope = read_envelope(raw)
        except (ForeignMessageError, EnvelopeError):
            return StoredJob(message.other_id, JobState.WAITING, message.body)
        is_later = envelope.due_at is not None and envelope.due_at > clock.now()
        return StoredJob(envelope.id, JobState.SCHEDULED if is_later else JobState.WAITING, raw)

    return read


def read_natives(read: ReadNative) -> ReadCarried:
    """Return a reader that shows all messages except our jobs."""
    return lambda message: None if message.task == TASK else read(call_in(message))


class AppQueues:
    """The queues of an application, by its names, at the moment of the call.

    These are the declared ones, those of our jobs, and those that a call ever named when it sent a job: these last are
    noted, because no other process of the application knows of them.
    """

    noted: NamesOnRedis | NamesOnAmqp
    """The transport's notes of them."""

    def __init__(self, app: Celery, config: BackendConfig) -> None:
        self._app = app
        self._config = config
        self._in_note: set[str] = set()

    @property
    def declared(self) -> Mapping[str, Any]:
        """The kombu queue of each."""
        queues: Mapping[str, Any] = self._app.amqp.queues
        return queues

    @property
    def default(self) -> str:
        return str(self._app.conf["task_default_queue"])

    def native(self, logical: str) -> str:
        """Return the queue to which jobs of a logical queue go."""
        return self.default if logical == "default" and logical not in self.declared else logical

    def note(self, names: Collection[str]) -> None:
        """Note the queues that jobs are about to be sent to, except those that every process knows."""
        if new := set(names) - self._in_note:
            if unknown := new - {*self._configured(), self.default, *self._ours()}:
                self.noted.add(unknown)
            self._in_note |= new

    @property
    def seen(self) -> frozenset[str]:
        """All queues, as far as known at the last call."""
        return frozenset({*self.declared, self.default, *self._ours(), *self._in_note})

    def __iter__(self) -> Iterator[str]:
        self._in_note.update(self.noted)
        return iter(sorted(self.seen))

    def _ours(self) -> Iterable[str]:
        return map(self.native, self._config.queues or self._config.known_queues())

    def _configured(self) -> Iterator[str]:
        """Return the queues of the application's settings: those declared since are this process's only."""
        for each in self._app.conf["task_queues"] or ():
            yield from _named(each)

    def chosen(self, names: Collection[str] | None) -> Iterable[str]:
        """Return these queues; None: all to which the application itself sends."""
        if names is None:
            return sorted({*self.declared, self.default, *self._routed()})
        for name in names:
            self.refuse_missing(name)
        return sorted(names)

    def _routed(self) -> Iterator[str]:
        """Return the queues that routes and tasks name: Celery makes them when a message is sent to them."""
        routes = self._app.conf["task_routes"] or ()
        for each in routes if isinstance(routes, list | tuple) else [routes]:
            pairs = (
                dict(each) if isinstance(each, Mapping | list | tuple) else {}
            )  # else it is a function, which needs a call
            for route in pairs.values():
                yield from _named(route.get("queue") if isinstance(route, Mapping) else route)
        for task in self._app.tasks.values():
            yield from _named(getattr(task, "queue", None))

    def refuse_missing(self, name: str) -> None:
        """Raise `InvalidOptionError` if the application has no such queue, and makes none."""
        if name not in self.declared and not self._app.conf["task_create_missing_queues"]:
            raise InvalidOptionError(
                f"Backend {self._config.alias!r}: the application has no queue {name!r}. "
                f"Queues: {', '.join(self.declared)}."
            )


def _named(queue: Any) -> Iterator[str]:
    """Return the name of a kombu queue, or of one that is its name already; "" if it has none."""
    if queue is not None:
        yield str(getattr(queue, "name", queue))
