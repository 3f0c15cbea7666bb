"""The source of RabbitMQ's queues."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta

from anyjob.extend import (
    Abandoned,
    Clock,
    Completed,
    EnvelopeError,
    JobClaim,
    JobFailure,
    JobSource,
    Listeners,
    LostJob,
    Outcome,
    plain_moment,
)
from anyjob_amqp.consumer import AmqpConsumer
from anyjob_amqp.consuming import AmqpDelivery

__all__ = ["AmqpSource"]


class AmqpSource(JobSource):
    """Claims the messages that were delivered to one worker. Thread-safe.

    A claim lasts as long as the connection that delivered its message, whatever the lease: once the connection is lost,
    the broker redelivers the message to another worker. If it redelivers it to this very process, the claim lasts on.

    `consumer` makes the consumer, from a function that wakes the worker. `queues` returns the logical queues of a
    worker that serves all. `settle` carries out an outcome, before its message is acknowledged; `unwrap` returns
    the envelope's bytes in a body.
    """

    poll = 1.0

    def __init__(
        self,
        consumer: Callable[[Callable[[], None]], AmqpConsumer],
        *,
        clock: Clock,
        queues: Callable[[], Iterable[str]],
        settle: Callable[[Outcome], None],
        unwrap: Callable[[bytes], bytes] = bytes,
    ) -> None:
        self.clock = clock
        self._queues = queues
        self._settle = settle
        self._unwrap = unwrap
        self._listeners = Listeners()
        self._claimed: dict[int, AmqpDelivery] = {}
        self._tokens = itertools.count(1)
        self.consumer = consumer(self._listeners.tell)

    def claim(
        self,
        *,
        queues: Sequence[str] | None,
        limit: int,
        lease: timedelta,  # noqa: ARG002  # the connection is the lease
        worker: str,
    ) -> Sequence[JobClaim]:
        served = tuple(self._queues()) if queues is None else queues
        claims = []
        for delivery in self.consumer.take(served, limit):
            token = next(self._tokens)
            self._claimed[token] = delivery
            claim = JobClaim(delivery.id, self._unwrap(delivery.body), token, delivery.redelivered)
            if delivery.fault is None:
                claims.append(claim)
            else:
                self.settle(claim, self._refused(delivery.body, delivery.fault, worker))
        return claims

    def settle(self, claim: JobClaim, outcome: Outcome) -> bool:
        delivery = self._claimed.get(claim.token)
        if delivery is None:
            return False
        with delivery.lock:
            if not isinstance(outcome, Completed):  # nothing of it has to be sent, and it is recognised if redelivered
                if delivery.ended or not self.consumer.holds(delivery):
                    self._claimed.pop(claim.token, None)
                    return False
                self._settle(outcome)
            self._claimed.pop(claim.token, None)
            return self.consumer.acknowledge(delivery, at_once=False)

    def release(self, claims: Sequence[JobClaim]) -> None:
        for claim in claims:
            delivery = self._claimed.pop(claim.token, None)
            if delivery is not None:
                with delivery.lock:
                    if not delivery.ended:
                        self.consumer.give_back([delivery])

    def renew(self, claims: Sequence[JobClaim], lease: timedelta) -> Sequence[JobClaim]:  # noqa: ARG002
        def is_lost(claim: JobClaim) -> bool:
            delivery = self._claimed.get(claim.token)
            return delivery is None or self.consumer.is_lost(delivery)

        return [claim for claim in claims if is_lost(claim)]

    def recover(self) -> Sequence[LostJob]:
        return ()

    def next_due_at(self, queues: Sequence[str] | None) -> datetime | None:  # noqa: ARG002  # delays are the broker's
        return None

    def listen(self, wake: Callable[[], None]) -> None:
        self._listeners.add(wake)

    def close(self) -> None:
        self.consumer.close()

    def _refused(self, raw: bytes, fault: str, worker: str) -> Outcome:
        error = EnvelopeError(fault)
        failure = JobFailure.of(error, at=plain_moment(self.clock.now()), worker=worker, tries=0)
        return Abandoned(raw, failure, None, error)
