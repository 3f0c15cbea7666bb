"""Shows and takes out the messages in an application's own queues on Redis, and leaves nothing of ours there.

Workers that know nothing of anyjob serve these keys, so no placeholder stands for a held message. It is held in the
hash `<namespace>:native:held`, by a tag, and goes back behind the neighbour that it had; if that is gone by then, all
messages before it are gone, too, and its place is in front.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Final, Literal

from msgspec import Struct
from redis import Redis

from anyjob.extend import Capabilities, Clock, JobEnvelope, JobFilter, JobIds, JobLogger, JobState, Quality, StoredJob
from anyjob_redis.connection import translated
from anyjob_redis.inspector import RedisInspector
from anyjob_redis.native_scripts import ACKNOWLEDGE, GIVE_BACK, HELD, HOLD, INDEX_PAST, LAPSE
from anyjob_redis.parked import ParkedJobs
from anyjob_redis.places import CHUNK, LONGEST_HOLD, Places, Section, Seen
from anyjob_redis.scheduled import due_after, position_of
from anyjob_redis.scripts import FITS, SLICE, register

__all__ = ["NativeKey", "NativeLayout", "NativePlaces", "inspector_of_natives", "risks_of_held"]

logger = JobLogger("anyjob.worker")


class NativeKey(Struct, frozen=True):
    """A key where messages wait, or the ids of some."""

    key: str
    kind: Literal["left", "right", "zset"]
    """The end of a list that is next, or a sorted set of due times."""
    queue: str
    """The library's own name of the queue."""


class NativeLayout(ABC):
    """How a job library keeps its messages. Raises what redis raises."""

    forget: str
    """Lua that defines `forget(key, item)`: it removes a message's data beside its place. It has `fits`."""

    @abstractmethod
    def waiting(self) -> Iterable[NativeKey]:
        """Return the keys where messages wait, those of higher priority first."""

    @abstractmethod
    def read(self, place: NativeKey, items: Sequence[bytes]) -> Sequence[StoredJob | None]:
        """Return the job that each item of a key stands for; None: no job that is to be shown."""


class _Place(Struct, frozen=True):
    key: NativeKey
    item: bytes


