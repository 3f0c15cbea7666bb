"""Seam 2, a worker's side of a server: it claims jobs and ends each claim. A broker needs no more for our worker."""

from __future__ import annotations

import threading
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from msgspec import Struct

from anyjob.base.clock import Clock
from anyjob.base.forks import in_each_process
from anyjob.seams.outcome import Outcome

__all__ = ["DEFAULT_LEASE", "JobClaim", "JobSource", "Listeners", "LostJob"]

DEFAULT_LEASE: Final = 30.0
"""Seconds; the default of the setting `lease`."""


class JobClaim(Struct, frozen=True, gc=False):
    """The right to settle one job. `token` fences: after the lease was lost, the claim settles nothing."""

    id: str
    raw: bytes
    token: int
    redelivered: bool = False
    """Whether another worker had this very message and did not settle it; set where the server says so and counts no
    losses itself. The executor then counts one loss, and runs nothing.
    """


class LostJob(Struct, frozen=True):
    """A job whose worker crashed or lost its lease; it is waiting again, with one more in its `lost_count`."""

    id: str
    worker: str | None
    """None: the server does not say."""
    expired_for: float | None
    """Seconds since its lease ended. None: the server does not say."""
    raw: bytes
    """As it is kept now; empty if the server does not say."""


class JobSource(ABC):
    """Hands each job to one worker at a time. Thread-safe, unless `one_thread`; jobs are due by `clock`'s `now`.

    A claimed job is under a lease, which the worker renews; `settle` ends the claim by its outcome. A lease that is not
    renewed in time expires: `recover` makes the job wait again. A broker that notices a crashed worker by itself has no
    leases: there `renew` returns the claims that ended with their connection, and `recover` returns nothing.

    Errors of the server are raised as `AnyjobError`, with their cause. A worker then goes on after a pause.
    """

    clock: Clock
    poll: float = 1.0
    """Seconds after which a worker claims again, unless `listen` or `next_due_at` told it of a job sooner."""
    waits: bool = False
    """Whether `claim` waits if no job is due, up to `poll` seconds: the worker then calls it again at once."""
    one_thread: bool = False
    """Whether all calls must come from one thread; the worker sees to it. `listen` is called from there, too."""

    @abstractmethod
    def claim(self, *, queues: Sequence[str] | None, limit: int, lease: timedelta, worker: str) -> Sequence[JobClaim]:
        """Claim up to `limit` due jobs of `queues` (None: of all) for `worker`, in order.

        Order: priority, highest first; then the time they became due (`due_at`, or `first_due_at` if that is null);
        then insertion. The time a claim takes must depend neither on how many jobs wait nor on how many are scheduled.
        If the source `waits`, it waits for a job, for `poll` seconds at most, unless it is interrupted.
        """

    @abstractmethod
    def settle(self, claim: JobClaim, outcome: Outcome) -> bool:
        """End a claim: Completed deletes the job; Retry and Deferred put back their envelope, due at its `due_at`;
        Abandoned parks its raw bytes with the failure. Return False, changing nothing, if the claim is no longer held.
        """

    @abstractmethod
    def release(self, claims: Sequence[JobClaim]) -> None:
        """Give jobs back as they were before the claim, at their old place in the order. It costs them nothing."""

    @abstractmethod
    def renew(self, claims: Sequence[JobClaim], lease: timedelta) -> Sequence[JobClaim]:
        """Let the leases end `lease` from now; return the claims that are lost already."""

    @abstractmethod
    def recover(self) -> Sequence[LostJob]:
        """Make jobs whose lease expired wait again, each with one more in `lost_count`; release held jobs likewise."""

    @abstractmethod
    def next_due_at(self, queues: Sequence[str] | None) -> datetime | None:
        """Return when the earliest job of `queues` is due (it may be past); None: none is, or it can't be known."""

    def settle_and_claim(
        self,
        ended: Sequence[tuple[JobClaim, Outcome]],
        *,
        queues: Sequence[str] | None,
        limit: int,
        lease: timedelta,
        worker: str,
    ) -> tuple[Sequence[bool], Sequence[JobClaim]]:
        """Settle the claims that ended, each as `settle` does, and claim up to `limit` jobs as `claim` does.

        It doesn't wait. Override it where the server does it in one step, all or nothing. If this raises, any part of
        it may be done: each outcome is settled again, and jobs that were claimed wait again when their lease expires.
        """
        held = [self.settle(claim, outcome) for claim, outcome in ended]
        return held, self.claim(queues=queues, limit=limit, lease=lease, worker=worker) if limit else ()

    def interrupt(self) -> None:
        """Make the waiting `claim`, or else the next one, return at once. May be called from any thread.

        Override it in a source that `waits`: until `claim` returns, a stop is delayed, and with `one_thread` each
        outcome.
        """
        return

    def listen(self, wake: Callable[[], None]) -> None:  # noqa: ARG002
        """Call `wake`, from any thread, whenever a job may have come that `claim` would find, until `close`.

        A worker calls this when it starts. Hold `wake` weakly, as `Listeners` does: workers come and go.
        """
        return

    def close(self) -> None:
        """Close connections and end threads. A later call opens them anew."""
        return


class Listeners:
    """Callbacks for jobs that may have come: bound methods, held weakly. Thread-safe and fork-safe."""

    def __init__(self) -> None:
        in_each_process(self._begin)

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._all: tuple[weakref.WeakMethod[Any], ...] = ()

    def add(self, wake: Callable[[], None]) -> None:
        """Have `tell` call `wake` from now on; once each time, however often it was added."""
        new = weakref.WeakMethod(wake)
        with self._lock:
            self._all = (*(each for each in self._all if each() is not None and each != new), new)

    def tell(self) -> None:
        """Call all of them."""
        for each in self._all:
            if (wake := each()) is not None:
                wake()
