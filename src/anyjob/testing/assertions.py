"""Assertions about jobs; one that fails shows the recorded jobs, and how the nearest one differs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar, Unpack

from msgspec import UNSET

from anyjob.define.configuration import JobConfiguration
from anyjob.testing.matching import ExpectedJob, ExpectedRun, JobExpectation, Matcher, describe
from anyjob.testing.record import AbandonedJob, EnqueuedJob, JobRecord, RanJob

__all__ = ["JobAssertions"]

Seen = TypeVar("Seen", bound=EnqueuedJob)

_MOST_SHOWN = 20


class JobAssertions:
    """Claims about what was enqueued, what ran and what was given up, in the whole test or in a part of it.

    A job is named by its class or function, its args class, its name, or an object of its args class that stands for
    both; a list, tuple or set of these is any of them, and no name is any job. `args` are an object of that class, a
    mapping of some of its fields, or a function of the arguments; every value in a mapping, and every other one, may be
    a function of the actual value or an object that equals it (`unittest.mock.ANY`). `times` is how many there are;
    None is at least one. A claim returns the first job that fits.
    A name or a field that no job has is an error, never a claim that holds.
    """

    def __init__(self, record: JobRecord, known: Any, since: JobRecord | None = None) -> None:
        self._record = record
        self._known = known
        self._begin(since or JobRecord())

    def _begin(self, since: JobRecord) -> None:
        """Claim nothing about what was recorded by now."""
        self._skipped = tuple(len(each) for each in (since.enqueued, since.ran, since.abandoned))

    @property
    def enqueued(self) -> Sequence[EnqueuedJob]:
        """Every job that was enqueued, in order, whatever became of it."""
        return tuple(self._record.enqueued[self._skipped[0] :])

    @property
    def ran(self) -> Sequence[RanJob]:
        """Every try that ended, in order, whether it succeeded or not."""
        return tuple(self._record.ran[self._skipped[1] :])

    @property
    def abandoned(self) -> Sequence[AbandonedJob]:
        """Every job that was given up, in order."""
        return tuple(self._record.abandoned[self._skipped[2] :])

    def assert_enqueued(
        self,
        job: object = UNSET,
        args: Matcher | object = UNSET,
        *,
        times: int | None = None,
        **expected: Unpack[ExpectedJob],
    ) -> EnqueuedJob:
        """Claim that such a job was enqueued."""
        __tracebackhide__ = True
        return self._claim("enqueued", self.enqueued, times, self._expect(job, args, expected))

    def assert_not_enqueued(
        self, job: object = UNSET, args: Matcher | object = UNSET, **expected: Unpack[ExpectedJob]
    ) -> None:
        """Claim that no such job was enqueued."""
        __tracebackhide__ = True
        self._deny("enqueued", self.enqueued, self._expect(job, args, expected))

    def assert_nothing_enqueued(self) -> None:
        """Claim that no job was enqueued at all."""
        __tracebackhide__ = True
        if self.enqueued:
            raise AssertionError(f"No job was to be enqueued.\n{_list('enqueued', self.enqueued)}")

    def assert_ran(
        self,
        job: object = UNSET,
        args: Matcher | object = UNSET,
        *,
        times: int | None = None,
        **expected: Unpack[ExpectedRun],
    ) -> RanJob:
        """Claim that such a try ended; `error=None` asks for a success, `error=ValueError` for that failure."""
        __tracebackhide__ = True
        return self._claim("run", self.ran, times, self._expect(job, args, expected))

    def assert_not_ran(
        self, job: object = UNSET, args: Matcher | object = UNSET, **expected: Unpack[ExpectedRun]
    ) -> None:
        """Claim that no such try ended."""
        __tracebackhide__ = True
        self._deny("run", self.ran, self._expect(job, args, expected))

    def assert_abandoned(
        self,
        job: object = UNSET,
        args: Matcher | object = UNSET,
        *,
        times: int | None = None,
        **expected: Unpack[ExpectedRun],
    ) -> AbandonedJob:
        """Claim that such a job was given up; `error=ConnectionError` asks for the last try's."""
        __tracebackhide__ = True
        return self._claim("given up", self.abandoned, times, self._expect(job, args, expected))

    def assert_nothing_abandoned(self) -> None:
        """Claim that no job was given up."""
        __tracebackhide__ = True
        if self.abandoned:
            raise AssertionError(f"No job was to be given up.\n{_list('given up', self.abandoned)}")

    def part(self) -> JobAssertions:
        """Return the same claims about all events from now on."""
        return JobAssertions(self._record, self._known, self._record)

    @contextmanager
    def assert_enqueues(
        self, times: int, job: object = UNSET, args: Matcher | object = UNSET, **expected: Unpack[ExpectedJob]
    ) -> Iterator[JobAssertions]:
        """Claim that the block enqueues so many jobs, or so many of that kind; claims about the block are yielded."""
        part = self.part()
        yield part
        __tracebackhide__ = True
        if times:
            part.assert_enqueued(job, args, times=times, **expected)
        else:
            part.assert_not_enqueued(job, args, **expected)

    def _expect(self, job: object, args: object, fields: Mapping[str, Any]) -> JobExpectation:
        known: Sequence[JobConfiguration] = self._known()
        return JobExpectation(job, args, fields, known)

    def _claim(self, verb: str, seen: Sequence[Seen], times: int | None, wanted: JobExpectation) -> Seen:
        __tracebackhide__ = True
        if times is not None and times < 1:
            raise ValueError(f"times = {times!r}: at least 1; for none there is assert_not_...")
        fitting = [each for each in seen if wanted.fits(each)]
        if fitting and times in (None, len(fitting)):
            return fitting[0]
        if fitting:
            raise AssertionError(f"{_jobs(len(fitting))} like this, not {times}: {wanted}\n{_list(verb, seen)}")
        raise AssertionError(f"No job like this was {verb}: {wanted}\n{_list(verb, seen)}{_nearest(seen, wanted)}")

    def _deny(self, verb: str, seen: Sequence[EnqueuedJob], wanted: JobExpectation) -> None:
        __tracebackhide__ = True
        fitting = [each for each in seen if wanted.fits(each)]
        if fitting:
            raise AssertionError(f"{_jobs(len(fitting))} like this: {wanted}\n{_list(verb, fitting)}")


def _jobs(count: int) -> str:
    return f"{count} job{'' if count == 1 else 's'}"


def _list(verb: str, seen: Sequence[EnqueuedJob]) -> str:
    if not seen:
        return f"Nothing was {verb}."
    lines = [f"  {number}. {describe(each)}" for number, each in enumerate(seen[:_MOST_SHOWN], 1)]
    left = [f"  ... and {len(seen) - _MOST_SHOWN} more"] if len(seen) > _MOST_SHOWN else []
    return "\n".join([f"What was {verb}:", *lines, *left])


def _nearest(seen: Sequence[EnqueuedJob], wanted: JobExpectation) -> str:
    """Return how the job with the fewest differences differs; one of another kind is never near."""
    ranked = [(wanted.differences(each), number) for number, each in enumerate(seen, 1)]
    same = [(found, number) for found, number in ranked if found[0].path != "job"]
    if not same:
        return ""
    differences, number = min(same, key=lambda pair: len(pair[0]))
    return "\n".join([f"\nThe nearest is no. {number}:", *(f"  {each}" for each in differences)])