class NativePlaces(Places):
    """The messages in the keys of a layout. A place is a key and an item, an entry is a tag. Thread-safe."""

    def __init__(self, client: Redis, namespace: str, layout: NativeLayout, clock: Clock) -> None:
        self._client: Any = client
        self._layout = layout
        self._clock = clock
        self._ids = JobIds()
        self._keys = (f"{namespace}:native:held", f"{namespace}:native:held:times")
        self._taken: set[tuple[str, bytes]] = set()
        texts = (HOLD, HELD + layout.forget + ACKNOWLEDGE, HELD + GIVE_BACK, HELD + LAPSE)
        scripts = [register(client, FITS + text, drains=namespace) for text in texts]
        self._hold, self._acknowledge, self._give_back, self._lapse = scripts
        self._index_past = register(client, INDEX_PAST)

    def count(self) -> Mapping[JobState, int]:
        """Return how many wait, scheduled ones among them: a library may keep both in one list."""
        with self._client.pipeline(transaction=False) as pipe:
            for each in self._layout.waiting():
                getattr(pipe, _SIZES[each.kind])(each.key)
            sizes = pipe.execute(raise_on_error=False)  # a key may be of another type
        return {JobState.WAITING: sum(size for size in sizes if isinstance(size, int))}

    def sections(self, chosen: JobFilter) -> Iterator[Section]:  # noqa: ARG002  # `queues` are ours, these are theirs
        for key in self._layout.waiting():
            walk = self._walk_set if key.kind == "zset" else self._walk_list
            yield Section(f"{key.kind} {key.key}", _STATES, partial(walk, key))

    def take_off(self, holder: str, found: Sequence[Seen]) -> Sequence[tuple[str, StoredJob]]:
        now = self._clock.now()
        by_tag = {f"{holder}-{self._ids.new(now)}": seen for seen in found}
        wanted: list[Any] = []
        for tag, seen in by_tag.items():
            wanted += (tag, seen.place.key.kind, seen.place.key.key, seen.place.item)
        taken = self._hold(self._keys, [LONGEST_HOLD, *wanted])
        held = [(tag, by_tag[tag]) for tag in map(bytes.decode, taken)]
        self._taken.update((seen.place.key.key, seen.place.item) for _, seen in held)
        return [(tag, seen.job) for tag, seen in held]

    def holds(self, holder: str, entry: str) -> bool:  # noqa: ARG002  # a tag is the holder's own
        return bool(self._client.hexists(self._keys[0], entry))

    def acknowledge(self, holder: str, entries: Sequence[str]) -> Sequence[bool]:  # noqa: ARG002
        return list(map(bool, self._acknowledge(self._keys, entries)))

    def give_back(self, holder: str) -> None:
        prefix = f"{holder}-".encode()
        tags = sorted(tag for tag in self._client.hkeys(self._keys[0]) if tag.startswith(prefix))
        for first in reversed(range(0, len(tags), SLICE)):  # the message that was held first is in front again
            self._give_back(self._keys, tags[first : first + SLICE])

    def recover(self) -> None:
        lapsed = 1
        while lapsed:
            lapsed, stay = self._lapse(self._keys, [SLICE])
            if stay:
                logger.warning("held on: %d messages can't go back, for their key is of another type", stay)

    def _walk_set(self, key: NativeKey, after: str) -> Iterator[Seen]:
        for found in due_after(self._client, key.key, after):
            jobs = self._layout.read(key, [item for item, _ in found])
            for (item, due), job in zip(found, jobs, strict=True):
                if job is not None:
                    yield Seen(position_of(item, due), job, _Place(key, item))

    def _walk_list(self, key: NativeKey, after: str) -> Iterator[Seen]:
        first = self._index_after(key, after)
        passed: Sequence[bytes] = ()  # the last items of the list before `first`
        while found := self._slice(key, first, CHUNK + 1):
            items, digests = found[:CHUNK], [*map(_digest, found), ""]
            for number, (item, job) in enumerate(zip(items, self._layout.read(key, items), strict=True)):
                if job is not None:
                    position = f"{first + number} {digests[number]} {digests[number + 1]}"
                    yield Seen(position, job, _Place(key, item))
            stay = self._that_stay(key, (*passed, *items))
            last = first - len(passed) + len(stay) - 1
            # If that is gone, so are the items before it; or it was taken out, and all items are yielded once more.
            first = int(self._index_past(args=[key.kind, key.key, stay[-1], last])) if stay else 0
            # The last items shown may be taken out only now, a chunk at most: one more has to be known.
            passed = stay[-CHUNK - 1 :] if first else ()

    def _that_stay(self, key: NativeKey, passed: Sequence[bytes]) -> Sequence[bytes]:
        stay = [item for item in passed if (key.key, item) not in self._taken]
        self._taken.difference_update([(key.key, item) for item in passed])
        return stay

    def _slice(self, key: NativeKey, first: int, size: int = CHUNK) -> Sequence[bytes]:
        """Return items of a list from the index `first` on, the next one first."""
        if key.kind == "left":
            found: list[bytes] = self._client.lrange(key.key, first, first + size - 1)
            return found
        found = self._client.lrange(key.key, -first - size, -first - 1)
        return found[::-1]

    def _index_after(self, key: NativeKey, after: str) -> int:
        """Return where a later page goes on: behind the last item seen, or at the next one if that was taken out; if
        both are gone, so are all items before them.
        """
        if not after:
            return 0
        position, last, following = after.split(" ")
        for digest, further in ((last, 1), (following, 0)):
            index = self._index_of(key, digest, int(position) + 1 - further)
            if index is not None:
                return index + further
        return 0

    def _index_of(self, key: NativeKey, digest: str, near: int) -> int | None:
        """Return the index of an item in a list that was at `near` before: nearer to the front, as a rule."""
        last = near
        while last >= 0:
            first = max(0, last - CHUNK + 1)
            items = self._slice(key, first)
            for number in reversed(range(len(items))):
                if _digest(items[number]) == digest:
                    return first + number
            last = first - 1
        behind = enumerate(self._slice(key, near + 1), near + 1)  # an item was put in front meanwhile
        return next((number for number, item in behind if _digest(item) == digest), None)


def inspector_of_natives(
    client: Redis, namespace: str, layout: NativeLayout, *, resend: Callable[[JobEnvelope], None], clock: Clock
) -> RedisInspector:
    """Return the `JobBackend.native_inspector` of Redis: it shows the messages in the layout's keys."""
    places = NativePlaces(client, namespace, layout, clock)
    return RedisInspector(
        ParkedJobs(client, namespace, clock), places, resend=resend, clock=clock, capabilities=_NATIVES_CAN
    )


def risks_of_held(client: Redis, namespace: str) -> Sequence[str]:
    """Return the `JobBackend.look_for_risks` of messages that a crashed process holds: no worker looks there."""
    server: Any = client
    with translated():
        count = server.zcount(f"{namespace}:native:held:times", "-inf", server.time()[0])
    if not count:
        return ()
    return [f"held: {count} messages are held for a move that was killed; begun anew, it gives them back"]


def _digest(item: bytes) -> str:
    return hashlib.sha256(item).hexdigest()[:16]


_STATES: Final = frozenset({JobState.WAITING, JobState.SCHEDULED})
_NATIVES_CAN: Final = Capabilities(
    listing=_STATES,
    removal=_STATES,
    moving=_STATES,
    counts={JobState.WAITING: Quality.APPROXIMATE},  # with jobs of ours in the same keys
    durable=True,
)
_SIZES: Final = {"left": "llen", "right": "llen", "zset": "zcard"}
