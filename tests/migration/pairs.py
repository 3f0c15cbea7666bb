"""Two backends under one namespace, to move jobs from one to the other, with messages among them that are not ours."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import timedelta
from itertools import permutations
from pathlib import Path
from typing import Final

import amqp
import pytest
from celery_worlds import CeleryAmqpWorld, CeleryRedisWorld
from dramatiq_worlds import DramatiqAmqpWorld, DramatiqRedisWorld
from harnesses import RQWorld
from migration.natives import natives_of
from msgspec.structs import replace
from rabbit import PrivateRabbit, RabbitWorld, amqp_url
from redis import Redis
from servers import PrivateRedis

from anyjob import JobEnvelope, JobFilter, JobManager, JobPriority, JobState, StoredJob
from anyjob.current import default_registry
from anyjob.migration import MigrationOptions, MigrationReport
from anyjob.settings import load_settings
from anyjob.settings.compose import build
from anyjob.testing.conformance import ServerWorld
from anyjob.testing.conformance.harness import JOBS, SHORT

__all__ = ["KINDS", "LONG", "WAITS", "Pair", "Servers", "in_line", "mixed", "pairs"]

LONG: Final = os.environ.get("ANYJOB_TEST_LONG") == "1"
"""Whether to run all pairs, with the numbers of a real campaign."""

WAITS: Final = frozenset({JobState.WAITING, JobState.SCHEDULED})

_WORLDS: Final[Mapping[str, type[ServerWorld]]] = {
    "rq+redis": RQWorld,
    "celery+amqp": CeleryAmqpWorld,
    "dramatiq+amqp": DramatiqAmqpWorld,
    "dramatiq+redis": DramatiqRedisWorld,
    "celery+redis": CeleryRedisWorld,
}
KINDS: Final = tuple(_WORLDS)
_RING: Final = tuple(zip(KINDS, (*KINDS[1:], KINDS[0]), strict=True))
"""Each backend is a source once and a destination once, and each kind of server comes after each."""

pairs = pytest.mark.parametrize("kinds", [*permutations(KINDS, 2)] if LONG else _RING, ids="-to-".join)


class Servers:
    """A Redis of the tests' own, and a RabbitMQ, their own if one can be started."""

    def __init__(self, folder: Path) -> None:
        for name in ("redis", "rabbit"):
            (folder / name).mkdir()
        self.redis = PrivateRedis(folder / "redis").start()
        self.node = PrivateRabbit(folder / "rabbit") if PrivateRabbit.is_installed() else None
        if self.node is not None:
            self.node.start()
        self._urls = {"redis": self.redis.url, "amqp": amqp_url() if self.node is None else self.node.url}

    def url(self, kind: str) -> str:
        """Return the URL of a backend of that kind."""
        library, transport = kind.split("+")
        return f"{library}+{self._urls[transport]}"

    def world(self, kind: str, folder: Path, namespace: str) -> ServerWorld:
        settings = {"namespace": namespace}
        if kind.endswith("amqp"):
            return _WORLDS[kind](self.url(kind), folder, settings, self.node)  # type: ignore[call-arg]
        return _WORLDS[kind](self.url(kind), folder, settings)

    def owner(self, kind: str) -> PrivateRedis | PrivateRabbit:
        """Return the server of a kind, to be killed; skip the test if it is nobody's own."""
        found = self.redis if kind.endswith("redis") else self.node
        if found is None:
            pytest.skip("there is no RabbitMQ here to start a private one")
        return found

    def close(self) -> None:
        self.redis.kill()
        if self.node is not None:
            self.node.close()


