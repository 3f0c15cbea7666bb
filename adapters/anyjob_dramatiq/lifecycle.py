"""Begins our jobs at the boot of a Dramatiq worker process, and stops them in time at its signals."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing import parent_process
from queue import Empty, SimpleQueue
from types import FrameType
from typing import Any, Final

from dramatiq import Broker, MessageProxy, Middleware, Worker

from anyjob.extend import (
    HANDED_BACK,
    EnqueueError,
    JobExecutor,
    JobLogger,
    end_at_once,
    log_released,
    say_up,
    stop_in_time,
)
from anyjob_dramatiq.intake import JobIntake
from anyjob_dramatiq.private import Processor, boot_event, consumer_of, surround, threads_of

__all__ = ["JobLifecycle"]

logger = JobLogger("anyjob.worker")

Handler = Callable[[int, FrameType | None], Any]


class JobLifecycle(Middleware):
    """Opens the intake when a worker has booted, and closes it when it has shut down.

    Dramatiq looks for signals once a second, and waits for its threads as long as its command line says. Here the first
    signal ends the taking of jobs at once and tells running ones; when `stop_timeout` is over, or at the second
    signal, jobs that still run are given back and the process ends.
    """

    def __init__(
        self, executor: JobExecutor, intake: JobIntake, stop_timeout: float, find_queue: Callable[[str], None]
    ) -> None:
        self._executor = executor
        self._intake = intake
        self._stop_timeout = stop_timeout
        self._find_queue = find_queue
        self._received: SimpleQueue[int | None] = SimpleQueue()

    def before_worker_boot(self, broker: Broker, worker: Worker) -> None:
        """Prepare the intake."""
        worker.worker_timeout = min(worker.worker_timeout, _LONGEST_WAIT)
        chosen = worker.consumer_whitelist
        for queue in chosen or ():
            self._find_queue(queue)

        def serves() -> Sequence[str]:
            return [queue for queue in sorted(broker.get_declared_queues()) if not chosen or queue in chosen]

        self._intake.open(worker.worker_threads, serves, self._find_queue)
        if threading.current_thread() is threading.main_thread():
            self._watch_signals()

    def after_worker_thread_boot(self, _broker: Broker, thread: Any) -> None:
        """Let a thread outlive an exception around a job: of a log filter of Dramatiq's loggers, of a middleware's
        exit.
        """

        def outlive(process: Processor, message: MessageProxy) -> None:
            try:
                process(message)
            except BaseException:
                logger.exception("raised beside the job: %r; its thread goes on", message.args[0])
                consumer_of(thread, message).ack(message)

        surround(thread, outlive)

    def after_worker_boot(self, _broker: Broker, worker: Worker) -> None:
        """Take jobs now, and no sooner: to a supervisor, a job that ends a process which is still starting looks like
        wrong usage. And end this process when it is useless, if it is Dramatiq's.
        """
        say_up()
        main = parent_process()
        if main is None:
            self._intake.begin()
        else:
            watch = (main, boot_event(), threads_of(worker))
            threading.Thread(target=self._watch, args=watch, name="anyjob-watch", daemon=True).start()

    def _watch(self, main: Any, booted: Any, threads: Sequence[threading.Thread]) -> None:
        """Begin when Dramatiq's main process knows that this one has booted. Stop when that ends, because nothing else
        would tell; end when a thread has ended, because no other does its work.
        """
        while booted is not None and not booted.is_set() and not self._intake.stop.wait(_SOON):
            pass
        self._intake.begin()
        while not self._intake.stop.wait(_LOOK_EVERY):
            if not main.is_alive():
                os.kill(os.getpid(), signal.SIGTERM)
                return
            dead = [each.name for each in threads if not each.is_alive()]
            if dead and not self._intake.stop.is_set():
                logger.critical("ends: dead threads of dramatiq's: %s", ", ".join(dead))
                self._leave()
                os._exit(1)

    def before_worker_shutdown(self, _broker: Broker, _worker: Worker) -> None:
        """Take no more jobs, also in a stop without a signal."""
        self._intake.begin_stop()

    def after_worker_shutdown(self, _broker: Broker, _worker: Worker) -> None:
        """Give back the jobs that are left, and end."""
        self._received.put(None)
        self._leave()
        if self._intake.handed_back:
            raise SystemExit(HANDED_BACK)

    def _watch_signals(self) -> None:
        found: dict[int, Handler] = {}
        for number in _SIGNALS:
            handler = signal.getsignal(number)
            if callable(handler):
                found[number] = handler
                signal.signal(number, self._on_signal(handler))
        threading.Thread(target=self._stop_in_time, name="anyjob-stop", daemon=True).start()

    def _on_signal(self, dramatiqs: Handler) -> Handler:
        first = True

        def on_signal(number: int, frame: FrameType | None) -> None:
            # Nothing but this: a handler interrupts whatever holds a lock. A SimpleQueue is made for it.
            nonlocal first
            self._received.put(number)
            if first:
                first = False
                dramatiqs(number, frame)

        return on_signal

    def _stop_in_time(self) -> None:
        self._received.get()
        self._intake.begin_stop()
        stop_in_time(
            self._executor, self._intake.stop, self._stop_timeout, ended=self._has_ended, hand_back=self._end_at_once
        )

    def _has_ended(self, seconds: float) -> bool:
        """Wait that long, or until a second signal; return whether the worker has shut down."""
        with suppress(Empty):
            if self._received.get(timeout=seconds) is None:
                return True
        self._intake.handed_back |= bool(self._intake.running)
        return False

    def _end_at_once(self) -> None:
        self._leave()
        end_at_once(self._executor, HANDED_BACK if self._intake.handed_back else 0)

    def _leave(self) -> None:
        self._intake.over.set()
        for delivery in list(self._intake.running):
            self._intake.handed_back = True
            self._executor.tell("released", delivery.raw)
        try:
            for job_id in self._intake.source.give_back_all():
                log_released(job_id)
            self._intake.source.close()
        except EnqueueError as error:  # the lease will expire by itself
            logger.warning("left without a word: %s", error)
        self._executor.end_process()


_SIGNALS: Final = [
    getattr(signal, name) for name in ("SIGTERM", "SIGHUP", "SIGBREAK", "SIGINT") if hasattr(signal, name)
]
_LONGEST_WAIT: Final = 200
_SOON: Final = 0.001
_LOOK_EVERY: Final = 0.5
