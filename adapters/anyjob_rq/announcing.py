"""Carries the `meta` that tracers add to a job where they wrap RQ's enqueue, in a header of the envelope."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Final

import msgspec
from msgspec.structs import replace
from redis import Redis
from rq.job import Job

from anyjob.extend import RESERVED_HEADER_PREFIX, UNREADABLE, JobEnvelope, JobLogger, log_event
from anyjob_rq.frame import EnvelopeSerializer
from anyjob_rq.names import Names
from anyjob_rq.private import announce

__all__ = ["announced", "meta_of", "name_call"]

logger = JobLogger("anyjob.backend")

META_HEADER: Final = f"{RESERVED_HEADER_PREFIX}rq-meta"


def announced(envelope: JobEnvelope, names: Names, client: Redis) -> JobEnvelope:
    """Return the job as it travels, after the wrappers of RQ's enqueue saw it: by its name, without its arguments."""
    job = Job(names.native_id(envelope.id), connection=client, serializer=EnvelopeSerializer)
    name_call(job, envelope.name)
    try:
        announce(job, names.queue(envelope.queue, envelope.priority))
        meta = msgspec.json.encode(job.meta).decode() if job.meta else ""
    except Exception as error:  # noqa: BLE001  # theirs: no job is to be lost for it
        log_event(logger, logging.ERROR, "sent without what tracers add", envelope, exc_info=error)
        return envelope
    headers = {key: value for key, value in envelope.headers.items() if key != META_HEADER}
    if 0 < len(meta) <= _LONGEST:
        headers[META_HEADER] = meta
    return envelope if headers == envelope.headers else replace(envelope, args=envelope.args.copy(), headers=headers)


def name_call(job: Job, name: str) -> None:
    """Have an RQ job show a call by this name, without arguments."""
    job.func_name, job.instance, job.args, job.kwargs = name, None, (), {}
    job.description = name


def meta_of(envelope: JobEnvelope) -> dict[str, Any]:
    """Return the job's `meta`; any client may have written it."""
    headers: Mapping[str, str] = envelope.headers
    try:
        return msgspec.json.decode(headers.get(META_HEADER, "{}"), type=dict[str, Any])
    except (*UNREADABLE, msgspec.ValidationError):
        return {}


_LONGEST: Final = 4096
