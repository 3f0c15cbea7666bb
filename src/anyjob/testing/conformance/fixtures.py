"""The fixtures of the kit, and what a test does where a feature is not declared: it sees the call refused."""

from __future__ import annotations

import functools
import os
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, NoReturn, TypeVar, cast

import pytest

from anyjob.base.clock import SystemClock
from anyjob.base.envelope import JobPriority
from anyjob.base.errors import UnsupportedCapabilityError
from anyjob.migration import JobMigration, MigrationOptions, MigrationReport
from anyjob.seams.backend import JobBackend
from anyjob.seams.capabilities import Capabilities, Quality
from anyjob.seams.stored import JobState
from anyjob.seams.worker_options import WorkerOptions
from anyjob.stores.memory import InMemoryJobStore
from anyjob.stores.store_backend import StoreBackend, memory_capabilities
from anyjob.testing.conformance.harness import BackendHarness, World
from anyjob.testing.probes.journal import Journal
from anyjob.testing.probes.observer import OBSERVER
from pytest_anyjob.conformance import UNPROVED

__all__ = ["KitFixtures", "move", "needs", "not_proved", "promised", "slow"]

Test = TypeVar("Test", bound=Callable[..., None])


class KitFixtures:
    """Gives the tests of a class their worlds. An adapter's test class says by `make_harness` what they are on."""

    @classmethod
    @abstractmethod
    def make_harness(cls, tmp_path_factory: pytest.TempPathFactory) -> BackendHarness:
        """Return the harness for all tests of the class."""
        raise NotImplementedError

    @pytest.fixture(scope="class")
    @classmethod
    def harness(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BackendHarness]:
        """Give the harness."""
        harness = cls.make_harness(tmp_path_factory)
        yield harness
        harness.close()

    @pytest.fixture(scope="class")
    @classmethod
    def shared_world(cls, harness: BackendHarness, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
        """Give a world with a running worker, shared by the tests that leave both as they are."""
        with harness.open(tmp_path_factory.mktemp("shared")) as world:
            world.start_worker(observers=[OBSERVER])
            yield world

    @pytest.fixture
    def running(self, shared_world: World, tmp_path: Path) -> World:
        """Give the shared world, its journal empty."""
        shared_world.journal = Journal(tmp_path / "journal")
        return shared_world

    @pytest.fixture
    def world(self, harness: BackendHarness, tmp_path: Path) -> Iterator[World]:
        """Give a world of the test's own, without a worker."""
        with harness.open(tmp_path) as world:
            yield world


def _refuses_priority(world: World) -> None:
    _is_refused(world, lambda: world.enqueue("x", priority=JobPriority.HIGH))


def _refuses_delay(world: World) -> None:
    _is_refused(world, lambda: world.enqueue("x", delay=1), lambda: world.enqueue("x", delay=timedelta(days=1)))


def _accepts_the_same_id_again(world: World) -> None:
    """What isn't unique is no error, unless the call says that it must be: both are there, and both may run."""
    with pytest.raises(UnsupportedCapabilityError, match="unique_id"):
        world.manager.enqueue(world.probe("refused"), job_id="twice", unique_id=True)
    world.enqueue("x", job_id="twice")
    world.enqueue("x", job_id="twice")
    world.start_worker()
    world.journal.wait(2, "begin", "x")
    assert "refused" not in world.journal.begun()


def _refuses_looking(world: World) -> None:
    _is_refused(world, lambda: world.jobs(*_WAITS))


def _refuses_taking(world: World) -> None:
    (job_id,) = world.enqueue("x")
    _is_refused(world, lambda: world.manager.inspect().cancel(job_id), left=["x"])


def _refuses_moving(world: World) -> None:
    memory = StoreBackend(InMemoryJobStore(), memory_capabilities(30.0))
    _is_refused(world, lambda: move(("world", world.manager.backend()), ("memory", memory)))


def _refuses_a_bound(world: World) -> None:
    manager = world.manager
    for options in (WorkerOptions(burst=True), WorkerOptions(max_jobs=1)):
        with pytest.raises(UnsupportedCapabilityError, match="ends only when it is told to"):
            manager.any_worker(manager.default, options)


def _refuses_parked_retry(world: World) -> None:
    _is_refused(world, lambda: world.manager.inspect().retry("x"))


def _is_refused(world: World, *calls: Callable[[], object], left: Sequence[str] = ()) -> None:
    """See the calls refused and nothing sent: what is enqueued afterwards is all that ever runs."""
    for call in calls:
        with pytest.raises(UnsupportedCapabilityError):
            call()
    world.enqueue("sentinel")
    world.start_worker()
    world.journal.wait(1, "end", "sentinel")
    assert world.journal.begun() == [*left, "sentinel"]


_WAITS: Final = frozenset({JobState.WAITING, JobState.SCHEDULED})

# Each feature: whether it is declared, and what is true where it is not.
_FEATURES: Final[Mapping[str, tuple[Callable[[Capabilities], bool], Callable[[World], None]]]] = {
    "priority": (lambda can: can.priority is not Quality.NONE, _refuses_priority),
    "delay": (lambda can: can.delay is not Quality.NONE, _refuses_delay),
    "unique ids": (lambda can: can.unique_ids, _accepts_the_same_id_again),
    "listing": (lambda can: can.listing >= _WAITS, _refuses_looking),
    "removal": (lambda can: can.removal >= _WAITS, _refuses_taking),
    "moving": (lambda can: can.moving >= _WAITS, _refuses_moving),
    "bounded worker": (lambda can: can.bounded_worker, _refuses_a_bound),
    "parked jobs": (
        lambda can: JobState.ABANDONED in can.listing and JobState.ABANDONED in can.removal,
        _refuses_parked_retry,
    ),
}


def move(source: tuple[str, JobBackend], destination: tuple[str, JobBackend], **options: Any) -> MigrationReport:
    """Move what waits from one backend to another."""
    return JobMigration(source, destination, MigrationOptions(**options), clock=SystemClock()).move()


def needs(*features: str) -> Callable[[Test], Test]:
    """Run the test where the backend declares `features`; where it lacks one, see that it is refused."""
    table = [_FEATURES[feature] for feature in features]

    def decorate(test: Test) -> Test:
        @functools.wraps(test)
        def run(self: KitFixtures, *, world: World, **others: Any) -> None:
            for declared, refused in table:
                if not declared(world.can):
                    refused(world)
                    return
            test(self, world=world, **others)

        return cast("Test", run)

    return decorate


def promised(world: World, guarantee: Callable[[Capabilities], Any], what: str) -> None:
    """Leave out, saying so, what a backend declares that it doesn't guarantee: there is nothing to be measured."""
    if not guarantee(world.can):
        not_proved(f"it declares that it doesn't promise {what}")


def slow() -> None:
    """Leave out what takes a minute, unless `CI` or `ANYJOB_TEST_SLOW` is set."""
    if not (os.environ.get("CI") or os.environ.get("ANYJOB_TEST_SLOW")):
        not_proved("the bounds of its defaults, which takes a minute: set ANYJOB_TEST_SLOW=1")


def not_proved(why: str) -> NoReturn:
    """Skip a test that can prove nothing here, for a reason that the run tells at its end."""
    pytest.skip(f"{UNPROVED}{why}")
