"""Messages that are due later: a sorted set of their due times, and beside it a hash of the messages."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Any, Final

from redis import Redis

from anyjob.extend import Clock, EnvelopeError, JobFailure, JobLogger, JobState, StoredJob, log_parked, worker_name
from anyjob_redis.parked import ParkedJobs
from anyjob_redis.places import CHUNK, Section, Seen
from anyjob_redis.scripts import FITS, register
from anyjob_redis.skew import EARLIER, is_of_a_machine

__all__ = ["DUE_OR_LATER", "SCHEDULE", "ScheduledMessages", "due_after", "position_of", "score_of", "state_at"]

logger = JobLogger("anyjob.worker")

Found = tuple[StoredJob, Any]
"""A job, and the place from which it can be held."""

DUE_OR_LATER: Final = frozenset({JobState.SCHEDULED, JobState.WAITING})
"""The states of scheduled messages: a due one is waiting, whether or not it was promoted yet."""


SCHEDULE: Final = """
local function schedule(namespace, member, due, payload)
    redis.call('ZADD', namespace .. ':scheduled', due, member)
    redis.call('HSET', namespace .. ':scheduled:messages', member, payload)
end
local function unschedule(namespace, member)
    local due = redis.call('ZSCORE', namespace .. ':scheduled', member)
    local payload = redis.call('HGET', namespace .. ':scheduled:messages', member)
    redis.call('ZREM', namespace .. ':scheduled', member)
    redis.call('HDEL', namespace .. ':scheduled:messages', member)
    return due, payload
end
"""
"""Lua for an adapter's own scripts: to schedule, and to take out, in one step with whatever else they do.

