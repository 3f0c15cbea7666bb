"""A redis-server of the test's own, which the kit may kill, and the harness of a backend on it."""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, Generic, Self, TypeVar

import pytest

from anyjob.testing.conformance.processes import ServerHarness, ServerWorld
from anyjob.testing.probes.journal import wait_until

__all__ = ["PrivateRedis", "RedisHarness", "free_port", "program", "unavailable"]

TWorld = TypeVar("TWorld", bound=ServerWorld)


def unavailable(why: str) -> None:
    """Skip the test, with the reason; in CI, where every server is promised, fail it."""
    if os.environ.get("CI"):
        pytest.fail(why)
    pytest.skip(why)


def program(name: str) -> str | None:
    """Return the program of a server: of the folder `ANYJOB_TEST_SERVERS`, if that is said; else of the path."""
    return shutil.which(name, path=os.environ.get("ANYJOB_TEST_SERVERS"))


def free_port() -> int:
    """Return a port that nobody listens on, and that nobody is given by chance before it is used."""
    for port in _PORTS:
        with socket.socket() as bound, suppress(OSError):
            bound.bind(("127.0.0.1", port))
            return port
    raise AssertionError("there is no free port left")


def _ports() -> Iterator[int]:
    # Not what the system has free: the next connection of another test may go out from there. And each of several
    # processes has ports of its own.
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    first = 20_000 + worker % 12 * 1_000
    return iter(random.sample(range(first, first + 1_000), 1_000))


_PORTS: Final = _ports()


class PrivateRedis:
    """A redis-server, not started, which keeps what it was given (AOF) through `kill` and `start`; files in `folder`.

    Without a `redis-server` (see `program`) the test is skipped; with `CI` set it fails.
    """

    def __init__(self, folder: Path) -> None:
        found = program("redis-server")
        if found is None:
            unavailable("there is no redis-server program to start a private one")
        self._program = str(found)
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> Self:
        """Start it, and return once it answers."""
        options = {"port": str(self.port), "bind": "127.0.0.1", "dir": str(self._folder), "save": ""}
        # Not `everysec`: on a slow disk that puts off the write itself, by 2 s, and a kill loses what was answered.
        options |= {"appendonly": "yes", "appendfsync": "no", "logfile": "redis.log"}
        argv = [self._program, *(part for name, value in options.items() for part in (f"--{name}", value))]
        self._process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, start_new_session=True)
        wait_until(self._answers, what=f"redis-server to answer at {self.port}")
        return self

    def stop(self) -> None:
        """End it in order: nothing that it was given is lost."""
        self._end(subprocess.Popen.terminate)

    def kill(self) -> None:
        """End it as `kill -9` does."""
        self._end(subprocess.Popen.kill)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Let it accept and not answer, in the body; what it was sent it does afterwards."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        """End it; its files stay."""
        self.kill()

    def _end(self, how: Callable[[subprocess.Popen[bytes]], None]) -> None:
        if self._process is not None:
            how(self._process)
            self._process.wait()
            self._process = None

    def _answers(self) -> bool:
        # By hand, for nothing here needs a client; while it still loads what it kept, it says so instead.
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(64).startswith(b"+PONG")
        return False


class RedisHarness(ServerHarness, Generic[TWorld]):
    """Worlds on a Redis of their own. A subclass says what its URLs begin with (`library`), and which worlds."""

    library: str
    """`rq` of `rq+redis://`; empty for plain `redis://`."""
    world: type[TWorld]
    restartable = True

    def __init__(self, server: PrivateRedis) -> None:
        super().__init__(f"{self.library}+{server.url}".removeprefix("+"))
        self._server = server
        server.start()

    def open(self, folder: Path, **settings: Any) -> TWorld:
        return self.world(self.url, folder, settings)

    def url_at(self, host: str, port: int) -> str:
        return f"{self.library}+redis://{host}:{port}/0".removeprefix("+")

    def stop_server(self) -> None:
        self._server.kill()

    def start_server(self) -> None:
        self._server.start()

    def close(self) -> None:
        self._server.kill()
