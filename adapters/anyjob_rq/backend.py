"""RQ as a backend: jobs in RQ's own queues, one per level, run by RQ's own worker with our class."""

from __future__ import annotations

import sys
from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Final

from redis import Redis

from anyjob.extend import (
    BackendConfig,
    Capabilities,
    ConfigurationError,
    JobBackend,
    JobEnvelope,
    JobFailure,
    NativeCommand,
    ReadNative,
    UnsupportedCapabilityError,
    WorkerOptions,
)
from anyjob_redis.connection import connect, refuse_decoding
from anyjob_redis.inspector import ON_REDIS, RedisInspector
from anyjob_redis.moved import RedisMarks
from anyjob_redis.native import inspector_of_natives, risks_of_held
from anyjob_redis.parked import ParkedJobs
from anyjob_redis.skew import ClockSkew
from anyjob_redis.urls import plain_url
from anyjob_rq.messages import Messages
from anyjob_rq.names import Names, root_of
from anyjob_rq.native import RQNatives
from anyjob_rq.places import RQPlaces

__all__ = ["ALL_QUEUES", "RQBackend"]

ALL_QUEUES: Final = "*"
"""Names all queues on a worker's command line. (RQ serves `default` if the command line names no queue.)"""


class RQBackend(JobBackend):
    """Sends jobs to RQ. The scheme is `rq+redis:`, `rq+rediss:` or `rq+unix:`; the rest of the URL is redis-py's.

    `options` are those of `redis.Redis`. A `connection` of the application's own is used as it is, its timeouts and
    retries included (jobs are sent once all the same); the URL then only tells which.
    """

    inspector: RedisInspector
    marks: RedisMarks

    def __init__(self, config: BackendConfig, *, connection: Redis | None = None) -> None:
        self.config = config
        self._own_connection = connection
        within = config.enqueue_timeout if connection is None else None  # else its own time-outs are in force
        if connection is None:
            connection = connect(config, self._url)
        else:
            refuse_decoding(connection, config.alias)
        self.client = connection
        self.messages = Messages(connection, Names(config.namespace), config.clock, within)
        self.capabilities = _capabilities(config.lease)
        root = root_of(config.namespace)
        parked, self.marks = ParkedJobs(connection, root, config.clock), RedisMarks(connection, root)
        self.inspector = RedisInspector(
            parked,
            RQPlaces(self.messages, config.clock, config.lease),
            resend=self.resend,
            clock=config.clock,
            capabilities=self.capabilities,
        )

    def send(self, envelopes: Sequence[JobEnvelope], *, once: str | None = None) -> None:
        self.messages.send(envelopes, moved=self.marks.key_of(once))

    def resend(self, envelope: JobEnvelope) -> None:
        self.messages.send([envelope], again=True)

    def park(self, raw: bytes, failure: JobFailure) -> str:
        return self.inspector.park(raw, failure)

    def native_worker(self, options: WorkerOptions) -> NativeCommand:
        if self._own_connection is not None:
            raise ConfigurationError(
                f"Backend {self.config.alias!r} has a connection of the application's own, which no command line can "
                "hold. Start the worker in code: "
                "RQJobWorker([ALL_QUEUES], backend=backend, executor=manager.executor).work()."
            )
        several = options.concurrency > 1
        start = ["worker-pool", "--num-workers", str(options.concurrency)] if several else ["worker"]
        if options.burst:
            start.append("--burst")
        if options.max_jobs is not None:
            if several:
                raise UnsupportedCapabilityError(
                    f"Backend {self.config.alias!r}: RQ's worker-pool, which runs several jobs at a time, counts none. "
                    "With max_jobs, start several workers with a concurrency of 1."
                )
            start += ["--max-jobs", str(options.max_jobs)]
        queues = options.queues or self.config.queues or (ALL_QUEUES,)
        argv = (sys.executable, "-m", "anyjob_rq", *start, "--worker-class", "anyjob_rq.RQJobWorker", *queues)
        return NativeCommand(argv, {"RQ_REDIS_URL": plain_url(self._url, self.config.options)})

    def native_inspector(self, read: ReadNative, queues: Collection[str] | None = None) -> RedisInspector:
        layout = RQNatives(self.client, self.messages.names, read, queues)
        root, clock = root_of(self.config.namespace), self.config.clock
        return inspector_of_natives(self.client, root, layout, resend=self.resend, clock=clock)

    def look_for_risks(self) -> Sequence[str]:
        skew = ClockSkew(self.client, self.config.clock)
        return [*skew.risks(), *risks_of_held(self.client, root_of(self.config.namespace))]

    def close(self) -> None:
        if self._own_connection is None:
            self.client.close()

    @property
    def _url(self) -> str:
        return self.config.url.partition("+")[2]


def _capabilities(lease: float) -> Capabilities:
    return replace(
        ON_REDIS,
        bounded_worker=True,
        unique_ids=True,
        # A lease, checked three times in its length, and a second to give the jobs back (some 50,000 messages).
        redelivery_bound=timedelta(seconds=lease * 4 / 3 + 1),
        exact_loss_count=True,
        hard_time_limit=True,  # each job has a process of its own, except in a RQSimpleJobWorker
    )