A member is unique to a message, not to a job: two jobs may have one id, and neither may displace the other.
"""


class ScheduledMessages:
    """The scheduled messages of a namespace. Thread-safe.

    `push` is Lua that defines `push_due(namespace, payload)`: it puts a message into its queue, and returns nothing. Or
    it writes nothing, and returns why it never can: the message is parked. Or it writes nothing, and returns false
    because it can't now (a key is of another type): it is tried again in a minute.
    """

    def __init__(self, client: Redis, namespace: str, push: str, clock: Clock) -> None:
        self._client: Any = client
        self._namespace = namespace
        self._key = f"{namespace}:scheduled"
        self._clock = clock
        self._parked = ParkedJobs(client, namespace, clock)
        self._promote = register(client, FITS + EARLIER + SCHEDULE + push + _PROMOTE, drains=namespace)
        self._remove = register(client, SCHEDULE + _REMOVE, drains=namespace)

    def promote(self) -> float:
        """Push due messages, in order, each once whichever worker pushes; return the seconds until the next look."""
        now = self._clock.now().timestamp()
        machine = int(is_of_a_machine(self._clock))
        next_due, refused, postponed = self._promote(args=[self._namespace, now, machine, _AT_ONCE])
        if postponed:
            logger.warning("postponed %d that are due: their queue's key is of another type", postponed)
        for member, payload, why in refused:
            self._park(member, payload, why)
        if refused:
            return 0.0  # they were in the way
        return _LONGEST_PAUSE if next_due is None else min(_LONGEST_PAUSE, max(0.0, float(next_due) - now))

    def _park(self, member: bytes, payload: bytes, why: bytes) -> None:
        error = EnvelopeError(f"It was scheduled, and can't be sent to a queue: {why.decode('utf-8', 'replace')}.")
        failure = JobFailure.of(error, at=self._clock.now(), worker=worker_name(), tries=0)
        log_parked(self._parked.park(payload or member, failure), failure)
        self._remove(args=[self._namespace, member, payload])

    def section(self, read: Callable[[str, JobState, bytes], Found]) -> Section:
        """Return the section of all messages; `read` returns the job of a member, its state and its payload."""

        def walk(after: str) -> Iterator[Seen]:
            for found in due_after(self._client, self._key, after):
                for member, due, payload in self._with_payloads(found):
                    name, state = member.decode("utf-8", "replace"), state_at(due, self._clock)
                    # An unreadable one is parked when it is due.
                    seen = (StoredJob(name, state, member), None) if payload is None else read(name, state, payload)
                    yield Seen(position_of(member, due), *seen)

        return Section("scheduled", DUE_OR_LATER, walk)

    def find(self, members: Sequence[str]) -> Sequence[tuple[str, JobState, bytes]]:
        """Return those of the members that are there, each with its state and its payload."""
        scores = zip(members, self._client.zmscore(self._key, members), strict=True)
        found = self._with_payloads([(member.encode(), due) for member, due in scores if due is not None])
        return [
            (member.decode(), state_at(due, self._clock), payload)
            for member, due, payload in found
            if payload is not None
        ]

    def _with_payloads(self, found: Sequence[tuple[bytes, float]]) -> Sequence[tuple[bytes, float, bytes | None]]:
        payloads = self._client.hmget(f"{self._key}:messages", [member for member, _ in found]) if found else ()
        return [(member, due, payload) for (member, due), payload in zip(found, payloads, strict=True)]


def due_after(client: Any, key: str, after: str) -> Iterator[Sequence[tuple[bytes, float]]]:
    """Yield the members of a sorted set of due times, some at a time, beginning behind a position."""
    score, _, member = after.partition(" ")
    last, offset = (float(score or "-inf"), member.encode("latin-1")), 0
    while True:
        chunk = client.zrangebyscore(key, last[0], "+inf", start=offset, num=CHUNK, withscores=True)
        found = [(each, due) for each, due in chunk if (due, each) > last]
        if found:
            yield found
            last, offset = (found[-1][1], found[-1][0]), 0
        else:
            offset += len(chunk)
        if len(chunk) < CHUNK:
            return


def position_of(member: bytes, due: float) -> str:
    """Return the position of a member, which need not be text, in a sorted set of due times."""
    return f"{due!r} {member.decode('latin-1')}"


def state_at(due: float, clock: Clock) -> JobState:
    """Return the state of a scheduled job."""
    return JobState.SCHEDULED if due > clock.now().timestamp() else JobState.WAITING


def score_of(when: datetime) -> str:
    """Return the score of a time, exact to the microsecond (cut to seconds, as RQ itself does, it would be early)."""
    return repr(when.timestamp())


_AT_ONCE: Final = 200
_LONGEST_PAUSE: Final = 0.25

# namespace, now, '1' if that is a machine's time, limit. Returns when the next one is due, what can't be pushed
# (member, payload, why), and how many can't now.
_PROMOTE: Final = """
local namespace, now, limit = ARGV[1], earlier(ARGV[2], ARGV[3]), tonumber(ARGV[4])
local messages, refused, postponed = namespace .. ':scheduled:messages', {}, 0
if not fits('zset', namespace .. ':scheduled') or not fits('hash', messages) then return wrong end
for _, member in ipairs(redis.call('ZRANGEBYSCORE', namespace .. ':scheduled', '-inf', now, 'LIMIT', 0, limit)) do
    local payload = redis.call('HGET', messages, member)
    local why = 'there is no such message'
    if payload then why = push_due(namespace, payload) end
    if why then refused[#refused + 1] = {member, payload or '', why}
    elseif why == nil then unschedule(namespace, member)
    else
        redis.call('ZADD', namespace .. ':scheduled', now + 60, member)
        postponed = postponed + 1
    end
end
return {redis.call('ZRANGE', namespace .. ':scheduled', 0, 0, 'WITHSCORES')[2] or false, refused, postponed}
"""

# namespace, member, payload. Removes it, unless it was scheduled anew.
_REMOVE: Final = """
local payload = redis.call('HGET', ARGV[1] .. ':scheduled:messages', ARGV[2])
if (payload or '') == ARGV[3] then unschedule(ARGV[1], ARGV[2]) end
"""
