"""Jobs that were given up, kept in Redis as the bytes they came as, with why, until somebody retries or discards."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import islice
from typing import Any, Final

import msgspec
from redis import Redis

from anyjob.clock import Clock
from anyjob.envelope import UNREADABLE, JobIds, read_envelope
from anyjob.errors import EnvelopeError
from anyjob.outcome import JobFailure
from anyjob.store import JobFilter, JobState, StoredJob
from anyjob_redis.connection import translated
from anyjob_redis.places import CHUNK, LONGEST_HOLD, Places, Section, Seen, section_by_id
from anyjob_redis.scripts import FITS, register, run_each

__all__ = ["ParkedJobs", "parked_key"]


def parked_key(namespace: str) -> str:
    """Return the key of the hash that holds the parked bytes by id."""
    return f"{namespace}:parked"


class ParkedJobs(Places):
    """The parked jobs of a namespace, without expiry. `park` raises `EnqueueError`.

    An id is the job's own if the bytes can be read and nothing else is parked under it, so that parking twice keeps one
    copy; else it is a new one. Beside the hash of bytes there are one of failures, one of holds, and a sorted set of
    the ids, all with one score: it pages by id.
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
        other = self._ids.new(self._clock.now())
        try:
            wanted = read_envelope(raw).id
        except EnvelopeError:
            wanted = other
        with translated():
            got: bytes = self._park(self._keys, [wanted, other, raw, msgspec.json.encode(failure)])
        return got.decode()

    def count(self) -> Mapping[JobState, int]:
        return {JobState.ABANDONED: self._client.zcard(self._order)}

    def find(self, ids: Iterable[str]) -> Sequence[StoredJob]:
        """Return those of the ids that are parked."""
        return tuple(job for _, job in self._find([each.encode() for each in ids]))

    def page(self, after: str, limit: int) -> Sequence[StoredJob]:
        """Return up to `limit` of them, in the order of their ids, which follow `after` ("" is the beginning)."""
        return tuple(seen.job for seen in islice(self._walk(after), limit))

    def sections(self, chosen: JobFilter) -> Iterator[Section]:
        if chosen.ids is None:
            yield Section("parked", _STATES, self._walk)
        else:
            yield section_by_id("parked", _STATES, chosen.ids, self._find_chosen)

    def _find_chosen(self, ids: Sequence[str]) -> Sequence[tuple[StoredJob, bytes]]:
        return [(job, job_id) for job_id, job in self._find([each.encode() for each in ids])]

    def take_off(self, holder: str, found: Sequence[Seen]) -> Sequence[tuple[bytes, StoredJob]]:
        now = self._clock.now().timestamp()
        ids = [seen.place for seen in found]
        held: Sequence[bytes] = self._hold(self._keys, [holder, now, now + LONGEST_HOLD, *ids])
        return self._find(held)

    def holds(self, holder: str, entry: bytes) -> bool:
        value: bytes | None = self._client.hget(self._holds, entry)
        return value is not None and value.partition(b" ")[0] == holder.encode()

    def acknowledge(self, holder: str, entries: Sequence[bytes]) -> Sequence[bool]:
        return run_each(self._client, self._end, ([holder, 1, each] for each in entries), keys=self._keys)

    def give_back(self, holder: str) -> None:
        mine = holder.encode()
        held: Mapping[bytes, bytes] = self._client.hgetall(self._holds)
        ids = [job_id for job_id, by in held.items() if by.partition(b" ")[0] == mine]
        for first in range(0, len(ids), CHUNK):
            self._end(self._keys, [holder, 0, *ids[first : first + CHUNK]])

    def _walk(self, after: str) -> Iterator[Seen]:
        last = after.encode("latin-1")  # a position is the bytes of the id: not all in here need be text
        while True:
            low = b"(" + last if last else b"-"
            chunk: Sequence[bytes] = self._client.zrangebylex(self._order, low, "+", start=0, num=CHUNK)
            ids = [each for each in chunk if each > last]  # what somebody else put in here may be in no order
            for job_id, job in self._find(ids):
                yield Seen(job_id.decode("latin-1"), job, job_id)
            if not ids:
                return
            last = max(ids)

    def _find(self, ids: Sequence[bytes]) -> Sequence[tuple[bytes, StoredJob]]:
        if not ids:
            return ()
        raws: Sequence[bytes | None] = self._client.hmget(self._raw, ids)
        failures: Sequence[bytes | None] = self._client.hmget(self._failures, ids)
        found = zip(ids, raws, failures, strict=True)
        return [(job_id, _stored(job_id, raw, failure)) for job_id, raw, failure in found if raw is not None]


def _stored(job_id: bytes, raw: bytes, failure: bytes | None) -> StoredJob:
    return StoredJob(
        job_id.decode("utf-8", "replace"), JobState.ABANDONED, raw, None if failure is None else _failure(failure)
    )


def _failure(failure: bytes) -> JobFailure:
    try:
        return msgspec.json.decode(failure, type=JobFailure)
    except UNREADABLE as error:
        why = f"Why it was given up can't be read: {error}"
        return JobFailure("", why, "", failed_at=datetime.fromtimestamp(0, UTC), worker="", tries=0)


_STATES: Final = frozenset({JobState.ABANDONED})

_NAMES: Final = (
    FITS
    + """
local raw, failures, holds, order = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
if not (fits('hash', raw) and fits('hash', failures) and fits('hash', holds) and fits('zset', order)) then
    return wrong
end
"""
)

_PARK: Final = (
    _NAMES
    + """
local id = ARGV[1]
local there = redis.call('HGET', raw, id)
if there and there ~= ARGV[3] then id = ARGV[2] end
redis.call('HSET', raw, id, ARGV[3])
redis.call('HSET', failures, id, ARGV[4])
redis.call('ZADD', order, 0, id)
return id
"""
)

_HOLD: Final = (
    _NAMES
    + """
local held = {}
for i = 4, #ARGV do
    local id = ARGV[i]
    local hold = redis.call('HGET', holds, id)
    local free = not hold or tonumber(string.match(hold, ' (.*)$')) <= tonumber(ARGV[2])
    if free and redis.call('HEXISTS', raw, id) == 1 then
        redis.call('HSET', holds, id, ARGV[1] .. ' ' .. ARGV[3])
        held[#held + 1] = id
    end
end
return held
"""
)

# holder, '1' to discard, ids. Returns how many it held.
_END: Final = (
    _NAMES
    + """
local ended = 0
for i = 3, #ARGV do
    local id = ARGV[i]
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
