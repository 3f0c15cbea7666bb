"""Private parts of Dramatiq, in one place.

tests/test_private_parts.py says when an upgrade changes any of it.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Sequence
from typing import Any

from dramatiq import Consumer, MessageProxy, Worker

__all__ = ["Processor", "boot_event", "consumer_of", "error_of", "show_args", "surround", "threads_of"]

Processor = Callable[[MessageProxy], None]
"""A worker thread's handling of a message, from its middleware to its end."""


def error_of(message: MessageProxy) -> BaseException | None:
    """Return the error because of which a message was not processed, if any: a consumer is only told that it wasn't."""
    error: BaseException | None = message._exception  # noqa: SLF001
    return error


def show_args(message: MessageProxy, *args: object) -> None:
    """Have logs and middleware see these in the place of a message's arguments, from now on."""
    message._message = message._message.copy(args=args)  # noqa: SLF001


def surround(thread: Any, around: Callable[[Processor, MessageProxy], None]) -> None:
    """Have a worker's thread call `around` with its own step, and the message: an exception of that ends the thread."""
    process: Processor = thread.process_message
    thread.process_message = lambda message: around(process, message)


def consumer_of(thread: Any, message: MessageProxy) -> Consumer:
    """Return the consumer that delivered the message."""
    consumer: Consumer = thread.consumers[message.queue_name].consumer
    return consumer


def boot_event() -> Any:
    """Return the event that tells Dramatiq's main process that this process of it has booted; None in any other.

    Dramatiq sets it after all hooks. A process that is killed before leaves the main process waiting for half a minute,
    and for ever if it is killed in the middle of that.
    """
    frame = inspect.currentframe()
    while frame is not None:
        if frame.f_code.co_name == "worker_process" and frame.f_globals.get("__name__") == "dramatiq.cli":
            return frame.f_locals.get("event")
        frame = frame.f_back
    return None


def threads_of(worker: Worker) -> Sequence[threading.Thread]:
    """Return the threads that run jobs and those that fetch them: Dramatiq doesn't notice when one of them ends."""
    return [*worker.workers, *worker.consumers.values()]
