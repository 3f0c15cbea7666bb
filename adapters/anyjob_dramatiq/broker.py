"""Our Dramatiq broker: its queues are logical ones, its actors the registry's jobs, its consumers one intake's."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from dramatiq import Actor, Broker, Message, Middleware
from dramatiq.errors import ActorNotFound
from dramatiq.middleware import Retries

from anyjob.extend import ConfigurationError, JobEnvelope
from anyjob_dramatiq.frame import Delivery
from anyjob_dramatiq.intake import JobConsumer, JobIntake
from anyjob_dramatiq.runner import JobRunner

__all__ = ["ACTOR_OPTIONS", "JobBroker", "forbidden_options"]

ACTOR_OPTIONS: Final = {"max_retries": 0}
"""anyjob owns the retries."""

# Options that Dramatiq reads from a message and no middleware's `actor_options` names.
_UNDECLARED: Final = {"eta", "retries", "group_completion_uuid", "group_completion_callbacks"}


class _JobRetries(Retries):
    """Has Dramatiq reject jobs that were given up. It retries none: the next try was sent when the job was settled."""

    def after_process_message(
        self,
        _broker: Broker,
        message: Any,
        *,
        result: Any = None,  # noqa: ARG002
        exception: BaseException | None = None,
    ) -> None:
        if exception is not None and not message.args[0].again:
            message.fail()


class JobBroker(Broker):
    """A broker for nothing but our jobs. It sends by `send`; with an intake and a runner it is a worker's as well.

    Middleware wraps each job as it does an actor. The job's name is the actor's, whether the registry knows it or
    not: the executor defers an unknown one, and Dramatiq does not dead-letter it.
    """

    def __init__(self, send: Callable[[Message[Any]], None], middleware: Iterable[Middleware] = ()) -> None:
        super().__init__(middleware=[_JobRetries(max_retries=0), *middleware])
        self.queues: set[str] = set()
        self.forbidden = forbidden_options(self.middleware)
        self._send = send
        self._entry: Actor[[Delivery], None] | None = None

    def serve(self, intake: JobIntake, runner: JobRunner, queues: Iterable[str], names: Iterable[str]) -> None:
        """Become a worker's broker: declare `queues`, and an actor for each of the names."""
        self._intake, self._runner = intake, runner
        for queue in queues:
            self.declare_queue(queue)
        first = min(self.queues)
        for name in (ENTRY, *names):
            made = Actor(runner.run, broker=self, actor_name=name, queue_name=first, priority=0, options=ACTOR_OPTIONS)
            self._entry = self._entry or made

    @contextmanager
    def shown_as_retry(self, envelope: JobEnvelope, message: Message[Any]) -> Iterator[None]:
        """Let the middleware of an enqueue recognise a worker's retry by Dramatiq's option, which must not travel."""
        if self._entry is not None and envelope.try_count:
            message.options["retries"] = envelope.try_count
        yield
        message.options.pop("retries", None)

    def consume(self, queue_name: str, prefetch: int = 1, timeout: int = 30_000) -> JobConsumer:  # noqa: ARG002
        return JobConsumer(self._intake, queue_name, self._runner.refuse)

    def declare_queue(self, queue_name: str) -> None:
        if queue_name not in self.queues:
            self.emit_before("declare_queue", queue_name)
            self.queues.add(queue_name)
            self.emit_after("declare_queue", queue_name)

    def get_declared_queues(self) -> set[str]:
        return self.queues.copy()

    def get_actor(self, actor_name: str) -> Actor[..., Any]:
        """Return the actor of a job, of any name: the executor handles an unknown one."""
        actor = self.actors.get(actor_name, self._entry)
        if actor is None:
            raise ActorNotFound(actor_name)  # type: ignore[no-untyped-call]
        return actor

    def enqueue(self, message: Message[Any], *, delay: int | None = None) -> Message[Any]:
        """Send a message of ours, because middleware may send one again; refuse any other."""
        if delay is not None or not (message.args and isinstance(message.args[0], Delivery)):
            raise ConfigurationError(
                f"{message.actor_name!r} is no job of anyjob's: its broker carries nothing else. Enqueue it by "
                "anyjob, or on a broker of your own."
            )
        self._send(message)
        return message


def forbidden_options(middleware: Iterable[Middleware]) -> frozenset[str]:
    """Return the options that Dramatiq's own middleware would obey: a client of the server must not steer it.

    Options of the application's middleware are allowed.
    """
    dramatiqs = [each for each in middleware if type(each).__module__.partition(".")[0] == "dramatiq"]
    return frozenset(_UNDECLARED.union(*(each.actor_options for each in dramatiqs)))


ENTRY: Final = "anyjob.job"
