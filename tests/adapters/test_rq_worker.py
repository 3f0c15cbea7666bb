"""RQ's worker with our class, in its own process on a real server: what runs, and what a signal or a death does."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from rq.command import send_stop_job_command
from rq.suspension import resume, suspend
from rq_world import World, kill_process
from servers import PrivateRedis, redis_url

from anyjob import JobPriority
from anyjob.run.stopping import HANDED_BACK
from anyjob.run.timelimit import TIME_LIMIT_GRACE
from anyjob.seams.stored import JobFilter, JobState, StoredJob
from anyjob.testing.probes.journal import wait_until

pytestmark = pytest.mark.timeout(60)


def test_jobs_run_by_level_and_async_ones_in_the_child(world: World) -> None:
    for priority in JobPriority:
        world.manager.enqueue_by_name("say", {"word": priority.name}, priority=priority)
    world.send("aside", word="async")
    worker = world.start_worker()

    wait_until(world.is_empty)

    assert [line[1] for line in world.ran("say")] == ["HIGH", "ABOVE_NORMAL", "NORMAL", "BELOW_NORMAL", "LOW"]
    ((_, _, pid, _),) = world.ran("aside")
    assert int(pid) != worker.pid


def test_a_failed_try_is_repeated_by_our_policy_and_then_parked(world: World) -> None:
    world.send("fail", word="badly")
    world.start_worker()

    wait_until(lambda: world.backend.inspector.count()[JobState.ABANDONED] == 1)

    assert [line[2] for line in world.ran("fail")] == ["1", "2"]
    wait_until(world.is_empty)
    (job,) = world.backend.inspector.scan(JobFilter()).jobs
    assert job.failure is not None
    assert (job.failure.error_type, job.failure.tries) == ("ValueError", 2)


@pytest.mark.parametrize("code", [0, 1])
def test_a_job_that_ends_its_process_is_lost_and_parked_after_its_limit(world: World, code: int) -> None:
    world.send("end", code=code)
    world.start_worker()

    wait_until(lambda: world.backend.inspector.count()[JobState.ABANDONED] == 1, timeout=20)

    assert [line[2] for line in world.ran("end")] == ["0", "1", "2", "3", "4", "5"]
    wait_until(world.is_empty)
    (job,) = world.backend.inspector.scan(JobFilter()).jobs
    assert job.failure is not None
    assert job.failure.error_type.endswith("JobLostError")


def test_a_dead_child_costs_its_job_a_loss_and_not_its_place(world: World) -> None:
    world.send("work", word="first", seconds=1.0)
    worker = world.start_worker()
    wait_until(lambda: world.ran("begin", "first"))
    world.send("say", word="second")

    worker.kill_horse()
    wait_until(world.is_empty)

    assert [line[2] for line in world.ran("begin", "first")] == ["0", "1"]
    assert [line[:2] for line in world.ran()][-2:] == [["end", "first"], ["say", "second"]]


def test_the_job_of_a_killed_worker_runs_again_within_the_declared_bound(world: World) -> None:
    workers = [world.start_worker(), world.start_worker()]
    world.send("listen", word="it")
    wait_until(lambda: world.ran("begin"))
    (victim,) = (each for each in workers if each.horses)
    (other,) = (each for each in workers if each is not victim)

    killed_at = time.time()
    victim.kill()
    wait_until(lambda: world.ran("begin", "it", "1"))

    bound = world.backend.capabilities.redelivery_bound
    assert bound is not None
    assert float(world.ran("begin", "it", "1")[0][-1]) - killed_at <= bound.total_seconds()
    other.terminate()
    wait_until(world.is_empty)


def test_a_child_whose_worker_was_killed_settles_its_own_job(world: World) -> None:
    world.send("work", word="it", seconds=0.3)
    worker = world.start_worker()
    wait_until(lambda: world.ran("begin"))

    worker.kill_main()
    wait_until(world.is_empty)

    assert len(world.ran("begin")) == len(world.ran("end")) == 1


def test_a_worker_that_was_out_for_longer_than_its_lease_settles_nothing(world: World) -> None:
    world.send("work", word="it", seconds=1.0)
    first = world.start_worker()
    wait_until(lambda: world.ran("begin"))
    asleep = [first.pid, *first.horses]
    for pid in asleep:
        os.kill(pid, signal.SIGSTOP)

    world.start_worker()
    wait_until(world.is_empty)
    for pid in asleep:
        os.kill(pid, signal.SIGCONT)

    wait_until(lambda: first.says("fenced"))
    assert world.is_empty()
    assert [line[2] for line in world.ran("begin")] == ["0", "1"]
    world.send("say", word="on")
    wait_until(lambda: world.ran("say"))


def test_stopping_while_redis_is_away_ends(private: World, private_redis: PrivateRedis) -> None:
    private.send("work", word="it", seconds=0.2)
    worker = private.start_worker(stop_timeout=1.0)
    wait_until(lambda: private.ran("begin"))
    private_redis.kill()

    worker.terminate()

    assert worker.wait() == HANDED_BACK
    assert worker.says("stops without Redis")


def test_term_lets_the_job_finish_and_takes_no_more(world: World) -> None:
    world.send("listen", word="it")
    worker = world.start_worker()
    wait_until(lambda: world.ran("begin"))
    world.send("say", word="left")

    worker.terminate()

    assert worker.wait() == 0
    assert world.ran("end", "it")
    assert not world.ran("say")
    assert world.backend.inspector.count()[JobState.WAITING] == 1


def test_beyond_its_time_the_job_is_killed_and_goes_back_uncharged(world: World) -> None:
    world.send("work", word="it", seconds=30)
    worker = world.start_worker(stop_timeout=0.3)
    wait_until(lambda: world.ran("begin"))

    worker.terminate()

    assert worker.wait() == HANDED_BACK
    (job,) = world.backend.inspector.scan(JobFilter()).jobs
    assert job.state is JobState.WAITING
    assert job.envelope is not None
    assert (job.envelope.lost_count, job.envelope.try_count) == (0, 0)
    world.start_worker()
    wait_until(lambda: len(world.ran("begin", "it", "0")) == 2)


def test_a_second_term_does_not_wait(world: World) -> None:
    world.send("work", word="it", seconds=30)
    worker = world.start_worker(stop_timeout=60)
    wait_until(lambda: world.ran("begin"))

    worker.terminate()
    wait_until(lambda: worker.says("stopping"))
    ended = []

    def signalled_again() -> bool:
        worker.terminate()  # RQ takes what comes within a second for the first one's echo
        ended.append(worker.runs)
        return not worker.runs

    wait_until(signalled_again)
    (job,) = world.backend.inspector.scan(JobFilter()).jobs
    assert job.state is JobState.WAITING
    assert job.envelope is not None
    assert job.envelope.lost_count == 0


def test_a_pool_that_is_stopped_while_it_starts_a_worker_ends(world: World) -> None:
    pool = world.start_worker(concurrency=2)
    first = set(pool.horses)
    kill_process(min(first))
    wait_until(lambda: set(pool.horses) - first, what="a new worker")
    pool.terminate()
    assert pool.wait() == 0


def test_an_idle_worker_stops_at_once(world: World) -> None:
    worker = world.start_worker()
    told_at = time.monotonic()

    worker.terminate()

    assert worker.wait() == 0
    assert time.monotonic() - told_at < 5


def test_a_pool_runs_jobs_side_by_side_and_stops(world: World) -> None:
    world.send("listen", word="one")
    world.send("listen", word="two")
    pool = world.start_worker(concurrency=2)
    wait_until(lambda: len(world.ran("begin")) == 2)

    pool.terminate()

    assert pool.wait() == 0
    wait_until(world.is_empty)
    assert len(world.ran("end")) == 2


def test_a_pool_tells_that_one_of_its_workers_gave_a_job_back(world: World) -> None:
    world.send("work", word="it", seconds=30)
    pool = world.start_worker(concurrency=2, stop_timeout=0.3)
    wait_until(lambda: world.ran("begin"))

    pool.terminate()

    assert pool.wait() == HANDED_BACK


def test_a_job_that_rq_is_told_to_stop_is_parked(world: World) -> None:
    job_id = world.send("work", word="it", seconds=30)
    world.start_worker()
    wait_until(lambda: world.ran("begin"))

    send_stop_job_command(world.client, world.backend.messages.names.native_id(job_id), _NoData)

    wait_until(lambda: world.backend.inspector.count()[JobState.ABANDONED] == 1)
    wait_until(world.is_empty)
    found = world.backend.inspector.find(job_id)
    assert found is not None
    assert found.failure is not None
    assert "stop-job" in found.failure.message
    assert world.backend.inspector.retry(job_id)
    wait_until(lambda: len(world.ran("begin")) == 2)


class _NoData:
    @staticmethod
    def dumps(_value: object, /) -> bytes:
        return b""

    @staticmethod
    def loads(_data: bytes, /) -> object:
        return None


def test_a_suspended_worker_takes_nothing_until_it_is_resumed(private: World) -> None:
    worker = private.start_worker()
    suspend(private.client)
    wait_until(lambda: worker.says("suspended, run `rq resume`"))
    private.send("say", word="it")
    assert not private.ran("say")

    resume(private.client)

    wait_until(lambda: private.ran("say"))


@pytest.fixture
def private(private_redis: PrivateRedis, tmp_path: Path) -> Iterator[World]:
    with World(private_redis.url, tmp_path) as world:
        yield world


def test_the_child_hears_a_signal_to_the_whole_group(world: World) -> None:
    world.send("listen", word="it")
    worker = world.start_worker()
    wait_until(lambda: world.ran("begin"))

    for pid in (*worker.horses, worker.pid):  # as an init system does
        os.kill(pid, signal.SIGTERM)

    assert worker.wait() == 0
    assert world.ran("end", "it")
    assert world.is_empty()


def test_rq_led_to_another_database_than_the_backend_is_refused(world: World) -> None:
    other = redis_url().rpartition("/")[0] + "/1"
    worker = world.start_worker(ready=False, RQ_REDIS_URL=other)

    assert worker.wait() == 1
    assert worker.says("RQ's command line leads to another Redis than backend 'default'")


def test_a_job_in_a_call_of_c_code_is_ended_some_time_after_its_limit(world: World) -> None:
    """By its worker, with its process; each try is charged, and counts as no loss."""
    world.send("compute", word="long")
    world.send("say", word="next")
    begun = time.monotonic()
    world.start_worker()
    (parked,) = wait_until(lambda: abandoned(world), timeout=40)
    assert time.monotonic() - begun > 2 * (0.5 + TIME_LIMIT_GRACE)
    assert [line[:4] for line in world.ran("begin")] == [["begin", "long", "1", "0"], ["begin", "long", "2", "0"]]
    assert parked.failure is not None
    assert (parked.failure.error_type, parked.failure.tries) == ("anyjob.JobTimeLimitError", 2)
    assert "its process was killed" in parked.failure.message
    wait_until(lambda: world.ran("say", "next"))


def test_what_a_job_exits_with_is_its_own_failure(world: World) -> None:
    world.send("exit", code=3)
    world.start_worker()
    (parked,) = wait_until(lambda: abandoned(world))
    assert len(world.ran("exit")) == 1
    assert parked.failure is not None
    assert (parked.failure.error_type, parked.failure.tries) == ("SystemExit", 1)


@pytest.mark.parametrize("where", ["process", "pool"])
def test_a_filter_that_raises_makes_no_job_run_twice(world: World, where: str) -> None:
    for number in range(3):
        world.send("say", word=f"w{number}")
    world.send("fail", word="twice")
    concurrency = 1 if where == "process" else 2
    worker = world.start_worker(concurrency=concurrency, ready=False, ANYJOB_TEST_BROKEN_FILTER="yes")
    wait_until(lambda: abandoned(world), timeout=20)
    wait_until(lambda: len(world.ran("say")) == 3)
    wait_until(world.is_empty)
    assert sorted(word for _, word, _ in world.ran("say")) == ["w0", "w1", "w2"]
    assert len(world.ran("fail")) == 2
    assert worker.runs


def abandoned(world: World) -> Sequence[StoredJob]:
    return world.backend.inspector.scan(JobFilter(states=frozenset({JobState.ABANDONED}))).jobs
