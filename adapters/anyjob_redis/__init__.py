"""The parts that all adapters on Redis share. Knows no job library."""

from anyjob_redis.connection import connect, translated
from anyjob_redis.inspector import ON_REDIS, RedisInspector
from anyjob_redis.layout import Layout, SortedLayout
from anyjob_redis.levels import KnownQueues, NotedNames
from anyjob_redis.lists import ListLayout
from anyjob_redis.moved import MOVED, RedisMarks
from anyjob_redis.native import NativeKey, NativeLayout, NativePlaces, inspector_of_natives, risks_of_held
from anyjob_redis.parked import ParkedJobs
from anyjob_redis.places import COUNTED, LONGEST_HOLD, Places, Section, Seen, section_by_id, section_of_held
from anyjob_redis.presence import Presence
from anyjob_redis.recurring import RecurringThread
from anyjob_redis.scheduled import ScheduledMessages
from anyjob_redis.scripts import FITS, register, run_in_slices
from anyjob_redis.sending import send_in_batches
from anyjob_redis.skew import ClockSkew
from anyjob_redis.store import RedisJobStore
from anyjob_redis.urls import plain_url, split_url, with_plain_ssl

__all__ = [
    "COUNTED",
    "FITS",
    "LONGEST_HOLD",
    "MOVED",
    "ON_REDIS",
    "ClockSkew",
    "KnownQueues",
    "Layout",
    "ListLayout",
    "NativeKey",
    "NativeLayout",
    "NativePlaces",
    "NotedNames",
    "ParkedJobs",
    "Places",
    "Presence",
    "RecurringThread",
    "RedisInspector",
    "RedisJobStore",
    "RedisMarks",
    "ScheduledMessages",
    "Section",
    "Seen",
    "SortedLayout",
    "connect",
    "inspector_of_natives",
    "plain_url",
    "register",
    "risks_of_held",
    "run_in_slices",
    "section_by_id",
    "section_of_held",
    "send_in_batches",
    "split_url",
    "translated",
    "with_plain_ssl",
]
