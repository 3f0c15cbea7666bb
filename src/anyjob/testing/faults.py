"""Faults of production, on demand: the broker is unreachable, a worker is killed, a message is redelivered."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from anyjob.base.envelope import JobEnvelope
from anyjob.base.errors import EnqueueError
from anyjob.seams.capabilities import BulkAtomicity

__all__ = ["Fault", "SandboxFaults"]


class Fault:
    """Strikes at the `at`-th of the jobs that it `concerns`, or at each."""

    def __init__(self, at: int | None, concerns: Callable[[JobEnvelope], bool], *, in_doubt: bool = False) -> None:
        self.in_doubt = in_doubt
        self.struck = 0
        self._at = at
        self._concerns = concerns
        self._seen = 0

    def strikes(self, envelope: JobEnvelope) -> bool:
        """Whether it strikes this job, which counts."""
        if not self._concerns(envelope):
            return False
        self._seen += 1
        if self._at not in (None, self._seen):
            return False
        self.struck += 1
        return True


class SandboxFaults:
    """The faults in force. Each ends with its context, and fails the test if it never struck."""

    def __init__(self) -> None:
        self._away: list[Fault] = []
        self._kills: list[Fault] = []
        self._doubles: list[Fault] = []

    @contextmanager
    def broker_away(self, fault: Fault) -> Iterator[None]:
        with _in_force(self._away, fault, "No job was enqueued that would have found the broker away."):
            yield

    @contextmanager
    def worker_killed(self, fault: Fault) -> Iterator[None]:
        with _in_force(self._kills, fault, "No job ran whose worker would have been killed."):
            yield

    @contextmanager
    def delivered_twice(self, fault: Fault) -> Iterator[None]:
        with _in_force(self._doubles, fault, "No job ran that would have come twice."):
            yield

    def kills(self, envelope: JobEnvelope) -> bool:
        """Whether the worker of this run is killed before it can settle."""
        return _any_strikes(self._kills, envelope)

    def doubles(self, envelope: JobEnvelope) -> bool:
        """Whether this message is delivered a second time."""
        return _any_strikes(self._doubles, envelope)

    def accept(
        self, envelopes: Sequence[JobEnvelope], bulk: BulkAtomicity, take: Callable[[Sequence[JobEnvelope]], None]
    ) -> None:
        """Let the broker `take` the jobs that reach it before a fault strikes; raise `EnqueueError` if one does.

        A broker that takes all or none got none; it is unknown whether it got a job in doubt.
        """
        for index, envelope in enumerate(envelopes):
            struck = [fault for fault in self._away if fault.strikes(envelope)]
            if struck:
                in_doubt = any(fault.in_doubt for fault in struck)
                sure, until = _reached(index, len(envelopes), bulk, in_doubt)
                take(envelopes[:until])
                ids = [each.id for each in envelopes]
                raise EnqueueError(_AWAY, accepted=ids[:sure], in_doubt=ids[sure:until], rejected=ids[until:])
        take(envelopes)


_AWAY: Final = "The broker is away (a fault of the sandbox)."


def _reached(index: int, count: int, bulk: BulkAtomicity, in_doubt: bool) -> tuple[int, int]:
    """Return up to where the broker confirmed, and up to where it got the jobs, when it goes away at `index`."""
    if bulk is BulkAtomicity.ALL_OR_NONE:
        return 0, count if in_doubt else 0
    return index, index + in_doubt


def _any_strikes(faults: Sequence[Fault], envelope: JobEnvelope) -> bool:
    return any([fault.strikes(envelope) for fault in faults])  # noqa: C419  # each one counts


@contextmanager
def _in_force(faults: list[Fault], fault: Fault, missed: str) -> Iterator[None]:
    faults.append(fault)
    try:
        yield
    finally:
        faults.remove(fault)
    if not fault.struck:
        raise AssertionError(missed)
