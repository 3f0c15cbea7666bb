"""Examines settings, jobs and backends: whether each backend answers, and its risks."""

from __future__ import annotations

import time
from collections.abc import Iterator
from enum import Enum
from typing import NamedTuple

from anyjob.base.errors import EnqueueError
from anyjob.seams.backend import JobBackend
from anyjob.send.manager import JobManager

__all__ = ["Finding", "Verdict", "examine"]


class Verdict(Enum):
    """How bad a finding is."""

    GOOD = "ok"
    RISK = "risk"
    AWAY = "away"


class Finding(NamedTuple):
    """One line of the examination."""

    verdict: Verdict
    where: str
    told: str


def examine(manager: JobManager) -> Iterator[Finding]:
    """Look at the jobs, then at each backend, in the order of the settings. Connects, and changes nothing."""
    manager.registry.check(manager.executor.serializer)
    yield Finding(Verdict.GOOD, "jobs", f"{len(manager.registry.names)} names, all can travel")
    for alias, backend in manager.backends.items():
        reached = _reach(alias, backend)
        yield reached
        yield from (Finding(Verdict.RISK, alias, risk) for risk in backend.risks)
        if reached.verdict is Verdict.GOOD:
            yield from _look(alias, backend)


def _look(alias: str, backend: JobBackend) -> Iterator[Finding]:
    try:
        yield from (Finding(Verdict.RISK, alias, risk) for risk in backend.look_for_risks())
    except EnqueueError as error:  # it went just now
        yield Finding(Verdict.AWAY, alias, str(error))


def _reach(alias: str, backend: JobBackend) -> Finding:
    if backend.capabilities.in_process:
        return Finding(Verdict.GOOD, alias, "lives in the process that enqueues, and ends with it")
    if backend.inspector is None:
        return Finding(Verdict.GOOD, alias, "can't be looked into: not asked")
    begun = time.perf_counter()
    try:
        counted = backend.inspector.count()
    except EnqueueError as error:
        return Finding(Verdict.AWAY, alias, str(error))
    counts = ", ".join(f"{count} {state.name.lower()}" for state, count in counted.items())
    return Finding(Verdict.GOOD, alias, f"answered in {(time.perf_counter() - begun) * 1000:.0f} ms: {counts}")
