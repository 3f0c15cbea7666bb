"""Jobs that were given up, kept in Redis as the bytes they came as, with why, until somebody retries or discards."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import msgspec
from redis import Redis

from anyjob.backend import TakenJob
from anyjob.clock import Clock
from anyjob.envelope import JobEnvelope, JobIds, read_envelope
from anyjob.errors import EnvelopeError
from anyjob.outcome import JobFailure
from anyjob.store import JobState, StoredJob
from anyjob_redis.connection import translated

__all__ = ["ParkedJobs", "TakenParkedJob", "parked_key"]


def parked_key(namespace: str) -> str:
    """Return the key of the hash that holds the parked bytes by id."""
    return f"{namespace}:parked"


class ParkedJobs:
    """The parked jobs of a namespace, without expiry. Thread-safe; raises `EnqueueError` for errors of Redis.

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
        self._park = client.register_script(_PARK)
        self._hold = client.register_script(_HOLD)
        self._end = client.register_script(_END)

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

    def count(self) -> int:
        """Return how many there are."""
        with translated():
            return int(self._client.zcard(self._order))

    def find(self, ids: Iterable[str]) -> Sequence[StoredJob]:
        """Return those of the ids that are parked."""
        wanted = list(ids)
        if not wanted:
            return ()
        with translated():
            raws: Sequence[bytes | None] = self._client.hmget(self._raw, wanted)
            failures: Sequence[bytes | None] = self._client.hmget(self._failures, wanted)
        found = zip(wanted, raws, failures, strict=True)
        return [_stored(job_id, raw, failure) for job_id, raw, failure in found if raw is not None]

    def page(self, after: str, limit: int) -> Sequence[StoredJob]:
        """Return up to `limit` of them, in the order of their ids, which follow `after` ("" is the beginning)."""
        low = f"({after}" if after else "-"
        with translated():
            ids: Sequence[bytes] = self._client.zrangebylex(self._order, low, "+", start=0, num=limit)
        return self.find(each.decode() for each in ids)

    @contextmanager
    def take(self, ids: Iterable[str], resend: Callable[[JobEnvelope], None]) -> Iterator[Sequence[TakenParkedJob]]:
        """Hold those of the ids that nobody else holds; what is not settled goes back, after five minutes by itself."""
        token = uuid.uuid4().hex
        now = self._clock.now().timestamp()
        wanted = list(ids)
        with translated():
            held: Sequence[bytes] = self._hold(self._keys, [token, now, now + _LONGEST_HOLD, *wanted]) if wanted else ()
        try:
            jobs = self.find(each.decode() for each in held)
            yield [TakenParkedJob(self, job, token, resend) for job in jobs]
        finally:
            for each in held:
                self.end_hold(each.decode(), token, discard=False)

    def end_hold(self, job_id: str, token: str, *, discard: bool) -> bool:
        """Let go of a job, or discard it; return False, changing nothing, if it was not held by this token any more."""
        with translated():
            return bool(self._end(self._keys, [job_id, token, int(discard)]))

    def holds(self, job_id: str, token: str) -> bool:
        """Whether the token still holds the job."""
        with translated():
            value: bytes | None = self._client.hget(self._holds, job_id)
        return value is not None and value.decode().partition(" ")[0] == token


class TakenParkedJob(TakenJob):
    """A parked job, held."""

    def __init__(self, parked: ParkedJobs, job: StoredJob, token: str, resend: Callable[[JobEnvelope], None]) -> None:
        self._parked = parked
        self._token = token
        self._resend = resend
        self.job = job

    def acknowledge(self) -> bool:
        return self._parked.end_hold(self.job.id, self._token, discard=True)

    def replace(self, envelope: JobEnvelope) -> bool:
        if not self._parked.holds(self.job.id, self._token):
            return False
        self._resend(envelope)
        return self.acknowledge()


def _stored(job_id: str, raw: bytes, failure: bytes | None) -> StoredJob:
    known: Any = None if failure is None else msgspec.json.decode(failure, type=JobFailure)
    return StoredJob(job_id, JobState.ABANDONED, raw, known)


_LONGEST_HOLD: Final = 300.0

_NAMES: Final = "local raw, failures, holds, order = KEYS[1], KEYS[2], KEYS[3], KEYS[4]\n"

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

_END: Final = (
    _NAMES
    + """
local id = ARGV[1]
local hold = redis.call('HGET', holds, id)
if not hold or string.match(hold, '^%S+') ~= ARGV[2] then return 0 end
redis.call('HDEL', holds, id)
if ARGV[3] == '1' then
    redis.call('HDEL', raw, id)
    redis.call('HDEL', failures, id)
    redis.call('ZREM', order, id)
end
return 1
"""
)
