"""Native messages as jobs: their arguments are bound to the signature of a job."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from msgspec.structs import asdict, replace

from anyjob.base.clock import Clock
from anyjob.base.envelope import MAX_COUNT, JobEnvelope, write_envelope
from anyjob.base.errors import AnyjobError, InvalidArgsError
from anyjob.base.moments import plain_moment
from anyjob.define.configuration import JobConfiguration
from anyjob.define.options import EnqueueOptions
from anyjob.define.pydantic_models import is_pydantic_model
from anyjob.define.signature import JobFunction
from anyjob.seams.capabilities import Capabilities
from anyjob.seams.inspector import JobInspector
from anyjob.seams.marks import SendMarks
from anyjob.seams.natives import ADOPTED_HEADER, NativeJob, NativeMessage
from anyjob.seams.stored import JobState

__all__ = ["NativeReader", "NativeSource"]

Prepare = Callable[[JobConfiguration, object, EnqueueOptions], JobEnvelope]
"""Prepares an envelope as an enqueue does before it sends. Raises `AnyjobError`."""


@dataclass(frozen=True, slots=True)
class NativeSource:
    """A place that native messages are moved from."""

    inspector: JobInspector
    marks: SendMarks = SendMarks()  # noqa: RUF009  # it remembers nothing

    @property
    def capabilities(self) -> Capabilities:
        return self.inspector.capabilities


class NativeReader:
    """Makes the job of a native message that an enqueue of the same arguments would have made.

    It keeps the message's id, due time, tries and headers; queue and priority are the job's, because the numbers of
    other libraries mean something else. `tasks` says which job stands for which task.
    """

    def __init__(self, tasks: Mapping[str, JobConfiguration], prepare: Prepare, clock: Clock) -> None:
        self._tasks = tasks
        self._prepare = prepare
        self._clock = clock

    def __call__(self, message: NativeMessage) -> NativeJob:
        due = message.due_at
        is_later = due is not None and due > self._clock.now()
        state = JobState.SCHEDULED if is_later else JobState.WAITING
        configuration = self._tasks.get(message.task)
        raw, obstacle = b"", message.obstacle
        if configuration is None:
            obstacle = "Its task was not named." if message.task else obstacle
        elif obstacle is None:
            try:
                raw = write_envelope(self._job(configuration, message))
            except AnyjobError as error:
                obstacle = str(error)
        return NativeJob(
            message.id,
            state,
            raw,
            queue=message.queue,
            task=message.task,
            is_chosen=configuration is not None,
            obstacle=obstacle,
        )

    def _job(self, configuration: JobConfiguration, message: NativeMessage) -> JobEnvelope:
        options: EnqueueOptions = {"job_id": message.id, "headers": message.headers, "run_at": message.due_at}
        job = self._prepare(configuration, _bind(configuration, message), options)
        return replace(
            job,
            created_at=job.created_at if message.created_at is None else plain_moment(message.created_at),
            try_count=min(message.tries, MAX_COUNT),
            headers={**job.headers, ADOPTED_HEADER: message.task[:_LONGEST_NAME]},
        )


def _bind(configuration: JobConfiguration, message: NativeMessage) -> Any:
    """Return the job's arguments for a call with the message's; raise `InvalidArgsError` as Python would `TypeError`.

    A job that takes one object takes its fields, or a dict of them. They stay plain data, to be read as declared: what
    was a datetime for the task may be its text in the message.
    """
    job, wanted, args, kwargs = configuration.job, configuration.args_type, message.args, message.kwargs
    if isinstance(job, JobFunction) and wanted is not Any:
        return asdict(job.bind(tuple(args), kwargs))
    takes_fields = _has_fields(wanted)
    if len(args) == 1 and not kwargs and (not takes_fields or isinstance(args[0], dict)):
        return args[0]
    if wanted is Any and not args:
        return dict(kwargs)
    if not takes_fields:
        raise InvalidArgsError(f"{configuration.name} takes one argument; {len(args) + len(kwargs)} given")
    try:
        if is_pydantic_model(wanted):  # which ignores what it has no field for
            inspect.signature(wanted).bind(*args, **kwargs)
        return _plain(wanted(*args, **kwargs))
    except Exception as error:  # also what a __post_init__ or validator raises
        raise InvalidArgsError(f"{wanted.__qualname__}(): {error}") from error


def _plain(args: Any) -> Any:
    """Return the fields of an object, as they are, under their names in JSON."""
    if isinstance(args, tuple):
        return list(args)
    info = msgspec.inspect.type_info(type(args))
    fields = info.fields if isinstance(info, _OF_FIELDS) else ()
    return {field.encode_name: getattr(args, field.name) for field in fields} or args


def _has_fields(wanted: Any) -> bool:
    """Whether a type is one of fields, and no single value as a number, a date or a list."""
    return is_pydantic_model(wanted) or isinstance(msgspec.inspect.type_info(wanted), _OF_FIELDS)


_OF_FIELDS: Final = (
    msgspec.inspect.StructType,
    msgspec.inspect.DataclassType,  # attrs too
    msgspec.inspect.TypedDictType,
    msgspec.inspect.NamedTupleType,
)
_LONGEST_NAME: Final = 500
