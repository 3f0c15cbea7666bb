"""Messages that are due later, in the form in which the broker's consumers want them, put before them in time.

A sorted set holds the times, a hash the messages. Who promotes, and how many at once, makes no difference: a script
moves each message once, and what is not moved is still there.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any, Final

from msgspec import Struct
from redis import Redis

from anyjob.clock import Clock
from anyjob.envelope import JobEnvelope
from anyjob.store import JobState, StoredJob
from anyjob_redis.connection import run_once, translated
from anyjob_redis.held import LONGEST_HOLD, HeldJob
from anyjob_redis.walk import Section

__all__ = ["ScheduledMessage", "ScheduledSet", "score_of"]


class ScheduledMessage(Struct, frozen=True):
    """A message that is to be put into `target`, in the words of the broker, when it is due."""

    id: str
    """The job's, or another one if several jobs of an id may wait: what is there by the same id is replaced."""
    due: datetime
    target: str
    """Without spaces."""
    message: bytes


class ScheduledSet(Section):
    """The scheduled messages of a namespace. Thread-safe; raises `EnqueueError` for errors of Redis.

    `release` is Lua that puts a due message where consumers look for it: statements that find it in `id`, `target` and
    `message`, and may use what `functions`, Lua as well, defines. `unwrap` gets the envelope's bytes out of a message.

    An adapter's own scripts can schedule in the same step as they do something else: put `ScheduledSet.lua(namespace)`
    before them, and call `schedule(id, due, target, message)`, `unschedule(id)`, `is_scheduled(id)`.
    """

    name = "scheduled"
    states = frozenset({JobState.SCHEDULED, JobState.WAITING})  # due, and not yet promoted

    def __init__(
        self,
        client: Redis,
        namespace: str,
        clock: Clock,
        *,
        release: str,
        unwrap: Callable[[bytes], bytes],
        functions: str = "",
    ) -> None:
        self._client: Any = client  # redis-py's types can't tell that nothing is decoded
        self._clock = clock
        self._unwrap = unwrap
        self._due, self._messages = f"{namespace}:scheduled", f"{namespace}:scheduled:messages"
        promote = f"{functions}\nlocal function release(id, target, message)\n{release}\nend\n{_PROMOTE}"
        self._add, self._promote, self._hold, self._end = (
            client.register_script(self.lua(namespace) + script) for script in (_ADD, promote, _HOLD, _END)
        )

    @staticmethod
    def lua(namespace: str) -> str:
        """Return the set's functions, to be put before an adapter's own scripts."""
        return f"local scheduled_key = '{namespace}:scheduled'\n{_FUNCTIONS}"

    def add(self, messages: Sequence[ScheduledMessage]) -> None:
        """Keep messages until they are due, in atomic batches; raise `EnqueueError` as `run_once` does."""
        ids = [each.id for each in messages]
        for start in range(0, len(ids), BATCH):
            batch = messages[start : start + BATCH]
            flat = [part for each in batch for part in (each.id, score_of(each.due), each.target, each.message)]
            told = {"accepted": ids[:start], "ids": ids[start : start + BATCH], "rest": ids[start + BATCH :]}
            run_once(self._client, self._add, flat, **told)

    def promote(self) -> float | None:
        """Move what is due to its target; return the seconds until the next is due, or None if there is none.

        To be called again and again by each worker, by a `RecurringThread`. Raises what redis raises.
        """
        now = self._clock.now()
        first = self._promote(args=[score_of(now), BATCH])
        return None if first is None else max(0.0, float(first) - now.timestamp())

    def count(self) -> tuple[int, int]:
        """Return how many are due later, and how many are due and not yet promoted, at one moment."""
        with translated(), self._client.pipeline() as pipeline:
            pipeline.hlen(self._messages)
            pipeline.zcount(self._due, "-inf", score_of(self._clock.now()))
            there, due = pipeline.execute()
        return there - due, due

    def find(self, ids: Sequence[str]) -> Sequence[StoredJob]:
        if not ids:
            return ()
        with translated():
            records: Sequence[bytes | None] = self._client.hmget(self._messages, ids)
        found = zip(ids, records, strict=True)
        return [self._stored(job_id, record) for job_id, record in found if record is not None]

    def page(self, after: str, limit: int) -> Sequence[tuple[str, StoredJob]]:
        score, _, job_id = after.partition(" ")
        seen = (float(score), job_id.encode()) if after else (float("-inf"), b"")
        with translated():
            rank = self._client.zrank(self._due, job_id) if after else -1
            # If that job is gone: from the first that was due with it.
            start = self._client.zcount(self._due, "-inf", f"({score}") if rank is None else rank + 1
            rows: list[tuple[bytes, float]] = []
            while not rows and (found := self._client.zrange(self._due, start, start + limit - 1, withscores=True)):
                rows = [(member, at) for member, at in found if (at, member) > seen]
                start += limit
        jobs = {job.id: job for job in self.find([member.decode() for member, _ in rows])}
        places = [(member.decode(), at) for member, at in rows]
        return [(f"{at!r} {job_id}", jobs[job_id]) for job_id, at in places if job_id in jobs]

    @contextmanager
    def take(self, ids: Iterable[str], resend: Callable[[JobEnvelope], None]) -> Iterator[Sequence[HeldJob]]:
        """Hold those of the ids that nobody else holds; what is not settled goes back, after five minutes by itself."""
        token, wanted = uuid.uuid4().hex, list(ids)
        until = self._clock.now().timestamp() + LONGEST_HOLD
        with translated():
            held: Sequence[bytes] = self._hold(args=[token, repr(until), *wanted]) if wanted else ()
        try:
            yield [HeldJob(self, job, token, resend) for job in self.find([each.decode() for each in held])]
        finally:
            for each in held:
                self.end_hold(each.decode(), token, discard=False)

    def end_hold(self, job_id: str, token: str, *, discard: bool) -> bool:
        """Let go of a job, or discard it; return False, changing nothing, if it was not held by this token any more."""
        with translated():
            return bool(self._end(args=[job_id, token, int(discard)]))

    def holds(self, job_id: str, token: str) -> bool:
        """Whether the token still holds the job."""
        with translated():
            value: bytes | None = self._client.hget(f"{self._due}:holds", job_id)
        return value is not None and value.decode().partition(" ")[0] == token

    def _stored(self, job_id: str, record: bytes) -> StoredJob:
        raw = self._unwrap(record.partition(b" ")[2])
        job = StoredJob(job_id, JobState.SCHEDULED, raw)
        envelope = job.envelope
        due = envelope is not None and (envelope.due_at is None or envelope.due_at <= self._clock.now())
        return StoredJob(job_id, JobState.WAITING, raw) if due else job


