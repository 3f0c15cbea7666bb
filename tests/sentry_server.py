"""A Sentry that takes reports over TLS, for tests of what applications report from their workers."""

from __future__ import annotations

import gzip
import json
import ssl
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import trustme

__all__ = ["SentryServer", "error_of", "sentry_server", "trace_of"]


class SentryServer:
    """What was reported so far, each as the JSON of Sentry's protocol. Thread-safe."""

    def __init__(self, dsn: str, ca_certs: Path) -> None:
        self.dsn = dsn
        self.ca_certs = ca_certs
        """The option of that name for `sentry_sdk.init`."""
        self._items: list[tuple[str, dict[str, Any]]] = []

    @property
    def errors(self) -> Sequence[dict[str, Any]]:
        """The events: errors, and log records that count as such."""
        return [item for kind, item in list(self._items) if kind == "event"]

    @property
    def transactions(self) -> Sequence[dict[str, Any]]:
        """The finished traces, their spans inside."""
        return [item for kind, item in list(self._items) if kind == "transaction"]

    def take(self, envelope: bytes) -> None:
        """Note what an envelope holds: a line of JSON, then for each item one that says how long it is."""
        _, _, rest = envelope.partition(b"\n")
        while rest:
            line, _, rest = rest.partition(b"\n")
            header = json.loads(line)
            length = header["length"]
            if header["type"] in {"event", "transaction"}:
                self._items.append((header["type"], json.loads(rest[:length])))
            rest = rest[length:].removeprefix(b"\n")


@contextmanager
def sentry_server(folder: Path) -> Iterator[SentryServer]:
    """Serve on a port of this machine, with a certificate that only the file `ca_certs`, made in `folder`, proves."""
    authority, ca_certs = trustme.CA(), folder / "sentry-ca.pem"
    authority.cert_pem.write_to_path(str(ca_certs))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    httpd = ThreadingHTTPServer(("localhost", 0), _Handler)
    httpd.socket = context.wrap_socket(httpd.socket, server_side=True)
    sentry = httpd.sentry = SentryServer(f"https://key@localhost:{httpd.server_port}/1", ca_certs)  # type: ignore[attr-defined]
    thread = threading.Thread(target=httpd.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield sentry
    finally:
        httpd.shutdown()
        httpd.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        self.server.sentry.take(body)  # type: ignore[attr-defined]
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


def trace_of(event: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return to which trace an event belongs, and how its span ended."""
    trace: Mapping[str, Any] = event["contexts"]["trace"]
    return trace


def error_of(event: Mapping[str, Any]) -> tuple[str, ...]:
    """Return transaction, type, message, and the function that raised, of an event with one error."""
    (error,) = event["exception"]["values"]
    frame = error["stacktrace"]["frames"][-1]
    return event["transaction"], error["type"], error["value"], frame["function"]
