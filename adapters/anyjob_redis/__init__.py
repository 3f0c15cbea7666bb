"""What the adapters share that keep their jobs in Redis. Knows no job library."""

from anyjob_redis.connection import connect, run_once, translated
from anyjob_redis.held import HeldJob
from anyjob_redis.parked import ParkedJobs
from anyjob_redis.presence import Presence
from anyjob_redis.recurring import RecurringThread
from anyjob_redis.scheduled import ScheduledMessage, ScheduledSet

__all__ = [
    "HeldJob",
    "ParkedJobs",
    "Presence",
    "RecurringThread",
    "ScheduledMessage",
    "ScheduledSet",
    "connect",
    "run_once",
    "translated",
]