def score_of(when: datetime) -> str:
    """Return the score of a time, exact to the microsecond."""
    return repr(when.timestamp())


BATCH: Final = 500

# Records are "<target> <message>", holds "<token> <due>"; what is held is in `:held` by the time at which it goes back.
_FUNCTIONS: Final = """
local function is_scheduled(id) return redis.call('HEXISTS', scheduled_key .. ':messages', id) == 1 end
local function unhold(id)
    local hold = redis.call('HGET', scheduled_key .. ':holds', id)
    if not hold then return end
    redis.call('HDEL', scheduled_key .. ':holds', id)
    redis.call('ZREM', scheduled_key .. ':held', id)
    return string.match(hold, '^(%S+) (%S+)$')
end
local function schedule(id, due, target, message)
    unhold(id)
    redis.call('ZADD', scheduled_key, due, id)
    redis.call('HSET', scheduled_key .. ':messages', id, target .. ' ' .. message)
end
local function unschedule(id)
    unhold(id)
    redis.call('ZREM', scheduled_key, id)
    redis.call('HDEL', scheduled_key .. ':messages', id)
end
"""

# Of each message: id, due, target, message.
_ADD: Final = """
for i = 1, #ARGV, 4 do schedule(ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]) end
"""

# now, how many at a time. Returns when the next is due, if any is.
_PROMOTE: Final = """
local now, limit = ARGV[1], ARGV[2]
for _, id in ipairs(redis.call('ZRANGEBYSCORE', scheduled_key .. ':held', '-inf', now, 'LIMIT', 0, limit)) do
    local _, due = unhold(id)
    redis.call('ZADD', scheduled_key, due, id)
end
for _, id in ipairs(redis.call('ZRANGEBYSCORE', scheduled_key, '-inf', now, 'LIMIT', 0, limit)) do
    local record = redis.call('HGET', scheduled_key .. ':messages', id)
    unschedule(id)
    if record then
        local target, message = string.match(record, '^(%S+) (.*)$')
        release(id, target, message)
    end
end
return redis.call('ZRANGE', scheduled_key, 0, 0, 'WITHSCORES')[2]
"""

# token, until, ids. Returns the ids that are held now.
_HOLD: Final = """
local held = {}
for i = 3, #ARGV do
    local id = ARGV[i]
    local due = redis.call('ZSCORE', scheduled_key, id)
    if due then
        redis.call('ZREM', scheduled_key, id)
        redis.call('HSET', scheduled_key .. ':holds', id, ARGV[1] .. ' ' .. due)
        redis.call('ZADD', scheduled_key .. ':held', ARGV[2], id)
        held[#held + 1] = id
    end
end
return held
"""

# id, token, whether to discard. Returns whether the token held it.
_END: Final = """
local hold = redis.call('HGET', scheduled_key .. ':holds', ARGV[1])
if not hold or string.match(hold, '^%S+') ~= ARGV[2] then return 0 end
local _, due = unhold(ARGV[1])
if ARGV[3] == '1' then unschedule(ARGV[1]) else redis.call('ZADD', scheduled_key, due, ARGV[1]) end
return 1
"""
