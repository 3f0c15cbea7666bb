"""RQ under kill -9, restarts and delays. Short by default; ANYJOB_TEST_LONG=1 runs the numbers of the issue."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from rq import Queue, Worker
from rq.registry import ScheduledJobRegistry
from rq.serializers import JSONSerializer
from rq_world import World
from servers import PrivateRedis

from anyjob.seams.stored import JobState
from anyjob.testing.probes.journal import wait_until

LONG = os.environ.get("ANYJOB_TEST_LONG") == "1"
pytestmark = pytest.mark.timeout(300 if LONG else 90)


def lateness(world: World, due: dict[str, float]) -> list[float]:
    """Return how late each job began, those that ran."""
    return [float(line[-1]) - due[line[1]] for line in world.ran("say")]


def send_delayed(world: World, count: int, seconds: float) -> dict[str, float]:
    due = {}
    for number in range(count):
        job_id = world.manager.enqueue_by_name("say", {"word": str(number)}, delay=seconds)
        found = world.backend.inspector.find(job_id)
        assert found is not None
        assert found.envelope is not None
        assert found.envelope.due_at is not None
        due[str(number)] = found.envelope.due_at.timestamp()
    return due


def let_pass(seconds: float) -> None:
    """Let real time go by, where that is what is tested."""
    until = time.monotonic() + seconds
    wait_until(lambda: time.monotonic() >= until)


def test_twenty_delayed_jobs_are_never_early_and_hardly_late(world: World) -> None:
    world.start_worker()
    due = send_delayed(world, 20, 3.0)

    wait_until(lambda: len(world.ran("say")) >= 20)
    wait_until(world.is_empty)

    late = lateness(world, due)
    assert len(late) == 20
    assert min(late) >= -0.001  # the log has milliseconds
    assert min(late) < 0.5, late  # that one is on time; the others wait for forks, one after the other
    assert max(late) < world.backend.capabilities.delay_bound.total_seconds()


def test_delayed_jobs_survive_the_death_of_every_worker(world: World) -> None:
    workers = [world.start_worker(), world.start_worker()]
    due = send_delayed(world, 20, 2.0)

    for worker in workers:
        worker.kill()
    wait_until(lambda: time.time() > max(due.values()))
    assert not world.ran("say")
    world.start_worker()

    wait_until(world.is_empty)
    assert Counter(line[1] for line in world.ran("say")) == Counter(due.keys())


def test_far_future_jobs_hold_up_nobody(world: World) -> None:
    many = [
        world.manager.prepare_by_name("say", {"word": f"far-{number}"}, delay=86_400 + number)
        for number in range(10_000 if LONG else 2_000)
    ]
    world.manager.enqueue_many(many)
    world.start_worker()
    due = send_delayed(world, 5, 1.0)
    for number in range(5):
        world.send("say", word=f"now-{number}")

    wait_until(lambda: len(world.ran("say")) == 10)
    assert max(float(line[-1]) - due[line[1]] for line in world.ran("say") if line[1] in due) < 1.0
    assert world.backend.inspector.count()[JobState.SCHEDULED] == len(many)


@pytest.mark.parametrize("seed", range(5 if LONG else 1))
def test_workers_killed_at_random_lose_nothing_and_repeat_at_most_what_they_ran(world: World, seed: int) -> None:
    jobs, kills, dice = (500, 20, random.Random(seed)) if LONG else (120, 8, random.Random(seed))
    ids = [world.send("work", word=str(number), seconds=0.01) for number in range(jobs)]
    pause = iter(dice.uniform(0.05, 0.4) for _ in range(kills))
    ways = [dice.choice(["kill", "kill_main", "kill_horse"]) for _ in range(kills)]
    running = [world.start_worker(), world.start_worker()]

    for way in ways:
        let_pass(next(pause))
        victim = dice.choice(running)
        getattr(victim, way)()
        if not victim.runs:
            running.remove(victim)
            running.append(world.start_worker())

    wait_until(world.is_empty, timeout=60, what="the end of all jobs")
    begun, ended = Counter(line[1] for line in world.ran("begin")), Counter(line[1] for line in world.ran("end"))
    assert set(ended) == {str(number) for number in range(jobs)}
    assert begun.total() - jobs <= kills
    assert ended.total() - jobs <= kills
    assert world.backend.inspector.count()[JobState.ABANDONED] == 0
    assert len(ids) == jobs


@pytest.fixture
def private(private_redis: PrivateRedis, tmp_path: Path) -> Iterator[World]:
    with World(private_redis.url, tmp_path, lease=3.0) as world:
        yield world


def test_redis_killed_in_the_middle_loses_nothing_and_the_worker_lives(
    private: World, private_redis: PrivateRedis
) -> None:
    for number in range(8):
        private.send("work", word=str(number), seconds=0.4)
    send_delayed(private, 5, 3.0)
    worker = private.start_worker()
    wait_until(lambda: len(private.ran("begin")) == 3)
    let_pass(1.5)  # everysec: what is older than that is on disk

    private_redis.kill()
    let_pass(2)
    private_redis.start()

    wait_until(private.is_empty, timeout=30)
    assert worker.runs
    assert {line[1] for line in private.ran("end")} == {str(number) for number in range(8)}
    assert len(private.ran("say")) == 5
    assert len(private.ran("begin")) <= 9  # what ran when it died may run again: its second is not on disk


def test_redis_restarted_in_order_repeats_nothing(private: World, private_redis: PrivateRedis) -> None:
    for number in range(6):
        private.send("work", word=str(number), seconds=0.3)
    worker = private.start_worker()
    wait_until(lambda: len(private.ran("begin")) == 2)

    private_redis.stop()
    ended = len(private.ran("end"))
    wait_until(lambda: len(private.ran("end")) > ended)  # it ends while nobody can be told
    private_redis.start()

    wait_until(private.is_empty, timeout=30)
    assert worker.runs
    assert len(private.ran("begin")) == len(private.ran("end")) == 6
    assert "lost" not in worker.output()
    assert len(Worker.all(connection=private.client)) == 1  # RQ's monitors see it again


def test_rqs_own_monitors_show_queues_workers_and_jobs(world: World) -> None:
    world.send("listen", word="it")
    world.manager.enqueue_by_name("say", {"word": "later"}, delay=60)
    world.send("say", word="next", queue="mail")
    world.start_worker("default")
    wait_until(lambda: world.ran("begin"))

    def info(*argv: str) -> str:
        command = [sys.executable, "-m", "rq.cli", "info", "--raw", "--url", world.url, *argv]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout

    said = info()
    assert f"queue {world.namespace}:default:normal 0, 1 executing, 0 finished, 0 failed" in said
    assert f"queue {world.namespace}:mail:normal 1, 0 executing, 0 finished, 0 failed" in said
    assert f"{world.namespace}:default:high" in said
    assert "busy" in said

    queue = Queue(f"{world.namespace}:mail:normal", connection=world.client, serializer=JSONSerializer)
    assert [(job.description, job.get_status()) for job in queue.jobs] == [("say", "queued")]
    later = ScheduledJobRegistry(f"{world.namespace}:default:normal", connection=world.client)
    assert later.get_job_count(cleanup=False) == 1
    (worker,) = [
        each for each in Worker.all(connection=world.client) if each.queue_names()[0].startswith(world.namespace)
    ]
    job = worker.get_current_job()
    assert job is not None
    assert job.description == "listen"
