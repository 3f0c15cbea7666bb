"""The risks of each RabbitMQ version; tests/adapters/test_amqp_servers.py proves them.

`anyjob doctor` asks. A client can't see changes by a policy or by the server's own settings, so the risk names these.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from anyjob_amqp.links import Links, translated

__all__ = ["RabbitServer"]


class RabbitServer:
    """A server, as it described itself at the connection."""

    def __init__(self, told: Mapping[str, Any]) -> None:
        self.version = str(told.get("version", ""))
        digits = [int(part) for part in self.version.split(".")[:2] if part.isdigit()]
        self.release = tuple(digits) if told.get("product") == "RabbitMQ" else ()
        """Major and minor; empty if it is another product, or names none."""

    @classmethod
    def behind(cls, links: Links) -> RabbitServer:
        """Return the server that links lead to. Raises `EnqueueError`."""
        with translated(), links.link() as link:
            return cls(link.connection.server_properties)

    @property
    def limits_channels(self) -> bool:
        """Whether it limits, if asked to (`global_qos`), how many messages all consumers of a channel hold together."""
        return self.release < (4, 3)  # which says nothing, and limits each consumer

    @property
    def drops_after(self) -> int | None:
        """How many deliveries a message survives in a quorum queue that has no limit of its own."""
        return 20 if self.release >= (4, 0) else None

    def risk_of_several(self, queues: Collection[str], *, limits_channels: bool) -> Iterator[str]:
        """Tell how many jobs a worker of several queues holds, if the limit is not for all of them together."""
        if len(queues) > 1 and not limits_channels:
            yield (
                f"queues: on RabbitMQ {self.version} a worker's limit is each queue's own: one that serves "
                f"{len(queues)} queues may hold {len(queues)} jobs for each that it runs, and they wait for it while "
                "other workers are idle. Give each queue workers of its own (-Q)"
            )

    def risk_of_quorum(self, queues: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
        """Tell in which quorum queues, by their arguments, jobs get lost that are delivered often."""
        for name, arguments in queues.items():
            limit = arguments.get("x-delivery-limit", self.drops_after)
            if limit is not None and limit >= 0 and "x-dead-letter-exchange" not in arguments:
                yield (
                    f"queue {name}: RabbitMQ {self.version} drops from a quorum queue, in silence, what was delivered "
                    f"{limit + 1} times; each end of a worker that holds a job counts, begun or not. Give "
                    "it a dead-letter exchange, or no limit: x-delivery-limit -1, or a policy with delivery-limit -1, "
                    "which can't be seen from here"
                )