class Pair(AbstractContextManager["Pair"]):
    """The backends `a` and `b`, and an application whose settings name both."""

    def __init__(self, servers: Servers, kinds: tuple[str, str], folder: Path) -> None:
        namespace = f"move{secrets.token_hex(5)}"
        self.kinds = kinds
        self.folder = folder
        worlds = []
        for alias, kind in zip("ab", kinds, strict=True):
            (folder / alias).mkdir()
            worlds.append(servers.world(kind, folder / alias, namespace))
        self.a, self.b = worlds
        self.settings = folder / "anyjob.toml"
        backends = "\n".join(
            f"[backends.{alias}]\nurl = {json.dumps(servers.url(kind))}\nqueues = ['default', 'a', 'b']"
            for alias, kind in zip("ab", kinds, strict=True)
        )
        self.settings.write_text(
            f"default = 'a'\nnamespace = '{namespace}'\nimports = ['{JOBS}']\nlease = {SHORT['lease']}\n{backends}\n"
        )
        self.manager = self.new_manager()

    def new_manager(self) -> JobManager:
        """Return what another process of the application would have."""
        settings = load_settings({}, environ={}, directory=Path("/"), config=self.settings)
        assert settings is not None
        return build(settings, registry=default_registry)

    def move(self, source: str = "a", destination: str = "b", **options: object) -> MigrationReport:
        return self.manager.migration(source, destination, MigrationOptions(**options)).move()  # type: ignore[arg-type]

    def fill(self, jobs: Sequence[JobEnvelope], natives: int = 0, alias: str = "a") -> None:
        """Send jobs, and among them as many native messages."""
        step = max(1, len(jobs) // 10)
        native = natives_of(self.a if alias == "a" else self.b)
        for number, start in enumerate(range(0, len(jobs), step)):
            self.manager.backend(alias).send(jobs[start : start + step])
            native.put(range(natives * number // 10, natives * (number + 1) // 10))

    def natives(self) -> Sequence[int]:
        """Return the native messages that are at the source, in their order."""
        return natives_of(self.a).read()

    def count(self, alias: str) -> Mapping[JobState, int]:
        """Return how many jobs wait there."""
        inspector = self.manager.backend(alias).inspector
        assert inspector is not None
        counts = inspector.count()
        return {state: counts[state] for state in WAITS}

    def look(self, alias: str, *states: JobState) -> Sequence[StoredJob]:
        """Return all jobs that wait; they stay."""
        backend = self.manager.backend(alias)
        chosen = JobFilter(states=frozenset(states) or WAITS)
        assert backend.inspector is not None
        if backend.capabilities.listing >= WAITS:
            page = backend.inspector.scan(chosen, limit=1_000_000)
            assert page.cursor is None
            return page.jobs
        with backend.inspector.hold(chosen, holder="look", ahead=500) as jobs:
            return [each.job for each in jobs]

    def is_forgotten(self, run: str) -> bool:
        """Whether the destination's server knows no more of a run."""
        if not isinstance(self.b, RabbitWorld):
            with Redis.from_url(self.b.url.partition("+")[2]) as client:
                return not list(client.scan_iter(f"{self.b.namespace}*:moved*"))
        with self.b.connect() as connection, connection.channel() as channel:
            try:
                channel.queue_declare(self.b.names.moving(run), passive=True)
            except amqp.NotFound:
                return True
            return False

    def __exit__(self, *_: object) -> None:
        self.manager.close()
        self.b.close()
        self.a.close()


def mixed(world: ServerWorld, count: int) -> Sequence[JobEnvelope]:
    """Return jobs of five levels, in three queues, half of them due later, some with tries behind them."""
    made = []
    for number in range(count):
        later = timedelta(hours=1, seconds=number * 7919 % 10_000)
        envelope = world.manager.prepare(
            world.probe(f"{number} \u00e9\u4e2d"),
            queue=("default", "a", "b")[number % 3],
            priority=list(JobPriority)[number % 5],
            headers={"tenant": f"{number}"} if number % 4 == 0 else {},
            delay=later if number % 2 else None,
        )
        made.append(
            replace(
                envelope,
                try_count=number % 3,
                lost_count=number % 7 // 6,
                last_error="Error: no" if number % 3 else None,
            )
        )
    return made


def in_line(envelopes: Iterable[JobEnvelope]) -> Mapping[tuple[str, int], Sequence[str]]:
    """Return the ids of the jobs that are due, in their order, by queue and level."""
    lines: dict[tuple[str, int], list[str]] = {}
    for each in envelopes:
        if each.due_at is None:
            lines.setdefault((each.queue, each.priority), []).append(each.id)
    return lines
