"""RQ with and without anyjob, in turn: one job a call, many at once, and its workers, with a process a job and without.

    python benchmarks/on_rq.py                           # on the server of ANYJOB_TEST_REDIS_URL
    python benchmarks/on_rq.py --rounds 9 --only simple

Both sides write JSON, and keep nothing of a job that is done. RQ alone loses a job whose worker is killed as it takes
it, ends a job that is killed as failed, and runs a second one of the same id: its enqueue is measured as most people
call it, without `unique`. Its worker has imported the job's module before it forks, as RQ's manual advises. (Not called
rq.py: `import rq` would find it.)
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from cost import mark
from redis import Redis
from rq import Queue
from side_by_side import NAMESPACE, URLS, Library, Workers, main

NATIVE_QUEUE = f"{NAMESPACE}-rq"
QUIET = "--quiet"
OURS = ["-m", "anyjob_rq", "worker", QUIET, "default"]
NATIVE = ["-c", "import on_rq, rq.cli; rq.cli.main()", "worker", QUIET, "--serializer", "json", NATIVE_QUEUE]


def send(to: str, number: int) -> None:  # noqa: ARG001
    """Be the job of the side without anyjob."""
    mark(number)


class RQAlone(Library):
    """A queue whose jobs are JSON."""

    name = "rq"
    queues: Mapping[str, Mapping[str, int]] = {}
    workers: Mapping[str, Workers] = {
        "worker, a process a job": Workers([*OURS, "-w", "anyjob_rq.RQJobWorker"], NATIVE, jobs=200),
        "worker, simple": Workers([*OURS, "-w", "anyjob_rq.RQSimpleJobWorker"], [*NATIVE, "-w", "rq.SimpleWorker"]),
    }

    def __init__(self, transport: str) -> None:
        super().__init__(transport)
        os.environ["RQ_REDIS_URL"] = self.url  # for the workers
        self.client = Redis.from_url(self.url)
        self.queue = Queue(NATIVE_QUEUE, connection=self.client, serializer="json")
        self.sent = 0

    def send(self, number: int) -> None:
        self.sent += 1
        self.queue.enqueue("on_rq.send", "a@b.c", number, job_id=f"{NAMESPACE}-{self.sent}", result_ttl=0)

    def purge(self, *, for_good: bool = False) -> None:
        super().purge(for_good=for_good)
        for key in self.client.scan_iter(f"rq:*{NAMESPACE}*", 1000):
            self.client.delete(key)
        self.client.srem("rq:queues", f"rq:queue:{NATIVE_QUEUE}")


if __name__ == "__main__":
    main(RQAlone, __doc__.partition("\n")[0], [transport for transport in URLS if transport == "redis"])
