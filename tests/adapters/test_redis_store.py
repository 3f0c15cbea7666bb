"""What the store on Redis does when answers are lost, servers were away, clocks differ, or keys are somebody else's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any

import pytest

pytest.importorskip("redis")

from envelopes import make_envelope
from redis import Redis
from redis.exceptions import TimeoutError as RedisTimeoutError
from servers import PrivateRedis

from anyjob import SystemClock
from anyjob.base.envelope import JobEnvelope, read_envelope
from anyjob.base.errors import AnyjobError, EnqueueError
from anyjob.seams.outcome import Abandoned, Completed, JobFailure, Outcome, Retry
from anyjob.seams.source import JobClaim
from anyjob.seams.stored import JobFilter, JobState
from anyjob.testing.clock import FakeClock
from anyjob.testing.probes.journal import wait_until
from anyjob_redis import RedisJobStore

LEASE = timedelta(seconds=30)
ROOT = "anyjob:jobs"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateRedis]:
    server = PrivateRedis(tmp_path_factory.mktemp("redis")).start()
    yield server
    server.kill()


@pytest.fixture
def client(server: PrivateRedis) -> Iterator[Redis]:
    with server.client() as client:
        client.flushall()
        yield client


@pytest.fixture
def store(client: Redis) -> RedisJobStore:
    return RedisJobStore(client, ROOT, SystemClock(), lease=0.3)


def job(job_id: str, queue: str = "default", **changes: Any) -> JobEnvelope:
    return make_envelope(SystemClock().now(), job_id, queue=queue, **changes)


def claim(store: RedisJobStore, limit: int = 10, lease: timedelta = LEASE) -> Sequence[JobClaim]:
    return store.claim(queues=None, limit=limit, lease=lease, worker="w")


def ids(claims: Sequence[JobClaim]) -> list[str]:
    return [each.id for each in claims]


def failure() -> JobFailure:
    return JobFailure.of(ValueError("no"), at=SystemClock().now(), worker="w", tries=1)


def test_what_ended_and_what_comes_next_is_one_command(store: RedisJobStore, client: Redis) -> None:
    store.insert([job(f"job-{number}") for number in range(8)])
    held = claim(store, 4)
    again = job("job-1")
    ended: list[tuple[JobClaim, Outcome]] = [
        (held[0], Completed()),
        (held[1], Retry(again)),
        (held[2], Abandoned(held[2].raw, failure(), read_envelope(held[2].raw))),
        (JobClaim("job-3", b"", held[3].token + 100), Completed()),
    ]
    before = client.info("commandstats")["cmdstat_evalsha"]["calls"]
    settled, claimed = store.settle_and_claim(ended, queues=None, limit=3, lease=LEASE, worker="w")
    assert client.info("commandstats")["cmdstat_evalsha"]["calls"] == before + 1
    assert settled == [True, True, True, False]
    assert ids(claimed) == ["job-4", "job-5", "job-6"]
    assert ids(claim(store)) == ["job-7", "job-1"]
    assert store.count() == {
        JobState.WAITING: 0,
        JobState.SCHEDULED: 0,
        JobState.RUNNING: 6,
        JobState.ABANDONED: 1,
    }


def test_a_claim_whose_answer_was_lost_is_handed_out_again_uncharged(
    store: RedisJobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.insert([job("a"), job("b"), job("c")])
    run = store._run  # noqa: SLF001

    def unanswered(*args: Any) -> Any:
        run(*args)
        raise RedisTimeoutError

    with monkeypatch.context() as patched:
        patched.setattr(store, "_run", unanswered)
        with pytest.raises(EnqueueError):
            claim(store, 2)
    assert store.count()[JobState.RUNNING] == 2
    again = claim(store)
    assert ids(again) == ["a", "b", "c"]
    assert [read_envelope(each.raw).lost_count for each in again] == [0, 0, 0]
    assert all(store.settle(each, Completed()) for each in again)


@pytest.mark.parametrize("kind", ["string", "list"])
def test_a_key_of_another_type_in_a_queues_place_holds_up_nobody_else(
    store: RedisJobStore, client: Redis, kind: str
) -> None:
    key = f"{ROOT}:a.normal"
    client.set(key, "x") if kind == "string" else client.rpush(key, "x")
    client.sadd(f"{ROOT}:queues", "a", "No Queue")
    store.insert([job("b", queue="b")])
    with pytest.raises(EnqueueError, match="WRONGTYPE") as refused:
        store.insert([job("c", queue="b"), job("a", queue="a")])
    assert refused.value.rejected == ("c", "a")
    (held,) = claim(store)
    with pytest.raises(AnyjobError, match="WRONGTYPE"):
        store.settle(held, Retry(job("b", queue="a")))
    assert store.count()[JobState.WAITING] == 0
    assert store.next_due_at(None) is None
    assert ids(store.hold(JobFilter(queues=frozenset({"b"})), limit=5, lease=LEASE, worker="o")) == []
    assert store.settle(held, Completed())


def test_what_is_lost_into_a_key_of_another_type_is_kept_until_it_can_go_back(client: Redis) -> None:
    clock = FakeClock()
    store = RedisJobStore(client, ROOT, clock)
    store.insert([make_envelope(clock.now(), "a"), make_envelope(clock.now(), "b", queue="b")])
    assert len(claim(store)) == 2
    client.set(f"{ROOT}:default.normal", "x")
    clock.travel(31)
    assert [each.id for each in store.recover()] == ["b"]
    client.delete(f"{ROOT}:default.normal")
    clock.travel(61)
    assert [each.id for each in store.recover()] == ["a"]
    assert ids(claim(store)) == ["a", "b"]


def test_nobody_is_taken_for_dead_before_who_lives_could_renew(store: RedisJobStore, client: Redis) -> None:
    store.insert([job("a")])
    claim(store, lease=timedelta(milliseconds=1))
    assert store.recover() == []
    watched = client.get(f"{ROOT}:watched")
    assert store.recover() == []
    assert client.get(f"{ROOT}:watched") == watched
    wait_until(lambda: [each.id for each in store.recover()] == ["a"], what="the job to be recovered")
    assert ids(claim(store)) == ["a"]


class SetClock(SystemClock):
    """The clock of a machine on which somebody set it."""

    def __init__(self, ahead: float) -> None:
        self._ahead = timedelta(seconds=ahead)

    def now(self) -> datetime:
        return SystemClock.now() + self._ahead


def test_a_clock_that_is_ahead_claims_nothing_early_and_knows_when_to_look(store: RedisJobStore, client: Redis) -> None:
    ahead = RedisJobStore(client, ROOT, SetClock(3600))
    store.insert([job("later", delay=timedelta(seconds=1800))])
    assert claim(ahead) == []
    due = ahead.next_due_at(None)
    assert due is not None
    assert timedelta(seconds=1790) < due - ahead.clock.now() <= timedelta(seconds=1801)
    behind = RedisJobStore(client, ROOT, SetClock(-3600))
    store.insert([job("now")])
    assert claim(behind) == []
    assert ids(claim(store)) == ["now"]


def test_what_an_operator_held_who_was_killed_goes_back_when_it_comes_again(store: RedisJobStore) -> None:
    store.insert([job("a"), job("b"), job("c")])
    store.park(b"junk", failure())
    before = store.scan(JobFilter()).jobs
    assert len(store.hold(JobFilter(), limit=3, lease=LEASE, worker="one")) == 3
    (other,) = store.hold(JobFilter(), limit=3, lease=LEASE, worker="two")
    store.release_held("one")
    assert ids(store.hold(JobFilter(), limit=9, lease=LEASE, worker="three")) == ["a", "b", "c"]
    store.release_held("three")
    store.release([other])
    assert store.scan(JobFilter()).jobs == before


def test_a_full_server_is_drained(store: RedisJobStore, server: PrivateRedis) -> None:
    store.insert([job("a"), job("b"), job("c")])
    with server.full():
        with pytest.raises(EnqueueError) as refused:
            store.insert([job("d")])
        assert refused.value.rejected == ("d",)
        first, second, third = claim(store)
        assert store.settle(first, Completed())
        assert store.settle(second, Abandoned(second.raw, failure(), None))
        store.release([third])
        assert ids(claim(store)) == ["c"]
    assert store.count()[JobState.ABANDONED] == 1


def test_parking_the_same_bytes_again_keeps_one_copy(store: RedisJobStore) -> None:
    raw = b'{"v":1,"id":"a","args":[]}'
    assert store.park(raw, failure()) == store.park(raw, failure()) == "a"
    assert store.count()[JobState.ABANDONED] == 1


def test_an_insert_wakes_who_found_nothing_and_nobody_else(store: RedisJobStore, client: Redis) -> None:
    woken = Woken()
    store.listen(woken.wake)
    try:
        wait_until(lambda: woken.count == 1, what="the channel to be subscribed to")
        store.insert([job("a")])
        assert not client.exists(f"{ROOT}:idle")
        assert len(claim(store)) == 1
        assert claim(store) == []
        store.insert([job("b"), job("c")])
        wait_until(lambda: woken.count == 2, what="the news")
        store.insert([job("d")])
        assert not client.exists(f"{ROOT}:idle")
    finally:
        store.close()
    assert woken.count == 2


class Woken:
    """Counts how often it is woken."""

    def __init__(self) -> None:
        self.count = 0

    def wake(self) -> None:
        self.count += 1


def test_ten_thousand_far_future_jobs_hold_up_nobody(store: RedisJobStore) -> None:
    far = timedelta(days=30)
    store.insert([job(f"far-{number}", delay=far) for number in range(10_000)])
    store.insert([job("now")])
    begun = SystemClock().monotonic()
    assert ids(claim(store)) == ["now"]
    assert SystemClock().monotonic() - begun < 0.5
    assert store.count()[JobState.SCHEDULED] == 10_000
