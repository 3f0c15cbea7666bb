"""Celery applications of a user's own, that send past anyjob, and what their workers would get."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from celery import Celery
from kombu import Queue
from msgspec import Raw
from rabbit import amqp_url, connect
from redis import Redis
from servers import redis_url

from anyjob import JobEnvelope, JobFilter, JobPriority, JobState
from anyjob.base.envelope import write_envelope
from anyjob.seams.backend import BackendConfig
from anyjob.seams.inspector import JobInspector
from anyjob.seams.natives import NativeJob, NativeMessage
from anyjob.settings.loader import load_backend
from anyjob.testing import FakeClock
from anyjob.testing.probes.journal import wait_until
from anyjob_celery.existing import ExistingCeleryBackend

__all__ = ["CHOSEN", "WAITS", "OwnApp", "ReadSends", "drained", "own_app", "running_worker"]

WAITS: Final = frozenset({JobState.WAITING, JobState.SCHEDULED})
CHOSEN: Final = JobFilter(states=WAITS, where=lambda job: job.envelope is not None)


class ReadSends:
    """Makes jobs of the calls of `shop.send`, and keeps the messages by their id."""

    def __init__(self, clock: FakeClock) -> None:
        self.messages: dict[str, NativeMessage] = {}
        self._clock = clock

    def __call__(self, message: NativeMessage) -> NativeJob:
        self.messages[message.id] = message
        is_chosen = message.task == "shop.send"
        raw = write_envelope(self._job(message)) if is_chosen and message.obstacle is None else b""
        is_later = message.due_at is not None and message.due_at > self._clock.now()
        return NativeJob(
            message.id,
            JobState.SCHEDULED if is_later else JobState.WAITING,
            raw,
            queue=message.queue,
            task=message.task,
            is_chosen=is_chosen,
            obstacle=message.obstacle,
        )

    def _job(self, message: NativeMessage) -> JobEnvelope:
        now = self._clock.now()
        return JobEnvelope(
            1, message.id, "send", Raw(b"{}"), "default", JobPriority.NORMAL, now, now, due_at=message.due_at
        )


class OwnApp:
    """An application on a shared server, under a name of its own, with the queues `<name>` and `<name>.mail`."""

    def __init__(self, name: str, broker: str, settings: Mapping[str, Any]) -> None:
        self.name = name
        self.mail = f"{name}.mail"
        self.broker = broker
        self.app: Celery = Celery(name, broker=broker, set_as_current=False)
        self.app.conf.update(
            task_default_queue=name, task_queues=[Queue(name), Queue(self.mail)], control_exchange=name, **settings
        )
        self.clock = FakeClock()
        self._backends: list[ExistingCeleryBackend] = []

    def backend(self) -> ExistingCeleryBackend:
        """Return a new backend, as another process has it."""
        module = sys.modules[self.name] = ModuleType(self.name)
        module.app = self.app  # type: ignore[attr-defined]
        backend = load_backend(
            BackendConfig(alias="app", url=f"celery://?app={self.name}:app", namespace=self.name, clock=self.clock)
        )
        assert isinstance(backend, ExistingCeleryBackend)
        self._backends.append(backend)
        return backend

    def send(self, *args: Any, task: str = "shop.send", **options: Any) -> str:
        """Send a message past anyjob; return its id."""
        sent: str = self.app.send_task(task, args=args, **options).id
        return sent

    def read(self, *queues: str) -> Mapping[str, NativeMessage]:
        """Return all native messages in these queues (all queues) by their ids, in order; they stay."""
        read = ReadSends(self.clock)
        drained(self.backend().native_inspector(read, queues or None))
        return read.messages

    def left(self, queue: str | None = None) -> Sequence[str]:
        """Return the ids of what a worker of a queue gets, in this order. It is gone then."""
        ids = []
        with self.app.connection_for_read() as connection:
            bound = self.app.amqp.queues[queue or self.name](connection.default_channel)
            bound.declare()
            while (message := bound.get(no_ack=True, accept=["json", "pickle"])) is not None:
                ids.append(message.headers.get("id") or message.payload["id"])
        return ids

    def close(self) -> None:
        for backend in self._backends:
            backend.close()
        self.app.pool.force_close_all()


@contextmanager
def own_app(kind: str, **settings: Any) -> Iterator[OwnApp]:
    """Lend an application on the shared server of a kind, redis or amqp; nothing stays behind there."""
    name = f"natives{secrets.token_hex(5)}"
    redis = kind == "redis"
    broker = redis_url() if redis else amqp_url()
    # By these options kombu also tells its pools of connections apart.
    told = {"connection_name": name}
    options = {"global_keyprefix": f"{name}:"} if redis else {"client_properties": told, "confirm_publish": True}
    settings = {"broker_transport_options": options, **settings}
    own = OwnApp(name, broker, settings)
    try:
        yield own
    finally:
        own.close()
        sys.modules.pop(name, None)
        if redis:
            with Redis.from_url(broker) as client:
                for key in client.scan_iter(f"{name}*"):
                    client.delete(key)
        else:
            with connect(broker) as connection, connection.channel() as channel:
                for queue in (name, own.mail, f"{name}:parked", f"{name}:native:queues"):
                    channel.queue_delete(queue)
                for exchange in (name, f"{name}.mail", f"{name}.pidbox", f"reply.{name}.pidbox"):
                    channel.exchange_delete(exchange)


def drained(inspector: JobInspector) -> Sequence[NativeJob]:
    """Return what comes past, in order; all of it goes back."""
    with inspector.hold(JobFilter(states=WAITS), holder="looks", ahead=3) as taken:
        return [each.job for each in taken if isinstance(each.job, NativeJob)]


@contextmanager
def running_worker(shop: OwnApp, folder: Path, host: str, tasks: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a worker of the application's, which has a program of its own and knows these tasks; lend its process."""
    options = shop.app.conf.broker_transport_options
    program = _WORKER.format(broker=shop.broker, name=shop.name, options=options)
    (folder / f"of_{shop.name}.py").write_text(program)
    argv = [sys.executable, "-m", "celery", "-A", f"of_{shop.name}", "worker", "-P", "solo", "-n", host]
    process = subprocess.Popen(
        [*argv, "--without-gossip", "--without-mingle"],
        cwd=folder,
        env={**os.environ, "TASKS": tasks},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_until(lambda: host in (shop.app.control.inspect(timeout=0.5).ping() or {}), timeout=60, what=host)
        yield process
    finally:
        process.kill()
        process.wait()


_WORKER: Final = """
import os
from celery import Celery

app = Celery("worker", broker={broker!r})
app.conf.update(
    task_default_queue={name!r},
    control_exchange={name!r},
    broker_transport_options={options!r},
    worker_enable_remote_control=True,
)

def run(*args):
    pass

for task in os.environ["TASKS"].split():
    app.task(run, name=task)
"""
