"""An application with workers in processes of their own, on a real Redis."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import uuid
from pathlib import Path
from types import TracebackType
from typing import Self

import redis
import rq_jobs

from anyjob import JobManager
from anyjob.current import default_registry
from anyjob.seams.backend import BackendConfig, NativeCommand
from anyjob.seams.worker_options import WorkerOptions
from anyjob.testing.probes.journal import wait_until
from anyjob_rq import RQBackend

HERE = Path(__file__).parent


class WorkerProcess:
    """`rq worker`, or a pool of them, as a process."""

    def __init__(self, command: NativeCommand, environ: dict[str, str], log: Path) -> None:
        self._log = log
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                command.argv,
                env={**os.environ, **command.environment, **environ},
                stdout=output,
                stderr=output,
                cwd=log.parent,
            )
        self.pid = self._process.pid

    @property
    def horses(self) -> list[int]:
        """The processes that run jobs at this moment."""
        with contextlib.suppress(OSError):
            return [int(pid) for pid in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()]
        return []

    def says(self, text: str) -> bool:
        return text in self.output()

    def output(self) -> str:
        return self._log.read_text()

    def kill(self) -> None:
        """Kill -9 the worker and what it runs."""
        horses = self.horses
        self._process.kill()
        self._process.wait()
        for pid in horses:
            kill_process(pid)

    def kill_horse(self) -> None:
        for pid in self.horses:
            kill_process(pid)

    def kill_main(self) -> None:
        """Kill -9 the worker alone; its horse goes on."""
        self._process.kill()
        self._process.wait()

    def terminate(self) -> None:
        self._process.terminate()

    def wait(self, timeout: float = 15.0) -> int:
        return self._process.wait(timeout)

    @property
    def runs(self) -> bool:
        return self._process.poll() is None


def kill_process(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


class World:
    """A backend and a manager here, workers elsewhere, a log of what ran. Leaves nothing behind."""

    def __init__(self, url: str, directory: Path, *, lease: float = 1.0, queues: tuple[str, ...] | None = None) -> None:
        self.namespace = f"t{uuid.uuid4().hex[:10]}"
        self.url = url
        self.lease = lease
        self.log = directory / "ran.log"
        self.directory = directory
        self.backend = RQBackend(
            BackendConfig(alias="main", url=f"rq+{url}", namespace=self.namespace, lease=lease, queues=queues)
        )
        self.client: redis.Redis = redis.Redis.from_url(url)
        self.manager = JobManager(self.backend, registry=default_registry)
        self.workers: list[WorkerProcess] = []

    def start_worker(
        self, *queues: str, concurrency: int = 1, stop_timeout: float = 10.0, ready: bool = True, **environ: str
    ) -> WorkerProcess:
        options = WorkerOptions(queues=queues or None, concurrency=concurrency)
        command = self.backend.native_worker(options)
        log = self.directory / f"worker-{len(self.workers)}.log"
        worker = WorkerProcess(command, self.environment(stop_timeout) | environ, log)
        self.workers.append(worker)
        if ready:
            wait_until(
                lambda: worker.output().count("Listening on") >= concurrency, timeout=15, what="a listening worker"
            )
        return worker

    def environment(self, stop_timeout: float = 10.0) -> dict[str, str]:
        return {
            "ANYJOB_APP": rq_jobs.__name__,
            "ANYJOB_BACKEND": f"rq+{self.url}",
            "ANYJOB_NAMESPACE": self.namespace,
            "ANYJOB_LEASE": str(self.lease),
            "ANYJOB_STOP_TIMEOUT": str(stop_timeout),
            "ANYJOB_TEST_LOG": str(self.log),
            "PYTHONPATH": str(HERE),
        }

    def send(self, name: str, *, queue: str | None = None, **args: object) -> str:
        return self.manager.enqueue_by_name(name, args, queue=queue)

    def ran(self, *begin: str) -> list[list[str]]:
        """Return the lines that jobs wrote, those that begin with these words."""
        lines = [line.split() for line in self.log.read_text().splitlines()] if self.log.exists() else []
        return [line for line in lines if line[: len(begin)] == list(begin)]

    def is_empty(self) -> bool:
        """Whether no job is left but what is parked, and nothing of RQ's or ours that belongs to one."""
        patterns = [f"rq:job:{self.namespace}-*", f"rq:queue:{self.namespace}:*", f"rq:scheduled:{self.namespace}:*"]
        patterns += [f"rq:wip:{self.namespace}:*", f"rq:execution*:{self.namespace}-*", f"{self.namespace}:held:*"]
        return not any(key for pattern in patterns for key in self.client.scan_iter(pattern))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self.workers:
            worker.kill()
        for worker in self.workers:
            sys.stderr.write(worker.output())  # pytest shows it if the test failed
        self.manager.close()
        with contextlib.suppress(redis.RedisError):
            self._clear()
        self.client.close()

    def _clear(self) -> None:
        keys = [key for pattern in (f"{self.namespace}:*", f"rq:*{self.namespace}*") for key in self._keys(pattern)]
        workers = [key for key in self._keys("rq:worker:*") if self._is_of_our_worker(key)]
        foreign = [key for key in self._keys("rq:job:*") if self._is_in_our_queues(key)]
        if keys := [*keys, *workers, *foreign]:
            self.client.delete(*keys)
        if workers:
            self.client.srem("rq:workers", *workers)
        members = [each for each in self.client.sscan_iter("rq:queues") if self.namespace.encode() in each]
        if members:
            self.client.srem("rq:queues", *members)

    def _keys(self, pattern: str) -> list[bytes]:
        return list(self.client.scan_iter(pattern))

    def _is_of_our_worker(self, key: bytes) -> bool:
        ours = self.namespace.encode()
        if key.endswith(b":executions"):
            return any(ours in member for member in self.client.smembers(key))
        return ours in (self.client.hget(key, "queues") or b"")

    def _is_in_our_queues(self, key: bytes) -> bool:
        return self.client.type(key) == b"hash" and self.namespace.encode() in (self.client.hget(key, "origin") or b"")
