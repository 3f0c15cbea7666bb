"""Jobs that were given up, kept in Redis to the byte, with the failure, until an operator retries or discards them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from typing import Any, Final

import msgspec
from msgspec.structs import replace
from redis import Redis

from anyjob.extend import UNREADABLE, Clock, JobFailure, JobFilter, JobIds, JobState, StoredJob, copy_id, id_in
from anyjob_redis.connection import translated
from anyjob_redis.places import CHUNK, LONGEST_HOLD, Places, Section, Seen
from anyjob_redis.scripts import FITS, register, run_each

__all__ = ["ParkedJobs", "parked_key", "read_failure"]


def parked_key(namespace: str) -> str:
    """Return the key of the hash that holds the parked bytes by id."""
    return f"{namespace}:parked"


class ParkedJobs(Places):
    """The parked jobs of a namespace, without expiry. `park` raises `EnqueueError`.

    Parking the same bytes twice keeps one copy. A held job gives up its id to a job of the same id that is parked
    meanwhile, because that may be the same job, retried and given up again: the held one is a copy from then on, marked
    by its hold. Beside the hash of bytes there are a hash of failures, one of holds, and a sorted set of the ids, all
    with one score: it pages by id. An entry is the id that was held, and the id as a copy.
    """

    def __init__(self, client: Redis, namespace: str, clock: Clock) -> None:
        self._client: Any = client  # redis-py's types can't tell that nothing is decoded
        self._clock = clock
        self._ids = JobIds()
        self._raw, self._failures, self._holds, self._order = self._keys = [
            parked_key(namespace) + suffix for suffix in ("", ":failures", ":holds", ":ids")
        ]
        self._park, self._hold, self._end = (register(client, text, drains=namespace) for text in (_PARK, _HOLD, _END))

    def park(self, raw: bytes, failure: JobFailure) -> str:
        """Keep `raw` with its failure; return the id it got."""
        new = self._ids.new(self._clock.now())
        own = id_in(raw) or new
        with translated():
            got: bytes = self._park(self._keys, [own, copy_id(own, new), raw, msgspec.json.encode(failure)])
        return got.decode()

    def count(self) -> Mapping[JobState, int]:
        return {JobState.ABANDONED: self._client.zcard(self._order)}

    def find(self, ids: Iterable[str]) -> Sequence[StoredJob]:
        """Return those of the ids that are parked."""
        return tuple(seen.job for seen in self._walk_ids(ids, ""))

    def page(self, after: str, limit: int) -> Sequence[StoredJob]:
        """Return up to `limit` of them, in the order of their ids, which follow `after` ("" is the beginning)."""
        return tuple(seen.job for seen in islice(self._walk(after), limit))

    def sections(self, chosen: JobFilter) -> Iterator[Section]:
        if chosen.ids is None:
            yield Section("parked", _STATES, self._walk)
        else:
            yield Section("parked", _STATES, partial(self._walk_ids, chosen.ids))

    def take_off(self, holder: str, found: Sequence[Seen]) -> Sequence[tuple[Sequence[bytes], StoredJob]]:
        now = self._clock.now()
        until = now.timestamp() + LONGEST_HOLD
        entries = [(seen.place, f"{_SIGN}{self._ids.new(now)}") for seen in found]
        wanted = [each for entry in entries for each in entry]
        held = self._hold(self._keys, [holder, now.timestamp(), until, *wanted])
        return [((job_id, job_id + copy), _stored(job_id, raw, failure)) for job_id, copy, raw, failure in held]

    def holds(self, holder: str, entry: Sequence[bytes]) -> bool:
        held: Sequence[bytes | None] = self._client.hmget(self._holds, entry)
        return any(by is not None and by.partition(b" ")[0] == holder.encode() for by in held)

    def acknowledge(self, holder: str, entries: Sequence[Sequence[bytes]]) -> Sequence[bool]:
        return run_each(self._client, self._end, ([holder, 1, *each] for each in entries), keys=self._keys)

    def give_back(self, holder: str) -> None:
        mine = holder.encode()
        held: Mapping[bytes, bytes] = self._client.hgetall(self._holds)
        ids = [job_id for job_id, by in held.items() if by.partition(b" ")[0] == mine]
        for first in range(0, len(ids), CHUNK):
            self._end(self._keys, [holder, 0, *(each for each in ids[first : first + CHUNK] for _ in range(2))])

    def _walk(self, after: str) -> Iterator[Seen]:
        last = after.encode("latin-1")  # a position is the bytes of the id: not all in here need be text
        while True:
            low = b"(" + last if last else b"-"
            chunk: Sequence[bytes] = self._client.zrangebylex(self._order, low, "+", start=0, num=CHUNK)
            ids = [each for each in chunk if each > last]  # members that other code put in here may be in no order
            for job_id, job in self._find(ids):
                yield Seen(job_id.decode("latin-1"), job, job_id)
            if not ids:
                return
            last = max(ids)

    def _walk_ids(self, ids: Iterable[str], after: str) -> Iterator[Seen]:
        wanted = sorted(each for each in ids if each > after)
        found = dict(self._find([each.encode() for each in wanted]))
        copies = self._copies_of([each for each in wanted if each.encode() not in found])
        found.update(self._find(list(copies.values())))
        for each in wanted:
            key = copies.get(each, each.encode())
            if key in found:
                yield Seen(each, replace(found[key], id=each), key)

    def _copies_of(self, ids: Sequence[str]) -> Mapping[str, bytes]:
        """Return of each id the first copy's, if there is one."""
        with self._client.pipeline(transaction=False) as pipe:
            for each in ids:
                first, last = f"[{copy_id(each, '')}", f"({copy_id(each, _BEHIND_ALL)}"
                pipe.zrangebylex(self._order, first, last, start=0, num=1)
            found = pipe.execute() if ids else ()
        return {job_id: copies[0] for job_id, copies in zip(ids, found, strict=True) if copies}

    def _find(self, ids: Sequence[bytes]) -> Sequence[tuple[bytes, StoredJob]]:
        if not ids:
            return ()
        raws: Sequence[bytes | None] = self._client.hmget(self._raw, ids)
        failures: Sequence[bytes | None] = self._client.hmget(self._failures, ids)
        found = zip(ids, raws, failures, strict=True)
        return [(job_id, _stored(job_id, raw, failure)) for job_id, raw, failure in found if raw is not None]


