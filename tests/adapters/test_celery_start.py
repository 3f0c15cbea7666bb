"""Celery's worker when it loses its very first connection to RabbitMQ, in the middle of its start."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from celery_worlds import celery_amqp_harness

from anyjob.testing.conformance.processes import QUEUES, WorkerProcess

pytestmark = pytest.mark.timeout(90)


@contextmanager
def cut_at(mark: bytes, host: str, port: int) -> Iterator[tuple[int, threading.Event]]:
    """Pass on to a server, but cut the second connection that sends `mark`; give the port, and what is set then.

    The first is that of `anyjob worker`, which asks whether the server answers before Celery begins.
    """
    asked, cut = set[socket.socket](), threading.Event()

    def pass_on(client: socket.socket, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError), source, target:
            while data := source.recv(65536):
                if mark in data:
                    asked.add(client)
                if len(asked) > 1 and not cut.is_set():
                    cut.set()
                    target.shutdown(socket.SHUT_RDWR)
                    source.shutdown(socket.SHUT_RDWR)
                    return
                target.sendall(data)

    def accept() -> None:
        with suppress(OSError), ExitStack() as opened:
            while True:
                client = opened.enter_context(listening.accept()[0])
                server = opened.enter_context(socket.create_connection((host, port)))
                for source, target in ((client, server), (server, client)):
                    threading.Thread(target=pass_on, args=(client, source, target), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield listening.getsockname()[1], cut
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join()


def test_a_worker_outlives_the_loss_of_its_first_connection(tmp_path: Path) -> None:
    harness = celery_amqp_harness()
    with harness.open(tmp_path) as world:
        broker = urlsplit(world.url)
        world.enqueue("job")
        queue = f"{world.namespace}.default".encode()
        with cut_at(queue, str(broker.hostname), broker.port or 5672) as (port, cut):
            address = broker._replace(netloc=f"{broker.username}:{broker.password}@127.0.0.1:{port}")
            worker = world.start_worker(backends={"main": {"url": address.geturl(), "queues": list(QUEUES)}})
            world.journal.wait(1)
            assert cut.is_set()
            assert isinstance(worker, WorkerProcess)
            assert worker.process.poll() is None
            worker.kill()
    harness.close()
