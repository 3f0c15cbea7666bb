"""The names of our queues and jobs in RQ."""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from anyjob.extend import JobPriority
from anyjob_redis.levels import LEVELS

__all__ = ["Names", "root_of"]

_JOB: Final = "-J-"
_MARK: Final = "-H-"


def root_of(namespace: str) -> str:
    """Return the prefix of the keys of parked jobs: an application's jobs may be on Celery as well, in this Redis."""
    return f"{namespace}:rq"


class Names(Struct, frozen=True):
    """Names within one namespace.

    RQ allows `A-Z a-z 0-9 _ -` in an id, and a namespace may have all of these except capitals: the first capital marks
    its end, so that ids of two namespaces are never equal.
    """

    namespace: str

    def queue(self, logical: str, priority: JobPriority) -> str:
        """Return the native queue of a logical queue's level: `anyjob:mail:high`."""
        return f"{self.namespace}:{logical}:{LEVELS[priority]}"

    def queues(self, logical: str) -> list[str]:
        """Return the native queues of a logical one, highest level first."""
        return [f"{self.namespace}:{logical}:{level}" for level in LEVELS.values()]

    def has(self, queue: str) -> bool:
        """Whether a native queue is one of ours."""
        logical, _, _ = queue.rpartition(":")
        return queue in self.queues(logical.removeprefix(f"{self.namespace}:"))

    def native_id(self, job_id: str) -> str:
        """Return the id that a job has in RQ: `anyjob-J-<id>`."""
        return f"{self.namespace}{_JOB}{job_id}"

    def job_id(self, native_id: str) -> str | None:
        """Return the id of the job that RQ knows by `native_id`, or None if that is no job of ours."""
        prefix = f"{self.namespace}{_JOB}"
        return native_id.removeprefix(prefix) if native_id.startswith(prefix) else None

    @property
    def mark_prefix(self) -> str:
        """The prefix of the placeholders of held jobs: `anyjob-H-<id>`."""
        return f"{self.namespace}{_MARK}"
