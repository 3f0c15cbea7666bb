"""What RabbitMQ can do for the jobs in our own queues, and which queues there are: nothing on it tells."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Final

from anyjob.backend import BackendConfig
from anyjob.capabilities import ALL_STATES, Capabilities, Quality
from anyjob.store import JobState
from anyjob_amqp.topology import AmqpNames

__all__ = ["NATIVES_CAN", "KnownQueues", "capabilities_of"]

NATIVES_CAN: Final = Capabilities(
    moving=frozenset({JobState.WAITING, JobState.SCHEDULED}),
    counts={JobState.WAITING: Quality.APPROXIMATE},  # with jobs of ours in the same queues
    durable=True,
)
"""The capabilities of a shelf of an application's own messages."""


class KnownQueues:
    """The native queues there are: those of the settings, or, if their list is open, those that the application's jobs
    go to and what this process sent to.
    """

    def __init__(self, names: AmqpNames, config: BackendConfig) -> None:
        self._names = names
        self._closed = config.queues
        self._known = config.known_queues
        self._sent_to: set[str] = set()

    def note(self, logical: str) -> None:
        """Note that something was sent to a logical queue."""
        self._sent_to.add(logical)

    def __iter__(self) -> Iterator[str]:
        return map(self._names.queue, self._closed or sorted({*self._known(), *self._sent_to}))


def capabilities_of(config: BackendConfig) -> Capabilities:
    """Return what our topology gives; an adapter says the rest, by what its workers do."""
    return Capabilities(
        moving=ALL_STATES - {JobState.RUNNING},
        priority=Quality.EXACT,
        priority_across_queues=False,  # RabbitMQ serves a channel's queues in turn
        delay=Quality.EXACT,
        listing=_PARKED,
        removal=_PARKED,
        counts={
            JobState.WAITING: Quality.APPROXIMATE if config.queues is None else Quality.EXACT,  # see `KnownQueues`
            JobState.SCHEDULED: Quality.EXACT,
            JobState.ABANDONED: Quality.EXACT,
        },
        durable=True,
        redelivery_bound=timedelta(seconds=5),  # the broker sees a connection end at once
        exact_loss_count=False,  # `redelivered` says that somebody had it, not that it ran
    )


_PARKED: Final = frozenset({JobState.ABANDONED})
