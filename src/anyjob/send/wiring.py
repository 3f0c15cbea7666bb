"""A manager's backends, clock, executor and observers as one value, so that a test can replace it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any
from weakref import WeakSet

from msgspec import Struct, field

from anyjob.base.clock import Clock
from anyjob.run.executor import JobExecutor
from anyjob.run.worker import JobWorker
from anyjob.seams.backend import JobBackend
from anyjob.seams.observer import JobObservers
from anyjob.send.backends import JobBackends
from anyjob.send.routing import JobRouter

__all__ = ["JobWirer", "JobWiring", "OffLoop"]

OffLoop = Callable[[str, Sequence[str], Callable[[], Any]], Awaitable[Any]]
"""Runs a blocking call, which sends jobs of these ids to the backend of an alias, away from the event loop."""


class JobWiring(Struct, frozen=True):
    """A manager's backends and routes, its clock, its executor and its observers.

    A value of its own, because a test replaces it, while the registry, the routes' rules, the codec and the checks stay
    the application's.
    """

    clock: Clock
    backends: JobBackends
    executor: JobExecutor
    router: JobRouter
    observers: JobObservers
    off_loop: OffLoop
    workers: WeakSet[JobWorker] = field(default_factory=WeakSet)
    """Workers that were made for this process and may still run."""

    def close(self) -> None:
        """Close the backends that were made, and end the threads of the executor. A later use opens them anew."""
        for backend in self.backends.made.values():
            backend.close()
        self.executor.close()


class JobWirer(Struct, frozen=True):
    """Makes wirings of the same routes, policies and jobs over backends of the same aliases."""

    make_executor: Callable[..., JobExecutor]
    """Takes `clock` and `observers`."""
    make_router: Callable[..., JobRouter]
    """Takes the backends and the `executor`."""

    def wire(self, backends: JobBackends, *, clock: Clock, observers: JobObservers, off_loop: OffLoop) -> JobWiring:
        """Return a wiring over these backends."""
        executor = self.make_executor(clock=clock, observers=observers)
        router = self.make_router(backends, executor=executor)
        return JobWiring(clock, backends, executor, router, observers, off_loop)

    def rewire(
        self,
        own: JobWiring,
        make: Callable[[str], JobBackend],
        *,
        clock: Clock,
        observers: JobObservers,
        off_loop: OffLoop,
    ) -> JobWiring:
        """Return a wiring over other backends of the aliases of `own`, made on first use by `make(alias)`."""
        backends = JobBackends({alias: partial(make, alias) for alias in own.backends})
        return self.wire(backends, clock=clock, observers=observers, off_loop=off_loop)
