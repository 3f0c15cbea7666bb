"""The capabilities of our own queues on RabbitMQ, and the list of these queues."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from datetime import timedelta
from typing import Final

from anyjob.extend import ALL_STATES, QUEUE_NAME, BackendConfig, Capabilities, JobState, Quality
from anyjob_amqp.deadline import Deadline
from anyjob_amqp.links import Links, translated
from anyjob_amqp.notes import noted_names
from anyjob_amqp.topology import AmqpNames, Note, QueueDeclaration

__all__ = ["NATIVES_CAN", "KnownQueues", "NotedNames", "capabilities_of"]

NATIVES_CAN: Final = Capabilities(
    moving=frozenset({JobState.WAITING, JobState.SCHEDULED}),
    counts={JobState.WAITING: Quality.APPROXIMATE},  # with jobs of ours in the same queues
    durable=True,
)
"""The capabilities of an inspector of an application's own messages."""


class NotedNames:
    """Names that are noted in a queue, read anew each time. Raises `EnqueueError`."""

    def __init__(self, links: Links, queue: QueueDeclaration, timeout: float) -> None:
        self._links = links
        self._queue = queue
        self._timeout = timeout

    def __iter__(self) -> Iterator[str]:
        deadline = Deadline(self._timeout)
        with translated(), self._links.link(deadline) as link:
            return iter(noted_names(link.connection, self._queue, deadline))

    def add(self, names: Collection[str]) -> None:
        """Note names, unless they are noted already."""
        with translated(), self._links.link(Deadline(self._timeout)) as link:
            link.note(Note(name, self._queue) for name in names)


class KnownQueues:
    """The native queues, asked for anew each time: those of the settings, or of the application's jobs, and all to
    which any process ever sent. Raises `EnqueueError`.
    """

    def __init__(self, names: AmqpNames, config: BackendConfig, links: Links) -> None:
        self._names = names
        self._config = config
        self._sent_to = NotedNames(links, names.notes, config.enqueue_timeout)

    def __iter__(self) -> Iterator[str]:
        sent_to = (name for name in self._sent_to if QUEUE_NAME.fullmatch(name))
        return map(self._names.queue, sorted({*(self._config.queues or self._config.known_queues()), *sent_to}))


def capabilities_of() -> Capabilities:
    """Return the capabilities of our topology; an adapter adds those of its workers."""
    return Capabilities(
        moving=ALL_STATES - {JobState.RUNNING},
        priority=Quality.EXACT,
        priority_across_queues=False,  # RabbitMQ serves a channel's queues in turn
        delay=Quality.EXACT,
        listing=_PARKED,
        removal=_PARKED,
        counts=dict.fromkeys((JobState.WAITING, JobState.SCHEDULED, JobState.ABANDONED), Quality.EXACT),
        durable=True,
        redelivery_bound=timedelta(seconds=5),  # the broker sees a connection end at once
        exact_loss_count=False,  # `redelivered` says that a worker had the message, not that the job ran
    )


_PARKED: Final = frozenset({JobState.ABANDONED})
