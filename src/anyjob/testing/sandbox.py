"""A world of its own for one test: every backend of the application is memory, and time stands still."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime, timedelta
from typing import Unpack

import msgspec
from msgspec import UNSET, Raw

from anyjob.base.envelope import ENVELOPE_VERSION, JobEnvelope, JobPriority
from anyjob.current import get_manager, redirect
from anyjob.define.upgrades import ARGS_VERSION_HEADER
from anyjob.job import FunctionJob
from anyjob.seams.capabilities import Capabilities
from anyjob.seams.worker_options import WorkerOptions
from anyjob.send.manager import JobManager
from anyjob.testing.assertions import JobAssertions
from anyjob.testing.faults import Fault
from anyjob.testing.matching import ChosenJobs, JobExpectation, refuse_bad_queues
from anyjob.testing.record import EnqueuedJob, JobRecord
from anyjob.testing.runner import EVERY_JOB, JobChoice
from anyjob.testing.sandbox_backend import capabilities_of
from anyjob.testing.sandbox_clock import SandboxClock
from anyjob.testing.world import IDLE_WITHIN, MAX_JOBS, SandboxWorld

__all__ = ["JobSandbox", "in_memory"]


@contextmanager
def in_memory(*, profile: Capabilities | str | None = None, start: datetime | None = None) -> Iterator[JobSandbox]:
    """Send the jobs of every manager, in all threads, into a sandbox of memory; it leaves no trace.

    `profile` is a backend to behave like: its URL (its adapter must be installed; it is not connected to), or its
    `Capabilities`; a feature that it lacks is refused as there. Default is all that memory can do. `start` is where the
    clock stands; default is now.
    """
    clock, record = SandboxClock(start), JobRecord()
    world = SandboxWorld(clock, record, capabilities_of(profile))
    with redirect(world.wiring_of):
        try:
            yield JobSandbox(clock, record, world)
        finally:
            world.close()


class JobSandbox(JobAssertions):
    """Shows a test its jobs, and runs them. Made by the fixture `anyjob_sandbox` or `in_memory()`.

    Jobs are encoded, checked and stored as in production, and run only when the test says so. Nothing here sleeps. A
    try that fails raises its own error in the test, with a note that tells the job, after it was settled; `RetryLater`
    is no failure while tries are left, nor is `Snooze`. `raises=False` leaves errors to `ran` and `abandoned`.
    """

    def __init__(self, clock: SandboxClock, record: JobRecord, world: SandboxWorld) -> None:
        super().__init__(record, world.known_jobs)
        self.clock = clock
        self._world = world
        self._runner = world.runner
        self._numbers = itertools.count(1)

    # Time

    def now(self) -> datetime:
        """Return the time in the sandbox."""
        return self.clock.now()

    def travel(self, duration: timedelta | float = 0.0, **units: float) -> None:
        """Move the clock on by seconds, a timedelta, or units (`minutes=5`). Runs nothing."""
        self.clock.travel(_as_timedelta(duration) + timedelta(**units))

    def travel_to(self, moment: datetime) -> None:
        """Move the clock on to an aware datetime. Runs nothing."""
        self.clock.travel(to=moment)

    def freeze(self) -> AbstractContextManager[None]:
        """Let `datetime.now()` and `time.time()` stand still with the sandbox's clock and travel with it.

        Needs time-machine. Without it, code that asks the machine's clock sees the machine's time.
        """
        return self.clock.freeze()

    # Run

    def run(self, *, raises: bool = True, **chosen: Unpack[ChosenJobs]) -> int:
        """Run the jobs that are due now, in true order; return how many ran. Jobs that they enqueue wait for the next
        run.

        `queue` is a queue or several; `only` is a job, or several, as in claims, or a function of an `EnqueuedJob`. All
        other jobs stay as they are; so it is with `run_one` and `run_all`.
        """
        return self._runner.drive(self._runner.due_now(self._choice(chosen)), raises=raises)

    def run_one(self, *, raises: bool = True, **chosen: Unpack[ChosenJobs]) -> bool:
        """Run the one job that is due first; return whether there was one."""
        return bool(self._runner.drive(self._runner.all_due(self._choice(chosen), 1), raises=raises))

    def run_all(self, *, raises: bool = True, max_jobs: int = MAX_JOBS, **chosen: Unpack[ChosenJobs]) -> int:
        """Run everything: follow-up jobs, delayed ones, further tries, moving the clock to each; return how many ran.

        Raises AssertionError when more than `max_jobs` would run: jobs that enqueue each other for ever.
        """
        return self._runner.drive(self._runner.everything(self._choice(chosen)), raises=raises, limit=max_jobs)

    async def arun(self, *, raises: bool = True, **chosen: Unpack[ChosenJobs]) -> int:
        """Like `run`, with async jobs in the caller's own task, so that they can use what belongs to its event loop."""
        return await self._runner.adrive(self._runner.due_now(self._choice(chosen)), raises=raises)

    async def arun_one(self, *, raises: bool = True, **chosen: Unpack[ChosenJobs]) -> bool:
        """Like `run_one`, as `arun`."""
        return bool(await self._runner.adrive(self._runner.all_due(self._choice(chosen), 1), raises=raises))

    async def arun_all(self, *, raises: bool = True, max_jobs: int = MAX_JOBS, **chosen: Unpack[ChosenJobs]) -> int:
        """Like `run_all`, as `arun`."""
        return await self._runner.adrive(self._runner.everything(self._choice(chosen)), raises=raises, limit=max_jobs)

    def run_at_enqueue(self) -> AbstractContextManager[None]:
        """Run the due jobs at the end of each enqueue, in its thread (of `aenqueue`, in its task), and raise as `run`.

        What a job enqueues runs after it, not inside of it. Jobs are stored and read again as ever.
        """
        return self._world.at_enqueue()

    @contextmanager
    def worker(self, *, concurrency: int = 1, raises: bool = True) -> Iterator[None]:
        """Run jobs in the threads of real workers, as soon as they are due by the sandbox's clock.

        At its end the context waits until nothing is due and nothing runs, stops, and raises the first failure.
        """
        since = self._runner.seen()
        with self._world.served(WorkerOptions(concurrency=concurrency)):
            yield
            self.wait_until_idle()
        if raises:
            self._runner.raise_first(since)

    def wait_until_idle(self, timeout: float = IDLE_WITHIN) -> None:
        """Wait until the workers have run all due jobs; raise AssertionError if that takes over `timeout` seconds."""
        self._world.wait_until_idle(timeout)

    def clear(self) -> None:
        """Forget what waits, what was given up and all that was recorded; parts that began before remember. The clock
        and the faults stay as they are. For the time between runs: what runs meanwhile ends without a trace.
        """
        for line in list(self._world.lines):
            line.backend.store.clear()
        self._begin(self._record)

    # Go wrong

    def broker_away(
        self, at: int | None = None, job: object = UNSET, *, in_doubt: bool = False
    ) -> AbstractContextManager[None]:
        """Let the `at`-th enqueue of the block (None: each), of `job` if given, raise `EnqueueError`.

        `in_doubt`: the broker has the job, but its answer never came. Fails if it never struck, as all faults do.
        """
        return self._world.faults.broker_away(Fault(at, self._concerns(job), in_doubt=in_doubt))

    def worker_killed(self, at: int | None = None, job: object = UNSET) -> AbstractContextManager[None]:
        """Let the worker of the `at`-th run of the block be killed after the job's work, before it is settled.

        The job runs again, one loss counted, when the clock has travelled the backend's `redelivery_bound`, or in
        `run_all`. For `run` and its kin; not for `worker`.
        """
        return self._world.faults.worker_killed(Fault(at, self._concerns(job)))

    def delivered_twice(self, at: int | None = None, job: object = UNSET) -> AbstractContextManager[None]:
        """Redeliver the message of the `at`-th run of the block, so that the job runs a second time. As
        `worker_killed`.
        """
        return self._world.faults.delivered_twice(Fault(at, self._concerns(job)))

    def receive(
        self,
        name: str,
        payload: object,
        *,
        args_version: int = 0,
        headers: Mapping[str, str] | None = None,
        manager: JobManager | None = None,
    ) -> str:
        """Put a message on the queue as code of another version sent it, unchecked; return its id.

        `args_version` is how many of the job's `upgrades` that code had. `manager` is whose backend gets it; default is
        the one in force.
        """
        now, wiring = self.now(), self._world.wiring_of(manager or get_manager())
        envelope = JobEnvelope(
            v=ENVELOPE_VERSION,
            id=f"received-{next(self._numbers)}",
            name=name,
            args=Raw(msgspec.json.encode(payload)),
            queue="default",
            priority=JobPriority.NORMAL,
            created_at=now,
            first_due_at=now,
            headers={**(headers or {}), **({ARGS_VERSION_HEADER: str(args_version)} if args_version else {})},
        )
        backend = wiring.router.target_of(envelope).backend
        line = next(line for line in self._world.lines if line.backend is backend)
        line.watcher.accepted(envelope, line.alias, enqueued=False)
        line.backend.put((envelope,))
        return envelope.id

    def _concerns(self, job: object) -> Callable[[JobEnvelope], bool]:
        if job is UNSET:
            return lambda _: True
        wanted = JobExpectation(job, UNSET, {}, self._world.known_jobs())
        return lambda envelope: any(
            envelope.name in (each.name, *each.aliases) for each in self._world.known_jobs() if wanted.means(each)
        )

    def _choice(self, chosen: ChosenJobs) -> JobChoice:
        if not chosen:
            return EVERY_JOB
        queue, only = chosen.get("queue"), chosen.get("only", UNSET)
        queues = None if queue is None else frozenset([queue] if isinstance(queue, str) else queue)
        refuse_bad_queues(queues)
        fits: Callable[[EnqueuedJob], object]
        if callable(only) and not isinstance(only, type | FunctionJob):
            fits = only
        else:
            fits = JobExpectation(only, UNSET, {}, self._world.known_jobs()).fits
        return JobChoice(lambda seen: (queues is None or seen.queue in queues) and fits(seen))


def _as_timedelta(duration: timedelta | float) -> timedelta:
    return duration if isinstance(duration, timedelta) else timedelta(seconds=duration)
