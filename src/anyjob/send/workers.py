"""Makes the worker of a backend: the command of its own worker, or a `JobWorker`."""

from __future__ import annotations

import logging

from msgspec.structs import replace

from anyjob.base.errors import ConfigurationError
from anyjob.base.log import JobLogger, log_event
from anyjob.run.worker import JobWorker
from anyjob.seams.backend import JobBackend, NativeCommand
from anyjob.seams.capabilities import Quality
from anyjob.seams.undelayed import UndelayedSource
from anyjob.seams.worker_options import WorkerOptions
from anyjob.send.wiring import JobWiring

__all__ = ["make_worker"]

logger = JobLogger("anyjob.enqueue")


def make_worker(wiring: JobWiring, alias: str, options: WorkerOptions) -> NativeCommand | JobWorker:
    """Return the worker of that backend, not started; raises as `JobManager.any_worker`."""
    backend = wiring.backends[alias]
    options = _served(wiring, alias, backend, options)
    native = backend.native_worker(options)
    if native is not None:
        return native
    source = backend.source()
    if source is None:
        raise ConfigurationError(f"Backend {alias!r} has no worker that anyjob could start.")
    if backend.capabilities.delay is Quality.NONE:
        source = UndelayedSource(source)
    return JobWorker(source, wiring.executor, options, lease=backend.lease)


def _served(wiring: JobWiring, alias: str, backend: JobBackend, options: WorkerOptions) -> WorkerOptions:
    """Return the options, with `exclude_queues` turned into `queues`; refuse those that can't be served."""
    router, known = wiring.router, wiring.executor.registry.queues()
    if options.burst or options.max_jobs is not None:
        backend.capabilities.refuse_bounded_worker(alias)
    if options.exclude_queues:
        queues = router.queues_but(alias, options.exclude_queues, known)
        options = replace(options, queues=queues, exclude_queues=())
        log_event(logger, logging.INFO, "serves", backend=alias, queues=",".join(queues))
    for queue in options.queues or ():
        router.refuse_unknown_queue(alias, queue)
        router.refuse_misspelt_queue(queue, known)
    return options
