"""Runs the jobs of a sandbox in the calling thread or task: chooses them, orders them, and raises failures."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from threading import Event
from typing import Final, NamedTuple

from anyjob.base.envelope import read_envelope
from anyjob.base.interrupt import stopped_by_interrupt
from anyjob.define.retry import RetryLater, Snooze
from anyjob.seams.outcome import Completed, Outcome
from anyjob.seams.stored import JobState
from anyjob.testing.delivery import JobDelivery
from anyjob.testing.faults import SandboxFaults
from anyjob.testing.record import EnqueuedJob, JobRecord, JobWatcher
from anyjob.testing.sandbox_backend import ChosenRow, SandboxBackend
from anyjob.testing.sandbox_clock import SandboxClock

__all__ = ["EVERY_JOB", "JobChoice", "JobLine", "SandboxRunner"]

Plan = Generator[JobDelivery, None, None]


class JobChoice:
    """Which jobs a run is about; None is all. What was said of one job is remembered: it goes on to be true."""

    def __init__(self, wanted: Callable[[EnqueuedJob], object] | None = None) -> None:
        self.wanted = wanted
        self._said: dict[tuple[str, bytes], bool] = {}

    def holds(self, raw: bytes, watcher: JobWatcher) -> bool:
        """Whether this job is chosen."""
        assert self.wanted is not None  # noqa: S101  # for mypy: else nobody asks
        seen = watcher.seen(read_envelope(raw))
        key = (seen.id, bytes(seen.envelope.args))
        if key not in self._said:
            self._said[key] = bool(self.wanted(seen))
        return self._said[key]


EVERY_JOB: Final = JobChoice()


class JobLine(NamedTuple):
    """The jobs of one manager's alias, and who watches them."""

    alias: str
    backend: SandboxBackend
    watcher: JobWatcher

    def claim(self, chosen: JobChoice) -> JobDelivery | None:
        """Return the delivery of the chosen job that is first, if one is due."""
        self._recover()
        claim = self.backend.store.claim_chosen(
            self.rows(chosen), lease=self.backend.comes_back_after, worker="sandbox"
        )
        return None if claim is None else JobDelivery(self.backend, self.watcher.executor, claim)

    def due_ids(self, chosen: JobChoice) -> set[str]:
        """Return the ids of the chosen jobs that are due."""
        self._recover()
        return self.backend.store.due_ids(self.rows(chosen))

    def rows(self, chosen: JobChoice) -> ChosenRow | None:
        """Return the choice as the store wants it."""
        if chosen.wanted is None:
            return None
        return lambda row: chosen.holds(row.raw, self.watcher)

    def _recover(self) -> None:
        for job in self.backend.store.recover():
            self.watcher.executor.tell("lost", job.raw)


