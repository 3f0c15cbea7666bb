"""A TCP proxy in front of a server: a test closes the connections of one worker, and of nobody else."""

from __future__ import annotations

import select
import socket
import threading
from contextlib import suppress
from types import TracebackType
from typing import Self

__all__ = ["Proxy"]


class Proxy:
    """Passes on whatever comes to `port` of this machine; use as a context manager. Thread-safe."""

    def __init__(self, host: str, port: int) -> None:
        self._server = (host, port)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self._pairs: set[tuple[socket.socket, socket.socket]] = set()
        self._lock = threading.Lock()

    def cut(self) -> int:
        """Close every connection, as a network that resets them does; return how many. New ones are passed on."""
        with self._lock:
            for end in (end for pair in self._pairs for end in pair):
                with suppress(OSError):  # it has just ended by itself
                    end.shutdown(socket.SHUT_RDWR)
            return len(self._pairs)

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self.cut()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listening.accept()
            except OSError:
                return  # closed
            try:
                far = socket.create_connection(self._server, timeout=5)
            except OSError:
                near.close()
                continue
            threading.Thread(target=self._pass_on, args=(near, far), daemon=True).start()

    def _pass_on(self, near: socket.socket, far: socket.socket) -> None:
        with self._lock:
            self._pairs.add((near, far))
        try:
            other = {near: far, far: near}
            while True:
                for end in select.select([near, far], [], [])[0]:
                    data = end.recv(65536)
                    if not data:
                        return
                    other[end].sendall(data)
        except OSError:
            return  # one end is gone, so both are
        finally:
            with self._lock:
                self._pairs.discard((near, far))
                near.close()
                far.close()
