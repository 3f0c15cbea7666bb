"""Our middleware in the user's own worker: handles each of our messages around its actor."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

from dramatiq import Broker, MessageProxy, Middleware, Worker
from dramatiq.middleware import Retries

from anyjob.extend import (
    HANDED_BACK,
    EnqueueError,
    EnvelopeError,
    JobEnvelope,
    JobExecutor,
    JobLogger,
    Outcome,
    Retry,
    insist,
    read_envelope,
    say_up,
)
from anyjob_dramatiq.begun import BegunMessages
from anyjob_dramatiq.broker import forbidden_options
from anyjob_dramatiq.frame import Delivery
from anyjob_dramatiq.private import show_args
from anyjob_dramatiq.runner import raise_error

__all__ = ["JobGuard"]

logger = JobLogger("anyjob.worker")


class JobGuard(Middleware):
    """Notes which message a thread runs, removes options that would make Dramatiq do more, and runs its job.

    On Redis Dramatiq does not say that a message is redelivered: a key per begun job does, until the job is settled.
    """

    def __init__(
        self, broker: Broker, executor: JobExecutor, settle: Callable[[Outcome], None], begun: BegunMessages
    ) -> None:
        self._executor = executor
        self._settle_once = settle
        self._begun = begun
        self._up = threading.Event()
        self._stop = threading.Event()
        self._running = threading.local()
        self._unsettled: set[Delivery] = set()
        for each in broker.middleware:
            if isinstance(each, Retries):
                each.logger.addFilter(self._is_true)

    def after_worker_boot(self, _broker: Broker, _worker: Worker) -> None:
        """Let jobs begin, not sooner: one that ends a process which is still starting looks like wrong usage."""
        say_up()
        self._up.set()

    def before_process_message(self, broker: Broker, message: MessageProxy) -> None:
        self._running.delivery = None
        if getattr(broker.get_actor(message.actor_name), "fn", None) != self.run:
            return
        raw = message.args[0] if len(message.args) == 1 else None
        fault = None if isinstance(raw, str) and not message.kwargs else "It is no message with one envelope."
        message.options.pop("retries", None)  # they are for middleware that counts them at the enqueue
        for option in message.options.keys() & (forbidden_options(broker.middleware) - {"eta"}):
            fault = f"Its option {option!r} is none that a job of ours has."
            del message.options[option]
        delivery = Delivery(message.message_id, _bytes_of(raw))
        delivery.fault = fault
        delivery.place = message.options.get("redis_message_id", "")
        delivery.redelivered = bool(getattr(message, "redelivered", False)) or self._begun.note(delivery.place)
        self._running.delivery = delivery
        show_args(message, delivery)  # Dramatiq logs them

    def after_process_message(
        self,
        _broker: Broker,
        message: MessageProxy,
        *,
        result: Any = None,  # noqa: ARG002
        exception: BaseException | None = None,  # noqa: ARG002
    ) -> None:
        """Have a message acknowledged whose job failed and was sent anew. Ours is the last middleware called here."""
        if self._is_sent_again:
            message.failed = False

    @property
    def _is_sent_again(self) -> bool:
        delivery: Delivery | None = getattr(self._running, "delivery", None)
        return delivery is not None and delivery.again

    def _is_true(self, _record: logging.LogRecord) -> bool:
        """Whether Dramatiq's log line of exceeded retries is true."""
        return not self._is_sent_again

    def before_nack(self, broker: Broker, message: MessageProxy) -> None:
        """Send on, or park, a job that Dramatiq is about to dead-letter because it has no actor: only this hook sees
        it.
        """
        envelope = _envelope_of(message)
        if envelope is None or message.actor_name in broker.actors:
            return
        raw = _bytes_of(message.args[0])
        if self._executor.registry.find(envelope.name) is None:
            self._settle(self._executor.execute(raw))  # runs nothing: the job is deferred, or parked
        else:
            self._settle(self._executor.refuse(raw, f"There is no actor {message.actor_name!r}."))

    def before_worker_shutdown(self, _broker: Broker, _worker: Worker) -> None:
        """Tell the running jobs."""
        self._stop.set()
        self._up.set()

    def after_worker_shutdown(self, _broker: Broker, _worker: Worker) -> None:
        """Run the process's exit steps: Dramatiq's processes end by `os._exit`."""
        self._executor.end_process()
        if self._unsettled:
            raise SystemExit(HANDED_BACK)

    def run(self, *_args: Any, **_kwargs: Any) -> None:
        """Run a job: the function of each of our actors."""
        self._up.wait()
        delivery: Delivery = self._running.delivery
        self._unsettled.add(delivery)
        outcome = self._execute(delivery)
        self._settle(outcome)
        self._unsettled.discard(delivery)  # not if anything is raised: then it goes back, because the worker stops
        self._begun.forget(delivery.place)
        delivery.again = isinstance(outcome, Retry)
        raise_error(outcome)

    def _execute(self, delivery: Delivery) -> Outcome:
        if delivery.fault is not None:
            return self._executor.refuse(delivery.raw, delivery.fault)
        if delivery.redelivered:
            return self._executor.execute(delivery.raw, redelivered=True)
        return self._executor.execute(delivery.raw, stop=self._stop)

    def _settle(self, outcome: Outcome) -> None:
        def settle() -> None:
            self._settle_once(outcome)

        insist(settle, goes_on=lambda: not self._stop.is_set(), wait=self._stop.wait, away=(EnqueueError,))


def _bytes_of(argument: object) -> bytes:
    """Return the bytes in the place of an envelope; a text may be one that UTF-8 can't encode."""
    return argument.encode(errors="surrogatepass") if isinstance(argument, str) else repr(argument).encode()


def _envelope_of(message: MessageProxy) -> JobEnvelope | None:
    """Return the job in a message of ours, None if it is not ours."""
    if len(message.args) != 1 or not isinstance(message.args[0], str):
        return None
    try:
        envelope = read_envelope(_bytes_of(message.args[0]))
    except EnvelopeError:
        return None
    return envelope if envelope.id == message.message_id else None
