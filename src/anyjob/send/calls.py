"""A job that is named at the call, with its arguments and the options of this run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Generic, ParamSpec, Protocol, TypeVar, cast

from anyjob.base.errors import InvalidArgsError
from anyjob.define.options import EnqueueOptions
from anyjob.define.signature import JobFunction, source_location_of

__all__ = ["JobCall", "TypedJob"]

TArgs_contra = TypeVar("TArgs_contra", contravariant=True)
P = ParamSpec("P")


class TypedJob(Protocol[TArgs_contra]):
    """A job class as type checkers see it: it takes the arguments of its `execute`."""

    def execute(self, args: TArgs_contra) -> Any:
        """Do the work."""


class JobCall(Generic[P]):
    """A job with options of one run, before it is given its arguments."""

    def __init__(self, job: object, options: EnqueueOptions) -> None:
        self.job = job
        self._options = options

    @classmethod
    def of(cls, job: object) -> JobCall[Any]:
        """Return the call of a job, which may have options already."""
        return job if isinstance(job, JobCall) else JobCall(job, {})

    def bind(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[object, EnqueueOptions]:
        """Return the arguments as one object, and the options; raise `InvalidArgsError` as Python would `TypeError`.

        A function's keywords are its arguments; a class takes one object, so that its keywords are options.
        """
        if not isinstance(self.job, JobFunction):
            return self._one_object(args, kwargs)
        try:
            return self.job.bind(tuple(args), kwargs), self._options
        except InvalidArgsError as error:
            meant = ", ".join(f"{name}=..." for name in kwargs if name in EnqueueOptions.__annotations__)
            if meant:
                error.add_note(f"Options go in front: .using({meant}).enqueue(...)")
            raise

    def _one_object(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[object, EnqueueOptions]:
        if len(args) == 1 and not kwargs:
            return args[0], self._options
        try:
            given, options = _read(*args, **kwargs)
        except TypeError:
            raise InvalidArgsError(
                f"{source_location_of(self.job)} takes one object, its arguments, and options by their names; "
                f"{len(args)} given."
            ) from None
        return given, cast("EnqueueOptions", {**self._options, **options})


def _read(args: object, **options: Any) -> tuple[object, Mapping[str, Any]]:
    return args, options
