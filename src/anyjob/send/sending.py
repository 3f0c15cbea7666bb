"""Hands prepared jobs to their backends, and tells the observers."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

from anyjob.base.envelope import JobEnvelope
from anyjob.base.errors import EnqueueError
from anyjob.base.job_id import JobId
from anyjob.base.log import JobLogger, log_event
from anyjob.send.wiring import JobWiring

__all__ = ["asend", "asend_many", "send", "send_many"]

logger = JobLogger("anyjob.enqueue")


def send(wiring: JobWiring, envelope: JobEnvelope, alias: str | None) -> JobId:
    """Send a job to the backend of `alias` (None: to the one that the routes choose); return its id."""
    wiring.observers.load()  # their errors are raised before anything is sent
    target = wiring.router.target_of(envelope, alias)
    target.backend.send((envelope,))
    _report(wiring, envelope, target.alias)
    return JobId(envelope.id, target.alias)


async def asend(wiring: JobWiring, envelope: JobEnvelope, alias: str | None) -> JobId:
    """Like `send`, without blocking the event loop."""
    alias = wiring.router.target_of(envelope, alias).alias
    sent: JobId = await wiring.off_loop(alias, (envelope.id,), partial(send, wiring, envelope, alias))
    return sent


def send_many(wiring: JobWiring, envelopes: Sequence[JobEnvelope], alias: str | None) -> list[JobId]:
    """Send jobs, those of a backend together; return their ids in order. An `EnqueueError` covers all jobs."""
    sent: dict[str, JobId] = {}
    for target, group in _grouped(wiring, envelopes, alias).items():
        with _telling_of_all(target, sent, envelopes):
            _send_group(wiring, target, group)
        sent.update((envelope.id, JobId(envelope.id, target)) for envelope in group)
    return [sent[envelope.id] for envelope in envelopes]


async def asend_many(wiring: JobWiring, envelopes: Sequence[JobEnvelope], alias: str | None) -> list[JobId]:
    """Like `send_many`, without blocking the event loop."""
    sent: dict[str, JobId] = {}
    for target, group in _grouped(wiring, envelopes, alias).items():
        ids = [envelope.id for envelope in group]
        with _telling_of_all(target, sent, envelopes):
            await wiring.off_loop(target, ids, partial(_send_group, wiring, target, group))
        sent.update((envelope.id, JobId(envelope.id, target)) for envelope in group)
    return [sent[envelope.id] for envelope in envelopes]


def _grouped(
    wiring: JobWiring, envelopes: Iterable[JobEnvelope], alias: str | None
) -> Mapping[str, Sequence[JobEnvelope]]:
    wiring.observers.load()
    groups: dict[str, list[JobEnvelope]] = {}
    for envelope in envelopes:
        groups.setdefault(wiring.router.target_of(envelope, alias).alias, []).append(envelope)
    return groups


def _send_group(wiring: JobWiring, alias: str, group: Sequence[JobEnvelope]) -> None:
    wiring.backends[alias].send(group)
    for envelope in group:
        _report(wiring, envelope, alias)


def _report(wiring: JobWiring, envelope: JobEnvelope, alias: str) -> None:
    if logger.isEnabledFor(logging.INFO):
        log_event(
            logger,
            logging.INFO,
            "enqueued",
            envelope,
            backend=alias,
            queue=envelope.queue,
            priority=envelope.priority.name.lower(),
            run_at=envelope.due_at,
        )
    if wiring.observers:
        wiring.observers.tell("enqueued", envelope)


@contextmanager
def _telling_of_all(alias: str, sent: Mapping[str, str], envelopes: Sequence[JobEnvelope]) -> Iterator[None]:
    """Add the jobs that went, or were to go, to other backends to the error of one backend."""
    try:
        yield
    except EnqueueError as error:
        told = {*sent, *error.accepted, *error.rejected, *error.in_doubt}
        rest = [envelope.id for envelope in envelopes if envelope.id not in told]
        if not sent and not rest:
            raise
        raise EnqueueError(
            f"Backend {alias!r}: {error}",
            accepted=[*sent, *error.accepted],
            rejected=[*error.rejected, *rest],
            in_doubt=error.in_doubt,
        ) from error
