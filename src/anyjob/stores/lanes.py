"""The order of the jobs in memory: one lane per queue and priority."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from datetime import datetime

from msgspec import Struct

__all__ = ["JobLane", "JobRow"]


class JobRow(Struct, order=True, gc=False):
    """A job. Rows compare by `due`, then `seq`, which is unique: within its lane, the order in which they run.

    No field can form a cycle, hence gc=False: a million waiting jobs cost the collector nothing. Facts that few jobs
    have (a lease, a failure) are kept beside the rows.
    """

    due: datetime
    seq: int
    id: str
    queue: str
    priority: int
    raw: bytes


class JobLane:
    """The free jobs of one queue and one priority.

    Two structures: jobs that are due when they come line up in a deque, because they come in order; scheduled ones, and
    those that go back to an old place, are in a heap. So neither a million due nor a million scheduled jobs slow down
    an immediate one. A row that is taken out of the middle stays there as a stale row, which `rows` no longer holds,
    until it is first or stale rows are the greater part.
    """

    def __init__(self, rows: dict[str, JobRow]) -> None:
        self._rows = rows
        self._line: deque[JobRow] = deque()
        self._heap: list[JobRow] = []
        self._stale = 0

    def append(self, row: JobRow) -> None:
        """Add a row that is due: to the end of the line, if that is its place."""
        if not self._line or self._line[-1] < row:
            self._line.append(row)
        else:
            self.push(row)

    def push(self, row: JobRow) -> None:
        """Add a row that is due at any time."""
        heapq.heappush(self._heap, row)

    def first(self) -> JobRow | None:
        """Return the row that is due first, whether it is due yet or not."""
        if self._stale:
            self._drop_stale_heads()
        if self._heap:
            return min(self._line[0], self._heap[0]) if self._line else self._heap[0]
        return self._line[0] if self._line else None

    def pop_due(self, now: Callable[[], datetime]) -> JobRow | None:
        """Remove and return the first row, if it is due; `now` is called only if that is in question."""
        if not self._heap and not self._stale:  # nearly always; nothing in the line is early
            return self._line.popleft() if self._line else None
        row = self.first()
        if row is None or row.due > now():
            return None
        return heapq.heappop(self._heap) if self._heap and self._heap[0] is row else self._line.popleft()

    def leave_stale(self) -> None:
        """Note that a row in here was replaced in `rows`."""
        self._stale += 1
        if self._stale > 100 and self._stale * 2 > len(self._line) + len(self._heap):
            self._line = deque(row for row in self._line if self._rows.get(row.id) is row)
            self._heap = [row for row in self._heap if self._rows.get(row.id) is row]
            heapq.heapify(self._heap)
            self._stale = 0

    def _drop_stale_heads(self) -> None:
        while self._line and self._rows.get(self._line[0].id) is not self._line[0]:
            self._line.popleft()
            self._stale -= 1
        while self._heap and self._rows.get(self._heap[0].id) is not self._heap[0]:
            heapq.heappop(self._heap)
            self._stale -= 1
