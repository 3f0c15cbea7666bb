"""The names of our queues in Redis, and on the broker in general."""

from __future__ import annotations

from msgspec import Struct

from anyjob.extend import JobEnvelope
from anyjob_redis.levels import LEVELS

__all__ = ["Names", "root_of"]


def root_of(namespace: str) -> str:
    """Return the prefix of all our keys: jobs of one application may be on RQ as well, in the same Redis."""
    return f"{namespace}:dramatiq"


class Names(Struct, frozen=True):
    """Names within one root. A queue has five levels, `mail.high` to `mail.low`, kept as Dramatiq keeps a queue."""

    root: str

    def level(self, envelope: JobEnvelope) -> str:
        """Return the level that a job waits in."""
        return f"{envelope.queue}.{LEVELS[envelope.priority]}"

    def levels(self, queue: str) -> list[str]:
        """Return the levels of a queue, the highest first."""
        return [f"{queue}.{level}" for level in LEVELS.values()]

    def key(self, level: str) -> str:
        """Return the key of a level's list of ids; `.msgs` after it is that of its hash of messages."""
        return f"{self.root}:{level}"

    @property
    def queues(self) -> str:
        """Return the key of the set of queues that jobs were ever sent to."""
        return f"{self.root}:queues"

    @property
    def places(self) -> str:
        """Return the key of the hash that tells the place of each waiting or running job."""
        return f"{self.root}:places"

    @property
    def holders(self) -> str:
        return f"{self.root}:holders"

    def held(self, holder: str) -> str:
        """Return the key of the list of ids of a holder; with `.msgs` behind, that of its hash of messages."""
        return f"{self.root}:held:{holder}"
