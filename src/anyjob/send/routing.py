"""Chooses the backend of a job, and checks that it has the features that the job needs."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta
from fnmatch import fnmatchcase
from typing import Final

from msgspec import Struct
from msgspec.structs import force_setattr

from anyjob.base.envelope import JobEnvelope, JobPriority
from anyjob.base.errors import (
    ConfigurationError,
    InvalidOptionError,
    JobDefinitionError,
    UnsupportedCapabilityError,
    did_you_mean,
)
from anyjob.base.log import JobLogger, log_event
from anyjob.base.plain import plain_text
from anyjob.run.executor import JobExecutor
from anyjob.seams.backend import JobBackend
from anyjob.seams.capabilities import Quality

__all__ = ["JobRoute", "JobRouter", "JobTarget"]


logger = JobLogger("anyjob.worker")

_MANY: Final = 10_000


class JobRoute(Struct, frozen=True, kw_only=True):
    """Sends the jobs whose name fits the pattern `job`, or those of `queue`, to the backend of that alias."""

    backend: str
    job: str | None = None
    queue: str | None = None

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            force_setattr(self, name, plain_text(getattr(self, name)))

    def fits(self, name: str, queue: str) -> bool:
        return fnmatchcase(name, self.job) if self.job is not None else queue == self.queue


class JobTarget(Struct, frozen=True):
    """The backend of the jobs of one name and queue."""

    alias: str
    backend: JobBackend


class JobRouter:
    """Chooses by the first route that fits, else the default, and remembers the choice. Thread-safe."""

    def __init__(
        self,
        backends: Mapping[str, JobBackend],
        default: str,
        routes: Sequence[JobRoute],
        queues: Mapping[str, Sequence[str] | None],
        executor: JobExecutor,
    ) -> None:
        self._backends = backends
        self._default = default
        self._routes = tuple(routes)
        self._queues = dict(queues)
        self._executor = executor
        self._targets: dict[tuple[str, str, str | None], JobTarget] = {}
        for alias in (default, *(route.backend for route in self._routes)):
            self.refuse_unknown_alias(alias)

    def target_of(self, envelope: JobEnvelope, alias: str | None = None) -> JobTarget:
        """Return the backend of a job, by the routes unless the call gave an alias; raise `UnsupportedCapabilityError`
        if it lacks a feature that the job needs.
        """
        key = (envelope.name, envelope.queue, alias)
        try:
            target = self._targets[key]
        except KeyError:
            if len(self._targets) >= _MANY:
                self._targets.clear()  # a queue per tenant must not fill the memory
            target = self._targets[key] = self._choose(envelope, alias)
        if envelope.due_at is not None or envelope.priority is not JobPriority.NORMAL:
            delay = timedelta() if envelope.due_at is None else envelope.due_at - self._executor.clock.now()
            target.backend.capabilities.refuse_unsupported(envelope, delay=delay, backend=target.alias)
        return target

    def refuse_unknown_alias(self, alias: str) -> None:
        """Raise `ConfigurationError`, with the nearest known one, unless there is a backend of that alias."""
        if alias not in self._backends:
            raise ConfigurationError(f"No backend is called {_no_such(alias, self._backends)}")

    def refuse_unknown_queue(self, alias: str, queue: str) -> None:
        """Raise `InvalidOptionError` if the settings close the backend's list of queues and this one isn't in it."""
        queues = self._queues.get(alias)
        if queues is not None and queue not in queues:
            raise InvalidOptionError(
                f"Backend {alias!r} has no queue {queue!r}.{did_you_mean(queue, queues)} "
                f"Its queues are closed to: {', '.join(queues)}."
            )

    def refuse_misspelt_queue(self, queue: str, registered: Collection[str]) -> None:
        """Raise `InvalidOptionError` for a queue of no job, route or setting that is spelt nearly as one of these is.

        Another unknown queue may be named at calls only, as one for each tenant: it is logged.
        """
        known = {*registered, *(route.queue for route in self._routes if route.queue)}
        known.update(*(queues for queues in self._queues.values() if queues))
        if queue in known:
            return
        if hint := did_you_mean(queue, known):
            raise InvalidOptionError(
                f"No job, route or setting names the queue {queue!r}.{hint} If it is right, and named at the calls "
                "alone, list it in the settings, as one of the backend's queues."
            )
        reason = "no job, route or setting names it: only calls that do send jobs there"
        log_event(logger, logging.WARNING, "serves an unknown queue", queue=queue, reason=reason)

    def refuse_shared_id(self, envelope: JobEnvelope, alias: str | None) -> None:
        """Raise `UnsupportedCapabilityError` if the job's backend would accept a second job with the same id."""
        target = self.target_of(envelope, alias)
        target.backend.capabilities.refuse_shared_ids(target.alias)

    def queues_but(self, alias: str, excluded: Collection[str], known: Collection[str]) -> tuple[str, ...]:
        """Return the queues of the backend's closed list, else the `known` ones, without the excluded.

        Raises `InvalidOptionError` for one that is not among them, and if none is left.
        """
        queues = self._queues.get(alias) or sorted(known)
        for queue in excluded:
            if queue not in queues:
                raise InvalidOptionError(
                    f"Backend {alias!r} has no queue {queue!r} to exclude.{did_you_mean(queue, queues)} "
                    f"Known, by the settings or the registered jobs: {', '.join(queues)}."
                )
        left = tuple(queue for queue in queues if queue not in excluded)
        if not left:
            raise InvalidOptionError(
                f"Backend {alias!r}: with {', '.join(queues)} excluded, there is no queue to serve."
            )
        return left

    def _choose(self, envelope: JobEnvelope, alias: str | None) -> JobTarget:
        """Check, once for a name and queue, the facts that can't change from job to job."""
        if alias is None:
            fitting = (route.backend for route in self._routes if route.fits(envelope.name, envelope.queue))
            alias = next(fitting, self._default)
        elif alias not in self._backends:
            raise InvalidOptionError(f"backend: none is called {_no_such(alias, self._backends)}")
        self.refuse_unknown_queue(alias, envelope.queue)
        backend = self._backends[alias]
        can = backend.capabilities
        if not can.in_process and envelope.name.startswith("__main__."):
            raise JobDefinitionError(
                f"{envelope.name} has no name that a worker would know it by, for __main__ is another module there. "
                'Give it one: @job_name("mail.send") or @background_job("mail.send").'
            )
        configuration = self._executor.registry.find(envelope.name)
        if configuration is not None and can.delay is Quality.NONE and self._executor.policy_of(configuration):
            raise UnsupportedCapabilityError(
                f"Backend {alias!r} has no delay, and the retries of {envelope.name!r} need one between tries. "
                'Give the job retry=None, or set retry = "none".'
            )
        return JobTarget(alias, backend)


def _no_such(alias: str, known: Mapping[str, object]) -> str:
    return f"{alias!r}.{did_you_mean(alias, known)} Defined: {', '.join(known)}."
