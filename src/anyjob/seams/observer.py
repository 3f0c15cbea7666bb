"""A hook for the events of jobs: metrics, tracing, error reports. An observer can't break a job."""

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
    """Subclass it, and override the events that you want.

    Called in the thread that enqueues or runs the job, so be quick and thread-safe. An observer's exception is logged,
    and the job goes on. A context variable that is set in `started` is the job's, too.
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
        """The worker stops, and ends a try that had begun: the job goes back, uncharged, and runs again.

        Called in the process that gives it back; if nothing could end the try, a last `succeeded` or `failed` may
        follow.
        """

    def lost(self, envelope: JobEnvelope) -> None:
        """A job was redelivered, because its process crashed while it ran: one more in its `lost_count`, and `started`
        follows, or `abandoned` if that was one too many.
        """

    def cancelled(self, envelope: JobEnvelope) -> None:
        """This process removed a waiting or scheduled job, with `manager.inspect().cancel(...)`."""

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
        """Return the observers; raise `ConfigurationError` if one can't be imported or is no observer."""
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
    """Observers of the jobs in this process. Nothing that they raise ends a try; they are told once that it ends."""

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
        """Tell the observers that this process ends, once, if they were told anything in it."""
        if self._heard and not self._ended:
            self._ended = True
            with shielded():
                self._observers.tell("process_ends")


def _end(observers: weakref.ref[ProcessObservers]) -> None:
    if (alive := observers()) is not None:
        alive.end_process()


@contextmanager
def shielded() -> Iterator[None]:
    """Keep log filters and observers, which may raise SystemExit and its like, from ending a try.

    An `Exception` of theirs is caught where they are called.
    """
    try:
        yield
    except Exception:
        raise
    except BaseException:  # noqa: BLE001
        tell_stderr()
