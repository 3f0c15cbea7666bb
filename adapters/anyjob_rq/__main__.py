"""RQ's own command line, whose `worker` starts on a full server as well."""

from __future__ import annotations

from redis import Redis
from rq.cli import workers
from rq.cli.cli import main
from rq.suspension import WORKERS_SUSPENDED

__all__: list[str] = []


def _is_suspended(connection: Redis) -> bool:
    """RQ asks this in a transaction, and Redis refuses any, even of reads, once its memory is used up."""
    return bool(connection.exists(WORKERS_SUSPENDED))


setattr(workers, "is_suspended", _is_suspended)  # noqa: B010  # nothing public tells it otherwise
main(prog_name="rq")
