"""An observer that writes down what it hears, beside the journal of the job that it hears of."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import Struct

from anyjob.base.envelope import JobEnvelope
from anyjob.define.context import JobExecutionContext
from anyjob.seams.observer import JobObserver

__all__ = ["OBSERVER", "Heard", "ProbeObserver", "heard"]

OBSERVER: Final = f"{__name__}:ProbeObserver"
"""What the settings of a worker name."""


class Heard(Struct, frozen=True, kw_only=True):
    """One event that a process heard."""

    event: str
    pid: int
    label: str = ""
    lost_count: int = 0
    result: Any = None


class ProbeObserver(JobObserver):
    """Notes what the conformance kit has no other way to see."""

    def __init__(self) -> None:
        self._journals: set[str] = set()

    def started(self, job: JobExecutionContext) -> None:
        self._note("started", job._envelope)  # noqa: SLF001  # kept from jobs, not from us

    def succeeded(self, job: JobExecutionContext, result: object) -> None:
        self._note("succeeded", job._envelope, result)  # noqa: SLF001

    def released(self, envelope: JobEnvelope) -> None:
        self._note("released", envelope)

    def lost(self, envelope: JobEnvelope) -> None:
        self._note("lost", envelope)

    def process_ends(self) -> None:
        for journal in self._journals:
            _write(journal, Heard(event="process_ends", pid=os.getpid()))

    def _note(self, event: str, envelope: JobEnvelope, result: object = None) -> None:
        args = msgspec.json.decode(envelope.args)
        self._journals.add(args["journal"])
        label, lost = args.get("label", ""), envelope.lost_count
        _write(args["journal"], Heard(event=event, pid=os.getpid(), label=label, lost_count=lost, result=result))


def heard(journal: Path, *events: str) -> list[Heard]:
    """Return what was heard of the jobs with that journal, of these events if any are given."""
    file = _beside(journal)
    lines = file.read_bytes().splitlines() if file.exists() else []
    found = [msgspec.json.decode(line, type=Heard) for line in lines]
    return [each for each in found if not events or each.event in events]


def _write(journal: str, entry: Heard) -> None:
    file = os.open(_beside(Path(journal)), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(file, msgspec.json.encode(entry) + b"\n")
    finally:
        os.close(file)


def _beside(journal: Path) -> Path:
    return journal.with_name(f"{journal.name}.heard")
