"""An application's own keys on Redis: what is taken out of them is gone, and what is not stays as it is."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
from redis import Redis
from servers import redis_url

from anyjob.base.clock import SystemClock
from anyjob.base.errors import EnqueueError
from anyjob.seams.stored import JobFilter, JobState, StoredJob
from anyjob_redis import ON_REDIS, NativeKey, NativeLayout, NativePlaces, ParkedJobs, RedisInspector, risks_of_held

WAITING = JobFilter(states=frozenset({JobState.WAITING}))


class Layout(NativeLayout):
    """Items that are their own messages, and have a note each in a hash beside their key."""

    forget = """
    local function forget(key, item)
        if fits('hash', key .. ':notes') then redis.call('HDEL', key .. ':notes', item) end
    end
    """

    def __init__(self, *keys: NativeKey) -> None:
        self.keys = keys
        self.reads = 0

    def waiting(self) -> Iterable[NativeKey]:
        return self.keys

    def read(self, place: NativeKey, items: Sequence[bytes]) -> Sequence[StoredJob | None]:
        self.reads += len(items)
        return [
            None if item.startswith(b"hidden") else StoredJob(item.decode("latin-1"), JobState.WAITING, item)
            for item in items
        ]


class World:
    def __init__(self, client: Redis) -> None:
        self.client: Any = client
        self.namespace = f"t{secrets.token_hex(5)}"

    def key(self, kind: Any, name: str = "list") -> NativeKey:
        return NativeKey(f"{self.namespace}:{name}", kind, name)

    def put(self, key: NativeKey, *items: str | bytes) -> None:
        """Add items, each behind those that are there."""
        self.client.hset(f"{key.key}:notes", mapping=dict.fromkeys(items, 1))
        {"left": self.client.rpush, "right": self.client.lpush}[key.kind](key.key, *items)

    def items(self, key: NativeKey) -> list[str]:
        """Return what is in a list, the next one first."""
        found = [item.decode("latin-1") for item in self.client.lrange(key.key, 0, -1)]
        return found if key.kind == "left" else found[::-1]

    def notes(self, key: NativeKey) -> set[str]:
        return {note.decode("latin-1") for note in self.client.hkeys(f"{key.key}:notes")}

    def held(self) -> int:
        return int(self.client.hlen(f"{self.namespace}:native:held"))

    def expire(self) -> None:
        """Let the time of all that is held be up."""
        times = f"{self.namespace}:native:held:times"
        for tag in self.client.zrange(times, 0, -1):
            self.client.zadd(times, {tag: 1})

    def inspect(self, *keys: NativeKey, layout: Layout | None = None) -> RedisInspector:
        clock = SystemClock()
        places = NativePlaces(self.client, self.namespace, layout or Layout(*keys), clock)
        parked = ParkedJobs(self.client, self.namespace, clock)
        can = replace(ON_REDIS, counts=dict.fromkeys([JobState.WAITING], ON_REDIS.counts[JobState.WAITING]))
        return RedisInspector(parked, places, resend=lambda _: None, clock=clock, capabilities=can)


@pytest.fixture
def world() -> Iterator[World]:
    with Redis.from_url(redis_url()) as client:
        made = World(client)
        yield made
        for key in client.scan_iter(f"{made.namespace}:*", 1000):
            client.delete(key)


def but(*names: str) -> JobFilter:
    """Return what chooses all whose id begins with none of these."""
    return replace(WAITING, where=lambda job: not job.id.startswith(names))


def take_all(inspector: RedisInspector, chosen: JobFilter = WAITING, *, ahead: int = 200) -> list[str]:
    with inspector.hold(chosen, holder="test", ahead=ahead) as taken:
        jobs = list(taken)
        held = inspector.acknowledge(jobs)
    return [each.job.id for each, was_held in zip(jobs, held, strict=True) if was_held]


both_ends = pytest.mark.parametrize("kind", ["left", "right"])


@both_ends
def test_what_is_taken_is_gone_and_the_rest_is_in_its_order(world: World, kind: str) -> None:
    key = world.key(kind)
    world.put(key, "a", "stays1", "hidden", "b", "stays2", "c")
    inspector = world.inspect(key)
    assert inspector.count() == {JobState.WAITING: 6}
    assert take_all(inspector, but("stays")) == ["a", "b", "c"]
    assert world.items(key) == ["stays1", "hidden", "stays2"]
    assert world.notes(key) == {"stays1", "hidden", "stays2"}
    assert world.held() == 0


@both_ends
def test_what_goes_back_goes_to_its_very_place(world: World, kind: str) -> None:
    key = world.key(kind)
    items = ["stays1", "a", "b", "stays2", "c", "stays3"]
    world.put(key, *items)
    with world.inspect(key).hold(but("stays"), holder="test", ahead=1) as taken:
        assert [each.job.id for each in taken] == ["a", "b", "c"]
        assert world.items(key) == ["stays1", "stays2", "stays3"]
    assert world.items(key) == items


@both_ends
def test_what_goes_back_is_in_front_when_all_before_it_was_run(world: World, kind: str) -> None:
    key = world.key(kind)
    world.put(key, "stays1", "a", "b", "stays2")
    with world.inspect(key).hold(but("stays"), holder="test", ahead=9) as taken:
        assert len(list(taken)) == 2
        {"left": world.client.lpop, "right": world.client.rpop}[kind](key.key)  # a worker
    assert world.items(key) == ["a", "b", "stays2"]


@both_ends
@pytest.mark.parametrize("ahead", [1, 7, 200, 5_000])
def test_thousands_behind_hundreds_that_stay_are_all_come_past_at_once(world: World, kind: str, ahead: int) -> None:
    key, count = world.key(kind), 300 if ahead == 1 else 2_000
    stays = [f"stays{number}" for number in range(500)]
    world.put(key, *stays)
    mixed = [name for number in range(count) for name in (f"{number}", f"stays-{number}")[: 2 - number % 2]]
    world.put(key, *mixed)
    layout = Layout(key)
    taken = take_all(world.inspect(layout=layout), but("stays"), ahead=ahead)
    assert taken == [f"{number}" for number in range(count)]
    assert world.items(key) == [*stays, *(name for name in mixed if name.startswith("stays"))]
    assert layout.reads < 2 * (len(stays) + len(mixed))


@both_ends
def test_a_long_row_that_is_taken_does_not_lead_back_to_the_beginning(world: World, kind: str) -> None:
    key = world.key(kind)
    world.put(key, *(f"stays{number}" for number in range(1_000)), *(f"{number}" for number in range(5_000)))
    layout = Layout(key)
    assert len(take_all(world.inspect(layout=layout), but("stays"), ahead=250)) == 5_000
    assert layout.reads < 9_000


@both_ends
def test_an_item_that_is_there_twice_hides_nothing_and_is_taken_twice(world: World, kind: str) -> None:
    key = world.key(kind)
    items = [f"{number}" for number in range(1_200)]
    for place in (498, 499, 700, 1_100):
        items[place] = "stays"
    world.put(key, *items, "0", "0")
    assert sorted(take_all(world.inspect(key), but("stays"))) == sorted([*set(items) - {"stays"}, "0", "0"])
    assert world.items(key) == ["stays"] * 4


@both_ends
def test_the_same_item_over_and_over_comes_to_an_end(world: World, kind: str) -> None:
    key = world.key(kind)
    world.put(key, *["stays"] * 1_700, "a", *["stays"] * 20)
    assert take_all(world.inspect(key), but("stays")) == ["a"]
    assert world.items(key) == ["stays"] * 1_720


@both_ends
def test_workers_go_on_meanwhile(world: World, kind: str) -> None:
    key = world.key(kind)
    items = [f"{number}" for number in range(3_000)]
    world.put(key, *items)
    pop: Callable[[str], bytes] = {"left": world.client.lpop, "right": world.client.rpop}[kind]
    ran, moved = [], []
    with world.inspect(key).hold(WAITING, holder="test", ahead=10) as taken:
        for each in taken:
            moved += [each.job.id] if each.acknowledge() else []
            ran += [item.decode() for item in [pop(key.key)] if item]
    assert sorted([*ran, *moved], key=int) == items
    assert world.items(key) == []


@both_ends
def test_what_is_put_in_front_meanwhile_stops_nobody(world: World, kind: str) -> None:
    key = world.key(kind)
    world.put(key, *(f"{'stays' if number % 2 else 'x'}{number}" for number in range(2_000)))
    push = {"left": world.client.lpush, "right": world.client.rpush}[kind]
    with world.inspect(key).hold(but("stays"), holder="test", ahead=10) as taken:
        moved = [push(key.key, "stays!") for each in taken if each.acknowledge()]
    assert len(moved) == 1_000
    assert len(world.items(key)) == 2_000


@both_ends
def test_who_was_killed_gets_it_back_in_order_when_he_comes_again(world: World, kind: str) -> None:
    key = world.key(kind)
    items = ["stays", *(f"{number}" for number in range(450))]
    world.put(key, *items)
    context = world.inspect(key).hold(but("stays"), holder="killed", ahead=500)
    assert next(context.__enter__()).job.id == "0"
    assert world.held() == 450
    other = world.inspect(key)
    assert take_all(other, but("stays")) == []  # held by another
    with other.hold(but("stays"), holder="killed", ahead=1) as again:
        assert next(again).job.id == "0"
    assert world.items(key) == items
    assert world.notes(key) == set(items)


@both_ends
def test_what_a_killed_one_held_goes_back_when_the_time_is_up(world: World, kind: str) -> None:
    key = world.key(kind)
    items = ["stays", *(f"{number}" for number in range(450))]
    world.put(key, *items)
    inspector = world.inspect(key)
    context = inspector.hold(but("stays"), holder="killed", ahead=500)
    first = next(context.__enter__())
    inspector.recover()
    assert world.held() == 450
    assert risks_of_held(world.client, world.namespace) == ()
    world.expire()
    (risk,) = risks_of_held(world.client, world.namespace)
    assert "450 messages" in risk
    inspector.recover()
    assert world.items(key) == items
    assert not first.acknowledge()
    assert world.items(key) == items
    assert world.notes(key) == set(items)


def test_a_sorted_set_gives_and_takes_back_with_the_due_times(world: World) -> None:
    key = world.key("zset")
    scores = {f"{number}": 1_700_000_000.25 + number // 700 for number in range(2_000)}
    world.client.zadd(key.key, scores)
    inspector = world.inspect(key)
    with inspector.hold(WAITING, holder="test", ahead=300) as taken:
        assert len(list(taken)) == 2_000
        assert world.client.zcard(key.key) == 0
    assert dict(world.client.zrange(key.key, 0, -1, withscores=True)) == {k.encode(): v for k, v in scores.items()}
    assert sorted(take_all(inspector), key=int) == list(scores)


def test_bytes_of_any_kind_come_back_as_they_were(world: World) -> None:
    key = world.key("left", "a\nb 3:c")
    items = [b"", b"\n", b"3:x", b"\xff\x00 \r\n", b"1"]
    world.put(key, *items)
    with world.inspect(key).hold(WAITING, holder="test", ahead=9) as taken:
        assert len(list(taken)) == 5
    assert world.client.lrange(key.key, 0, -1) == items
    assert len(take_all(world.inspect(key))) == 5


def test_a_key_of_another_type_is_left_alone(world: World) -> None:
    good, list_, zset = world.key("left", "good"), world.key("left", "bad"), world.key("zset", "bad")
    world.client.set(list_.key, "x")
    world.put(good, "a")
    inspector = world.inspect(list_, zset, good)
    assert inspector.count() == {JobState.WAITING: 1}
    assert take_all(inspector) == ["a"]
    assert world.client.get(list_.key) == b"x"


def test_what_cant_go_back_for_its_key_is_another_type_now_stays_held(world: World) -> None:
    key = world.key("left")
    world.put(key, "a")
    inspector = world.inspect(key)
    context = inspector.hold(WAITING, holder="test", ahead=1)
    next(context.__enter__())
    world.client.set(key.key, "x")
    with pytest.raises(EnqueueError, match="WRONGTYPE"):
        context.__exit__(None, None, None)
    assert world.held() == 1
    world.client.delete(key.key)
    assert take_all(inspector) == ["a"]


@both_ends
def test_pages_go_on_where_the_last_ended_whatever_was_run(world: World, kind: str) -> None:
    key = world.key(kind)
    world.put(key, *(f"{number}" for number in range(2_300)))
    inspector = world.inspect(key)
    first = inspector.scan(WAITING, limit=1_200)
    pop = {"left": world.client.lpop, "right": world.client.rpop}[kind]
    pop(key.key, 100)
    second = inspector.scan(WAITING, cursor=first.cursor, limit=1_000)
    assert [job.id for job in (*first.jobs, *second.jobs)] == [f"{number}" for number in range(2_200)]
    pop(key.key, 2_150)
    last = inspector.scan(WAITING, cursor=second.cursor, limit=1_000)
    assert [job.id for job in last.jobs] == [f"{number}" for number in range(2_250, 2_300)]
    assert last.cursor is None
