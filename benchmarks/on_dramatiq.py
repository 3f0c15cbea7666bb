"""Dramatiq with and without anyjob, in turn, on both transports: one job a call, many at once, and the worker.

    python benchmarks/on_dramatiq.py                     # both transports, on the servers of ANYJOB_TEST_*_URL
    python benchmarks/on_dramatiq.py redis --rounds 3

Both sides have the same safe settings: JSON, heartbeats and maintenance that bring a dead worker's jobs back within a
minute on Redis, confirmed publishes on RabbitMQ. The native side keeps its prefetch of 2, by which a worker holds jobs
that it does not run: with 1 its consumer sleeps between jobs, and takes 7 ms for each. (Not called dramatiq.py: `import
dramatiq` would find it.)
"""

from __future__ import annotations

import os
from collections.abc import Mapping

import dramatiq
from cost import mark
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from dramatiq.brokers.redis import RedisBroker
from side_by_side import NAMESPACE, URLS, Library, Workers, main

NATIVE_QUEUE = f"{NAMESPACE}-dramatiq"
LEVELS = {"x-max-priority": 4}


class DramatiqAlone(Library):
    """A broker with the safe settings."""

    name = "dramatiq"
    workers: Mapping[str, Workers] = {
        f"worker, {threads} thread{'s' * (threads > 1)}": Workers(
            ["-m", "dramatiq", "anyjob_dramatiq.app", "-p", "1", "-t", f"{threads}"],
            ["-m", "dramatiq", "on_dramatiq", "-p", "1", "-t", f"{threads}"],
        )
        for threads in (1, 8)
    }

    def __init__(self, transport: str) -> None:
        super().__init__(transport)
        self.actor = actor_of(transport)

    @property
    def queues(self) -> Mapping[str, Mapping[str, int]]:
        dead = {"x-message-ttl": 604_800_000}
        onward = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": f"{NATIVE_QUEUE}.XQ"}
        return {
            f"{NAMESPACE}.dramatiq.default": LEVELS,
            f"{NATIVE_QUEUE}.XQ": dead,
            f"{NATIVE_QUEUE}.DQ": {**onward, **LEVELS},
            NATIVE_QUEUE: {**onward, **LEVELS},
        }

    def send(self, number: int) -> None:
        self.actor.send("a@b.c", number)


def actor_of(transport: str):  # type: ignore[no-untyped-def]
    """Return the actor without anyjob, on the broker that is the global one from here on."""
    broker: dramatiq.Broker
    if transport == "redis":
        # A sender that looks after the dead with each command takes longer; its worker alone will do.
        chance = 1_000_000 if "BENCH_NATIVE" in os.environ else 1_000
        broker = RedisBroker(
            url=URLS["redis"],
            namespace=f"{NAMESPACE}-native",
            heartbeat_timeout=30_000,
            maintenance_chance=chance,
        )
    else:
        broker = RabbitmqBroker(url=URLS["amqp"], confirm_delivery=True, max_priority=4)
    dramatiq.set_broker(broker)

    @dramatiq.actor(actor_name="bench.native", queue_name=NATIVE_QUEUE, max_retries=0)
    def send(to: str, number: int) -> None:  # noqa: ARG001
        mark(number)

    return send


if "BENCH_NATIVE" in os.environ:  # the worker without anyjob imports this module
    actor_of(os.environ["BENCH_NATIVE"])

if __name__ == "__main__":
    main(DramatiqAlone, __doc__.partition("\n")[0])
