"""Measures how far this machine's clock is from the server's: jobs are due by clocks, and so these must agree."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from redis import Redis

from anyjob.extend import Clock, EnvelopeError, JobEnvelope, JobLogger, SystemClock, read_envelope
from anyjob_redis.connection import translated

__all__ = ["EARLIER", "ClockSkew", "is_of_a_machine"]

logger = JobLogger("anyjob.worker")

EARLIER: Final = """
local function earlier(now, of_a_machine)
    if of_a_machine == '0' then return now end
    local time = redis.call('TIME')
    local server = time[1] .. string.format('.%06d', time[2])
    return tonumber(server) < tonumber(now) and server or now
end
"""
"""Lua for scripts that promote: the worker's time, or the server's if that is earlier and the two can be compared. So a
worker whose clock runs ahead promotes nothing before its time.
"""


def is_of_a_machine(clock: Clock) -> bool:
    """Whether a clock is to agree with the server's; one that a test moves is not."""
    return isinstance(clock, SystemClock)


class ClockSkew:
    """The difference between `clock` and the server's, as last measured. Thread-safe."""

    def __init__(self, client: Redis, clock: Clock) -> None:
        self._client: Any = client
        self._clock = clock
        self._ahead = 0.0

    def measure(self) -> float:
        """Return the seconds by which `clock` is surely ahead, negative if it is behind; log it when the skew begins.

        A difference that the round trip may explain is left out. Raises what redis raises.
        """
        if not is_of_a_machine(self._clock):
            return 0.0
        before = self._clock.now().timestamp()
        seconds, microseconds = self._client.time()
        after = self._clock.now().timestamp()
        server = seconds + microseconds / 1e6
        ahead: float = before - server if before > server else min(0.0, after - server)
        if _is_much(ahead) and not _is_much(self._ahead):
            logger.warning("%s", _told(ahead))
        self._ahead = ahead
        return ahead

    def risks(self) -> Sequence[str]:
        """Return the lines that `anyjob doctor` shows if the clocks differ. Raises `EnqueueError`."""
        with translated():
            ahead = self.measure()
        return (_told(ahead),) if _is_much(ahead) else ()

    def early(self, raw: bytes) -> JobEnvelope | None:
        """Return the envelope in `raw` if the clock here is behind, and by it the job is not due yet.

        The caller sends it back, and then pauses: by the server's clock the job is due, and it is delivered at once.
        """
        if not (_is_much(self._ahead) and self._ahead < 0):
            return None
        try:
            envelope = read_envelope(raw)
        except EnvelopeError:
            return None
        return envelope if envelope.due_at is not None and envelope.due_at > self._clock.now() else None


def _is_much(ahead: float) -> bool:
    return abs(ahead) > _TOLERATED


def _told(ahead: float) -> str:
    what = f"{abs(ahead):.1f} s {'ahead of' if ahead > 0 else 'behind'}"
    return f"clock: this machine's is {what} the one of Redis. What is delayed from here comes off by as much; set it."


_TOLERATED: Final = 1.0
"""Seconds: jobs may be late by twice that anyhow."""
