"""An application in whose queues messages wait that it sent past anyjob, all in this process."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from anyjob import JobManager, JobRegistry, background_job
from anyjob.base.clock import SystemClock
from anyjob.base.envelope import JobEnvelope
from anyjob.define.configuration import JobConfiguration
from anyjob.extend import StoreBackend
from anyjob.migration import MigrationOptions, MigrationReport
from anyjob.seams.backend import JobBackend
from anyjob.seams.capabilities import ALL_STATES, Capabilities, Quality
from anyjob.seams.inspector import HeldJob, JobInspector
from anyjob.seams.natives import NativeMessage, ReadNative
from anyjob.seams.outcome import JobFailure
from anyjob.seams.stored import JobFilter, JobPage, JobState, StoredJob
from anyjob.stores.memory import InMemoryJobStore
from anyjob.testing.clock import FakeClock

__all__ = ["NOW", "Jobs", "message"]

NOW = datetime(2026, 11, 28, 12, tzinfo=UTC)
BOTH = frozenset({JobState.WAITING, JobState.SCHEDULED})


class _Taken(HeldJob):
    def __init__(self, inspector: _NativeInspector, message: NativeMessage, job: StoredJob) -> None:
        self.job = job
        self._inspector = inspector
        self._message = message

    def acknowledge(self) -> bool:
        self._inspector.messages.remove(self._message)
        return True

    def replace(self, envelope: JobEnvelope) -> bool:
        raise NotImplementedError


class _NativeInspector(JobInspector):
    """The messages of an application's queues, in this process."""

    capabilities = Capabilities(listing=BOTH, moving=BOTH)
    clock = SystemClock()

    def __init__(self, messages: list[NativeMessage], read: ReadNative) -> None:
        self.messages = messages
        self._read = read

    def count(self) -> Mapping[JobState, int]:
        return {JobState.WAITING: len(self.messages)}

    def scan(self, chosen: JobFilter, *, cursor: str | None = None, limit: int = 100) -> JobPage:
        return JobPage([job for job in map(self._read, self.messages) if chosen.matches(job)], None)

    @contextmanager
    def hold(self, chosen: JobFilter, *, holder: str, ahead: int) -> Iterator[Iterator[HeldJob]]:
        seen = [(message, self._read(message)) for message in list(self.messages)]
        yield (_Taken(self, message, job) for message, job in seen if chosen.matches(job))

    def park(self, raw: bytes, failure: JobFailure) -> str:
        raise NotImplementedError


CAN = Capabilities(priority=Quality.EXACT, delay=Quality.EXACT, listing=ALL_STATES)


class _App(StoreBackend):
    """A backend in whose application messages wait."""

    def __init__(self, messages: Sequence[NativeMessage]) -> None:
        super().__init__(InMemoryJobStore(), CAN)
        self.messages = list(messages)
        self.asked: Collection[str] | None = None

    def native_inspector(self, read: ReadNative, queues: Collection[str] | None = None) -> JobInspector:
        self.asked = queues
        return _NativeInspector(self.messages, read)


class Jobs:
    """Two backends, and a job of each kind that notes its arguments."""

    def __init__(self, *messages: NativeMessage, new: JobBackend | None = None) -> None:
        self.ran: list[Any] = []
        self.clock = FakeClock(NOW)
        self.registry = JobRegistry()
        self.app = _App(messages)
        self.manager = JobManager(
            {"app": self.app, "new": new or StoreBackend(InMemoryJobStore(self.clock), CAN)},
            registry=self.registry,
            default="new",
            clock=self.clock,
        )

    def define(self, name: str = "shop.send", function: Callable[..., None] = lambda: None, **options: Any) -> None:
        background_job(name, registry=self.registry, **options)(function)

    def take(self, args_type: Any) -> None:
        """Define the job `mail.send`, which takes one object."""
        if args_type is Any:
            self.registry.register_handler("mail.send", self.ran.append)
            return
        ran = self.ran

        class Take:
            def execute(self, args: Any) -> None:
                ran.append(args)

        self.registry.register(JobConfiguration(name="mail.send", job=Take, declared_args_type=args_type))

    def adopt(self, tasks: Mapping[str, str], **options: Any) -> MigrationReport:
        return self.manager.adoption("app", tasks, options=MigrationOptions(**options)).move()

    def kept(self) -> list[JobEnvelope]:
        page = self.manager.inspect("new").scan(JobFilter())
        return [envelope for job in page.jobs if (envelope := job.envelope) is not None]


def message(number: int = 1, **fields: Any) -> NativeMessage:
    given: dict[str, Any] = {"id": f"native-{number}", "task": "shop.send", "queue": "celery", **fields}
    return NativeMessage(**given)
