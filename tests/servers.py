"""Servers for tests: a shared one that is only used, private ones that may be killed."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import NoReturn, Self

import pytest
import redis

REDIS_URL = os.environ.get("ANYJOB_TEST_REDIS_URL", "redis://localhost:6379/0")


def redis_url() -> str:
    """Return the URL of the shared Redis. Without one the test is skipped here, and fails in CI."""
    try:
        with redis.Redis.from_url(REDIS_URL, socket_connect_timeout=2, socket_timeout=2) as client:
            client.ping()
    except redis.RedisError as error:
        _do_without(f"no Redis at ANYJOB_TEST_REDIS_URL: {error}")
    return REDIS_URL


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def wait_until(condition: Callable[[], object], timeout: float = 10.0, what: str = "the condition") -> None:
    """Wait on a condition, with a deadline that only a failing test reaches."""
    deadline = time.monotonic() + timeout
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < deadline, f"{what} never came true"
        pause.wait(0.005)


class PrivateRedis:
    """A redis-server of the test's own, with an append-only file, to be stopped and killed."""

    def __init__(self, directory: Path, *options: str) -> None:
        program = shutil.which("redis-server")
        if program is None:
            _do_without("redis-server is not installed")
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._argv = [program, "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(directory)]
        self._argv += ["--appendonly", "yes", "--appendfsync", "everysec", "--save", "", *options]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> Self:
        """Start it, with what it had, and wait until it answers."""
        self._process = subprocess.Popen(self._argv, stdout=subprocess.DEVNULL)
        wait_until(self._answers, what="the private Redis")
        return self

    def stop(self) -> None:
        """Let it end in order."""
        self._end(subprocess.Popen.terminate)

    def kill(self) -> None:
        """Kill it with -9."""
        self._end(subprocess.Popen.kill)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Let it accept and not answer, in the body; what it was sent it does afterwards."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    def client(self) -> redis.Redis:
        return redis.Redis.from_url(self.url)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def _end(self, how: Callable[[subprocess.Popen[bytes]], None]) -> None:
        if self._process is not None:
            how(self._process)
            self._process.wait()
            self._process = None

    def _answers(self) -> bool:
        with contextlib.suppress(redis.RedisError), self.client() as client:
            return bool(client.ping())
        return False


def _do_without(why: str) -> NoReturn:
    if os.environ.get("CI") == "true":
        pytest.fail(why)
    pytest.skip(why)
