"""Over TLS, RabbitMQ's certificate has to be that of the host that the URL names."""

from __future__ import annotations

import socket
import ssl
import threading
from contextlib import closing, suppress
from pathlib import Path

import pytest
import trustme

from anyjob.base.errors import EnqueueError
from anyjob_amqp import Links, read_url
from anyjob_amqp.links import translated

AUTHORITY = trustme.CA()


class TlsServer:
    """Shakes hands, and says no more."""

    def __init__(self, host: str) -> None:
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        AUTHORITY.issue_cert(host).configure_cert(self._context)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self.shaken = threading.Event()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with suppress(OSError):
            client, _ = self._listening.accept()
            with self._context.wrap_socket(client, server_side=True) as secure:
                secure.recv(1)  # with TLS 1.3 the client says only now that it liked the certificate
                self.shaken.set()

    def close(self) -> None:
        self._listening.close()


@pytest.fixture
def authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    AUTHORITY.cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))


@pytest.mark.usefixtures("authority")
@pytest.mark.parametrize("host", ["localhost", "another.example"])
def test_the_certificate_of_another_host_is_refused(host: str) -> None:
    with closing(TlsServer(host)) as server:
        links = Links(read_url(f"amqps://localhost:{server.port}", "main"), 2.0, {})
        with pytest.raises(EnqueueError) as refused, translated(), links.link():
            pass
        assert ("CERTIFICATE_VERIFY_FAILED" in str(refused.value)) == (host != "localhost")
        assert server.shaken.is_set() == (host == "localhost")
