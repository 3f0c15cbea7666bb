"""What the kit's jobs did, as the test reads it: a file that any number of processes append to."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from anyjob.define.context import current_job

__all__ = ["Entry", "Journal", "hold", "record", "wait_until"]

T = TypeVar("T")


class Entry(Struct, frozen=True, kw_only=True):
    """One line: a try that began or ended, with what the job saw of its own run."""

    event: str
    label: str
    at: float
    """`time.time()`, the same for all processes of a machine."""
    started: float
    """When the executor began the try, by its own clock: back-off counts from there."""
    pid: int
    id: str
    name: str
    queue: str
    priority: int
    try_count: int
    lost_count: int
    last_error: str | None
    headers: Mapping[str, str]
    data: Any = None


def record(path: str, event: str, label: str, data: Any = None) -> None:
    """Append what the running job does; called by jobs. One write of one line, which processes never mix."""
    job = current_job()
    entry = Entry(
        event=event,
        label=label,
        at=time.time(),
        started=job.started_at.timestamp(),
        pid=os.getpid(),
        id=job.id,
        name=job.name,
        queue=job.queue,
        priority=int(job.priority),
        try_count=job.try_count,
        lost_count=job.lost_count,
        last_error=job.last_error,
        headers=dict(job.headers),
        data=data,
    )
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(file, msgspec.json.encode(entry) + b"\n")
    finally:
        os.close(file)


def wait_until(condition: Callable[[], T], *, timeout: float = 20.0, what: object = "the condition") -> T:
    """Return what `condition` returns once that is true; fail after `timeout` seconds, saying `what` never came.

    `ANYJOB_TEST_PATIENCE` stretches the timeouts: 3 on a slow machine, 0.1 where failing soon is wanted.
    """
    timeout *= float(os.environ.get("ANYJOB_TEST_PATIENCE", "1"))
    deadline = time.monotonic() + timeout
    pause = threading.Event()
    while not (result := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout:g} s in vain for {what() if callable(what) else what}")
        pause.wait(0.005)
    return result


def hold(gate: str | None, *, unless: Callable[[], bool] = lambda: False) -> None:
    """Keep a job running until the file `gate` exists, or `unless` says so; None doesn't wait."""
    if gate is not None:
        wait_until(lambda: Path(gate).exists() or unless(), timeout=60, what=f"the gate {gate}")


class Journal:
    """Reads what was recorded under `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._decoder = msgspec.json.Decoder(Entry)

    def entries(self, event: str | None = None, *labels: str) -> list[Entry]:
        """Return the entries, in the order they were written, of an event and of labels if any are given."""
        if not self.path.exists():
            return []
        *lines, _half = self.path.read_bytes().split(b"\n")  # a reader may see a line that is still being written
        found = map(self._decoder.decode, lines)
        return [each for each in found if event in (None, each.event) and (not labels or each.label in labels)]

    def begun(self) -> list[str]:
        """Return the labels of the tries that began, in their order."""
        return [each.label for each in self.entries("begin")]

    def wait(self, count: int, event: str = "end", *labels: str, timeout: float = 20.0) -> Sequence[Entry]:
        """Wait for `count` entries of an event and return all there are."""

        def enough() -> list[Entry] | None:
            found = self.entries(event, *labels)
            return found if len(found) >= count else None

        def told() -> str:
            seen = [(each.event, each.label) for each in self.entries()]
            return f"{count} times {event!r} of {labels or 'any job'}; seen so far: {seen[-20:]} ({len(seen)} in all)"

        return wait_until(enough, timeout=timeout, what=told) or ()
