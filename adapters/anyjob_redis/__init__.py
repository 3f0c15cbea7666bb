"""What the adapters share that keep their jobs in Redis. Knows no job library."""

from anyjob_redis.connection import connect, run_once, translated
from anyjob_redis.parked import ParkedJobs, TakenParkedJob
from anyjob_redis.parked_shelf import ParkedShelf
from anyjob_redis.presence import Presence
from anyjob_redis.recurring import RecurringThread
from anyjob_redis.scheduled import ScheduledMessages

__all__ = [
    "ParkedJobs",
    "ParkedShelf",
    "Presence",
    "RecurringThread",
    "ScheduledMessages",
    "TakenParkedJob",
    "connect",
    "run_once",
    "translated",
]
