"""A hook for what happens to jobs: metrics, tracing, error reports. It looks on; it can't break a job."""

from __future__ import annotations

import atexit
import weakref
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from anyjob.base.envelope import JobEnvelope
from anyjob.base.error_text import type_name
from anyjob.base.errors import ConfigurationError
from anyjob.base.forks import forks_wait, in_each_process
from anyjob.base.log import JobLogger, tell_stderr
from anyjob.base.named import NamedObject
from anyjob.define.context import JobExecutionContext
from anyjob.seams.outcome import Abandoned

__all__ = ["JobObserver", "JobObservers", "ProcessObservers", "shielded"]

logger = JobLogger("anyjob.observer")


class JobObserver:
    """Subclass and override what you want to hear of.

    Called in the thread that enqueues or runs the job, so be quick and thread-safe. What an observer raises is logged
    and goes no further. A context variable that is set in `started` is the job's, too.
    """

    def enqueued(self, envelope: JobEnvelope) -> None:
        """The backend accepted a new job."""

    def started(self, job: JobExecutionContext) -> None:
        """A try begins."""

    def succeeded(self, job: JobExecutionContext, result: Any) -> None:
        """The try returned `result`, which nobody keeps."""

    def failed(self, job: JobExecutionContext, error: BaseException, next_try_at: datetime | None) -> None:
        """The try raised `error`; None means that it was the last, and `abandoned` follows."""

    def snoozed(self, job: JobExecutionContext, error: BaseException, until: datetime) -> None:
        """The try raised `Snooze`, or `RetryLater` at a stop: it is not charged, and runs again then."""

    def abandoned(self, outcome: Abandoned) -> None:
        """A job was given up, after its last try or because it can't be read, found or built."""

    def released(self, envelope: JobEnvelope) -> None:
        """A try that had begun is over for this worker, which stops: the job goes back, uncharged, and runs again.

        Heard in the process that gives it back; where nothing could end it, a last `succeeded` or `failed` may follow.
        """

    def lost(self, envelope: JobEnvelope) -> None:
        """A job came again whose process ended while it ran: one more in its `lost_count`, and `started` follows, or
        `abandoned` if that was too much.
        """

    def cancelled(self, envelope: JobEnvelope) -> None:
        """A job that waited was removed by this process, with `manager.inspect().cancel(...)`."""

    def process_ends(self) -> None:
        """This process, which ran jobs, is about to end: flush. Once, and not if the process is killed."""


class JobObservers:
    """Several observers, each guarded. Those that the settings name are imported, and made, on first use."""

    def __init__(self, observers: Iterable[JobObserver | NamedObject] = ()) -> None:
        self._given = tuple(observers)
        for each in self._given:
            if not isinstance(each, JobObserver | NamedObject):
                raise ConfigurationError(f"observers: {each!r} is no object of a subclass of JobObserver.")
        self._loaded: Sequence[JobObserver] | None = None

    def __bool__(self) -> bool:
        return bool(self._given)

    def load(self) -> Sequence[JobObserver]:
        """Return them; raise `ConfigurationError` if one is missing, or none."""
        if self._loaded is None:
            with forks_wait():  # one thread at a time, too: each is made once
                if self._loaded is None:
                    self._loaded = [_made(each) if isinstance(each, NamedObject) else each for each in self._given]
        return self._loaded

    def tell(self, event: str, *facts: Any) -> None:
        """Call the method `event` of every observer."""
        for observer in self.load():
            try:
                getattr(observer, event)(*facts)
            except Exception:
                logger.exception("observer %s.%s raised", type(observer).__qualname__, event)


def _made(named: NamedObject) -> JobObserver:
    found = named.load()
    if callable(found):
        try:
            found = found()
        except Exception as error:
            raise ConfigurationError(f"{named}: calling it raised {type_name(error)}: {error}") from error
    if not isinstance(found, JobObserver):
        raise ConfigurationError(
            f"{named} is a {type(found).__qualname__}: an observer is a subclass of JobObserver, or an object of one."
        )
    return found


class ProcessObservers:
    """Observers of what runs in this process. Nothing that they raise ends a try; they hear once that it ends."""

    def __init__(self, observers: JobObservers) -> None:
        self._observers = observers
        in_each_process(self._begin)

    def _begin(self) -> None:
        self._heard = self._ended = False

    def __bool__(self) -> bool:
        return bool(self._observers)

    def tell(self, event: str, *facts: object) -> None:
        """Call the method `event` of every observer."""
        if not self._observers:
            return
        if not self._heard:
            self._heard = True
            atexit.register(_end, weakref.ref(self))
        with shielded():
            self._observers.tell(event, *facts)

    def end_process(self) -> None:
        """Tell them that this process ends, if they heard anything in it and don't know yet."""
        if self._heard and not self._ended:
            self._ended = True
            with shielded():
                self._observers.tell("process_ends")


def _end(observers: weakref.ref[ProcessObservers]) -> None:
    if (alive := observers()) is not None:
        alive.end_process()


@contextmanager
def shielded() -> Iterator[None]:
    """Let nobody who only looks on end a try: a log filter or an observer may raise SystemExit and its like.

    What else they raise is caught where they are called.
    """
    try:
        yield
    except Exception:
        raise
    except BaseException:  # noqa: BLE001
        tell_stderr()
