"""From a call to an envelope: everything about a job is checked here, once, for every backend."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Final

from msgspec import Raw

from anyjob.base.clock import Clock
from anyjob.base.envelope import ENVELOPE_VERSION, JobEnvelope, JobIds, read_envelope, write_envelope
from anyjob.base.errors import EnvelopeError, InvalidArgsError, InvalidOptionError
from anyjob.base.moments import plain_moment
from anyjob.define.configuration import JobConfiguration
from anyjob.define.options import EnqueueOptions, PrepareOptions, due_at, plain_options
from anyjob.define.registry import JobRegistry
from anyjob.define.serializer import JobSerializer
from anyjob.define.upgrades import ARGS_VERSION_HEADER
from anyjob.send.calls import JobCall

__all__ = ["NO_ID", "JobPreparer", "kept"]

NO_ID: Final = "unique_id: what is unique is the id, so give one: job_id='order-7', of several jobs by prepare()."


class JobPreparer:
    """Makes envelopes of the jobs of one registry. Thread-safe."""

    def __init__(self, registry: JobRegistry, serializer: JobSerializer) -> None:
        self.registry = registry
        self.serializer = serializer
        self._ids = JobIds()

    def prepare(
        self, configuration: JobConfiguration, args: object, options: PrepareOptions, clock: Clock
    ) -> JobEnvelope:
        """Return the envelope of a run; raise `InvalidArgsError` or `InvalidOptionError`."""
        data = self.serializer.serialize(args, configuration.args_type)
        now = plain_moment(clock.now())
        if not options and not configuration.upgrades:
            return JobEnvelope(
                ENVELOPE_VERSION,
                self._ids.new(now),
                configuration.name,
                Raw(data),
                configuration.queue,
                configuration.priority,
                now,
                now,
            )
        options = plain_options(options)
        due = due_at(options, now)
        return JobEnvelope(
            v=ENVELOPE_VERSION,
            id=options.get("job_id") or self._ids.new(now),
            name=configuration.name,
            args=Raw(data),
            queue=options.get("queue") or configuration.queue,
            priority=options.get("priority") or configuration.priority,
            created_at=now,
            first_due_at=due or now,
            due_at=due,
            headers=_headers(configuration, options),
        )

    def at(self, clock: Clock) -> Callable[[JobConfiguration, object, PrepareOptions], JobEnvelope]:
        """Return `prepare` with that clock."""
        return partial(self.prepare, clock=clock)

    def prepare_for(
        self, job: object, args: Sequence[Any], kwargs: Mapping[str, Any], clock: Clock
    ) -> tuple[JobEnvelope, EnqueueOptions]:
        """Return the envelope of a call that names the job, and its options. Raises `UnknownJobError` too."""
        call = JobCall.of(job)
        configuration = self.registry.get_for_job(call.job)
        bound, options = call.bind(args, kwargs)
        _refuse_other_args(configuration, bound)
        return self.prepare(configuration, bound, options, clock), options

    def prepare_many(self, items: Iterable[object], options: EnqueueOptions, clock: Clock) -> list[JobEnvelope]:
        """Return the envelopes of args objects, which take the options, and of envelopes, which have theirs."""
        if options.get("job_id") is not None:
            raise InvalidOptionError("job_id: several jobs can't share an id; give each its own by prepare().")
        items = list(items)
        if options.get("unique_id") and not all(isinstance(item, JobEnvelope) for item in items):
            raise InvalidOptionError(NO_ID)
        return [
            _checked(item)
            if isinstance(item, JobEnvelope)
            else self.prepare(self.registry.get_for(item), item, options, clock)
            for item in items
        ]


def kept(envelope: JobEnvelope, options: Mapping[str, object]) -> JobEnvelope:
    """Return the envelope of these values; raise `InvalidOptionError` for one that no envelope can keep."""
    alias = options.get("backend")
    if alias is not None:
        raise InvalidOptionError(
            f"backend = {alias!r}: an envelope doesn't say where it goes. Say so when it is sent: "
            f"enqueue_many([...], backend={alias!r})."
        )
    if options.get("unique_id") is not None:
        raise InvalidOptionError("unique_id is for sending: enqueue_many([...], unique_id=True).")
    return envelope


def _headers(configuration: JobConfiguration, options: PrepareOptions) -> Mapping[str, str]:
    headers = dict(options.get("headers") or {})
    if configuration.upgrades:
        headers[ARGS_VERSION_HEADER] = str(configuration.args_version)
    return headers


def _checked(envelope: JobEnvelope) -> JobEnvelope:
    """Return an envelope from any caller as the other side will read it, its values plain."""
    try:
        return read_envelope(write_envelope(envelope))
    except (EnvelopeError, TypeError, ValueError) as error:
        raise InvalidOptionError(f"{envelope!r} is no envelope of prepare(): {error}") from error


def _refuse_other_args(configuration: JobConfiguration, args: object) -> None:
    """Raise unless `args` are of the job's args type, exactly, or plain data for a TypedDict."""
    wanted = configuration.args_type
    if isinstance(wanted, type) and type(args) is not wanted and not isinstance(args, dict):
        raise InvalidArgsError(
            f"{configuration.name} takes {wanted.__qualname__}, not {type(args).__qualname__}. "
            "A subclass won't do: its own fields would be lost."
        )