def _stored(job_id: bytes, raw: bytes, failure: bytes | None) -> StoredJob:
    return StoredJob(
        job_id.decode("utf-8", "replace"), JobState.ABANDONED, raw, None if failure is None else read_failure(failure)
    )


def read_failure(failure: bytes) -> JobFailure:
    """Return the failure of a parked job, as it was written; an unreadable one says so."""
    try:
        return msgspec.json.decode(failure, type=JobFailure)
    except UNREADABLE as error:
        why = f"Why it was given up can't be read: {error}"
        return JobFailure("", why, "", failed_at=datetime.fromtimestamp(0, UTC), worker="", tries=0)


_STATES: Final = frozenset({JobState.ABANDONED})

_SIGN: Final = copy_id("", "")
_BEHIND_ALL: Final = "\x7f"
"""Sorts behind the end of any copy's id."""

_NAMES: Final = (
    FITS
    + """
local raw, failures, holds, order = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
if not (fits('hash', raw) and fits('hash', failures) and fits('hash', holds) and fits('zset', order)) then
    return wrong
end
"""
)

# id, id as a copy, bytes, failure. Returns the id that it got.
_PARK: Final = (
    _NAMES
    + """
local id = ARGV[1]
local there, hold = redis.call('HGET', raw, id), redis.call('HGET', holds, id)
if there and hold then
    local copy = id .. string.match(hold, '%S+$')
    for _, hash in ipairs({raw, failures, holds}) do
        local value = redis.call('HGET', hash, id)
        if value then redis.call('HSET', hash, copy, value) end
    end
    redis.call('ZADD', order, 0, copy)
elseif there and there ~= ARGV[3] then
    id = ARGV[2]
end
redis.call('HDEL', holds, id)
redis.call('HSET', raw, id, ARGV[3])
redis.call('HSET', failures, id, ARGV[4])
redis.call('ZADD', order, 0, id)
return id
"""
)

# holder, now, until, then of each: id, end of its id as a copy. Returns those that it got, with bytes and failure. A
# hold is the three, by a space: holder, until, end.
_HOLD: Final = (
    _NAMES
    + """
local held = {}
for i = 4, #ARGV, 2 do
    local id, copy = ARGV[i], ARGV[i + 1]
    local hold = redis.call('HGET', holds, id)
    local free = not hold or tonumber(string.match(hold, ' (%S+)')) <= tonumber(ARGV[2])
    local bytes = free and redis.call('HGET', raw, id)
    if bytes then
        redis.call('HSET', holds, id, ARGV[1] .. ' ' .. ARGV[3] .. ' ' .. copy)
        held[#held + 1] = {id, copy, bytes, redis.call('HGET', failures, id)}
    end
end
return held
"""
)

# holder, '1' to discard, then of each: id, id as a copy. Returns how many it held.
_END: Final = (
    _NAMES
    + """
local ended = 0
for i = 3, #ARGV, 2 do
    local id = ARGV[i]
    if redis.call('HEXISTS', holds, ARGV[i + 1]) == 1 then id = ARGV[i + 1] end -- it made room
    local hold = redis.call('HGET', holds, id)
    if hold and string.match(hold, '^%S+') == ARGV[1] then
        ended = ended + 1
        redis.call('HDEL', holds, id)
        if ARGV[2] == '1' then
            redis.call('HDEL', raw, id)
            redis.call('HDEL', failures, id)
            redis.call('ZREM', order, id)
        end
    end
end
return ended
"""
)
