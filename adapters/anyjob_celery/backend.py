"""Jobs on Celery: what every transport has in common."""

from __future__ import annotations

import os
import sys
import threading
from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

from anyjob.backend import BackendConfig, JobBackend, NativeCommand
from anyjob.errors import ConfigurationError, did_you_mean
from anyjob.executor import JobExecutor
from anyjob.worker import WorkerOptions

__all__ = ["POOLS", "CeleryBackend"]

POOLS: Final = ("prefork", "threads", "solo")


class CeleryBackend(JobBackend):
    """Sends jobs as Celery messages, which Celery's own worker runs. Enqueuing needs, and imports, no Celery.

    `options` are Celery's settings by their own names, but for `pool` (which the worker command uses: prefork, threads
    or solo).
    """

    def __init__(self, config: BackendConfig) -> None:
        self.config = config
        self.options = dict(config.options)
        self.pool: str = self.options.pop("pool", POOLS[0])
        if self.pool not in POOLS:
            raise ConfigurationError(
                f"backends.{config.alias}.options.pool: no pool {self.pool!r}.{did_you_mean(str(self.pool), POOLS)} "
                f"Pools: {', '.join(POOLS)}."
            )

    @property
    def url(self) -> str:
        """The broker's URL, as Celery knows it."""
        return self.config.url.partition("+")[2]

    def worker(self, executor: JobExecutor, options: WorkerOptions) -> NativeCommand:  # noqa: ARG002  # it loads its own
        """Return the command of Celery's worker; it finds the backend, and the URL, by anyjob's own settings."""
        argv = [sys.executable, "-m", "celery", "-A", "anyjob_celery.app", "worker"]
        argv += ["--concurrency", str(options.concurrency), "--pool", self.pool, "--loglevel", "INFO"]
        argv += ["--hostname", f"{self.config.namespace}-{os.getpid()}@%h"]  # two on a machine must not share a name
        argv += ["--without-gossip", "--without-mingle"]  # workers that tell each other what no job of ours needs
        if options.queues is not None:
            argv += ["--queues", ",".join(options.queues)]
        return NativeCommand(tuple(argv))

    @abstractmethod
    def native_queue(self, logical: str) -> Mapping[str, Any]:
        """Return the arguments of the kombu queue for a logical one."""

    @abstractmethod
    def transport_settings(self, stop: threading.Event) -> Mapping[str, Any]:
        """Return the Celery settings that this transport needs; `stop` is set while the worker stops."""

    def worker_steps(self) -> Sequence[Any]:
        """Return the bootsteps that this transport adds to a worker."""
        return ()

    def give_back_held(self) -> None:
        """Let go of what this worker holds, uncharged, before its process ends. A broker may do so by itself."""
        return

    def keep_held(self, tags: Collection[str]) -> None:  # noqa: ARG002
        """After a lost connection: hold on to nothing but these, which still run. A broker may do so by itself."""
        return