class SandboxRunner:
    """Drives plans: generators of deliveries. Each backend's order is its own; between backends there is none."""

    def __init__(self, lines: Sequence[JobLine], clock: SandboxClock, record: JobRecord, faults: SandboxFaults) -> None:
        self._lines = lines
        self._clock = clock
        self._record = record
        self._faults = faults

    def drive(self, plan: Plan, *, raises: bool, limit: int | None = None) -> int:
        """Run the plan; return how many jobs ran. Raises a failed try's error at once, if `raises`."""
        count, stop = 0, Event()
        with stopped_by_interrupt(stop), closing(plan):
            for delivery in plan:
                self._refuse_more(delivery, count, limit)
                seen = self.seen()
                try:
                    outcome = delivery.execute(stop)
                    again = delivery.execute(stop) if self._settled(delivery, outcome) else outcome
                except BaseException:
                    delivery.release()
                    raise
                count += 1
                if stop.is_set():  # if no job was interrupted by it
                    break
                if raises and not (isinstance(outcome, Completed) and isinstance(again, Completed)):
                    self.raise_first(seen)
        return count

    async def adrive(self, plan: Plan, *, raises: bool, limit: int | None = None) -> int:
        """Like `drive`, with async jobs in the caller's task."""
        count, stop = 0, Event()
        with stopped_by_interrupt(stop), closing(plan):
            for delivery in plan:
                self._refuse_more(delivery, count, limit)
                seen = self.seen()
                try:
                    outcome = await delivery.aexecute(stop)
                    again = await delivery.aexecute(stop) if self._settled(delivery, outcome) else outcome
                except BaseException:
                    delivery.release()
                    raise
                count += 1
                if stop.is_set():  # if no job was interrupted by it
                    break
                if raises and not (isinstance(outcome, Completed) and isinstance(again, Completed)):
                    self.raise_first(seen)
        return count

    def due_now(self, chosen: JobChoice) -> Plan:
        """Plan the jobs that are due at this moment, without their follow-up jobs."""
        wanted = [(line, line.due_ids(chosen)) for line in list(self._lines)]
        for line, ids in wanted:
            aside = []
            try:
                while ids and (delivery := line.claim(chosen)) is not None:
                    if delivery.id in ids:
                        ids.remove(delivery.id)
                        yield delivery
                    else:  # enqueued by a job of this run, and first by its priority
                        aside.append(delivery)
            finally:
                for delivery in aside:
                    delivery.release()

    def all_due(self, chosen: JobChoice, at_most: int | None = None) -> Plan:
        """Plan the jobs that are due, with their follow-up jobs, while the clock stands still."""
        count = 0
        while count != at_most and (delivery := self._first(chosen)) is not None:
            yield delivery
            count += 1

    def everything(self, chosen: JobChoice) -> Plan:
        """Plan all jobs that are due now and later, moving the clock to each."""
        while True:
            yield from self.all_due(chosen)
            events = [line.backend.store.next_event_at(line.rows(chosen)) for line in self._lines]
            moments = [each for each in events if each is not None]
            if not moments:
                return
            self._clock.travel(to=max(min(moments), self._clock.now()))

    def idle(self) -> bool:
        """Whether nothing is due and nothing runs."""
        counts = [line.backend.store.count() for line in list(self._lines)]
        return not any(each[JobState.WAITING] or each[JobState.RUNNING] for each in counts)

    def seen(self) -> tuple[int, int]:
        """Return how many tries ended and how many jobs were given up so far."""
        return len(self._record.ran), len(self._record.abandoned)

    def raise_first(self, since: tuple[int, int]) -> None:
        """Raise the first failure since then, if there is one."""
        tries, given_up = since
        for ran in self._record.ran[tries:]:
            if ran.error is not None and not (isinstance(ran.error, RetryLater | Snooze) and ran.next_try_at):
                then = f"next at {ran.next_try_at:%Y-%m-%d %H:%M:%S}" if ran.next_try_at else "the last"
                _raise(ran.error, f"in job {ran.name!r} ({ran.id}), try {ran.try_count}, {then}")
        for lost in self._record.abandoned[given_up:]:
            if lost.error is not None:
                _raise(lost.error, f"job {lost.name!r} ({lost.id}) was given up before it ran")

    def _first(self, chosen: JobChoice) -> JobDelivery | None:
        return next((delivery for line in list(self._lines) if (delivery := line.claim(chosen)) is not None), None)

    def _settled(self, delivery: JobDelivery, outcome: Outcome) -> bool:
        """Settle, unless the worker is killed now; return whether the message is delivered a second time."""
        envelope = delivery.envelope
        if self._faults.kills(envelope):
            return False
        delivery.settle(outcome)
        return self._faults.doubles(envelope)

    def _refuse_more(self, delivery: JobDelivery, count: int, limit: int | None) -> None:
        if count == limit:
            delivery.release()
            raise AssertionError(
                f"{limit} jobs ran, and there are more: do they enqueue each other for ever? Else raise max_jobs. "
                f"The next is {delivery.envelope.name!r}."
            )


def _raise(error: BaseException, note: str) -> None:
    error.add_note(f"anyjob: {note}")
    if isinstance(error, Exception):
        raise error
    raise AssertionError(f"{type(error).__qualname__} {note}: {error}") from error  # a cancellation isn't the test's
