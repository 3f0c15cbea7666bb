"""RabbitMQ for tests: the shared one, which is only used, or a node of the tests' own, which may be killed."""

from __future__ import annotations

import os
import signal
import subprocess
from abc import abstractmethod
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

import amqp
from raw_amqp import publish_raw
from servers import free_port, program, unavailable

from anyjob.testing.conformance import ServerHarness, ServerWorld, WorkerHandle
from anyjob.testing.conformance.processes import QUEUES, WorkerProcess
from anyjob.testing.conformance.proxy import Proxy
from anyjob.testing.probes.journal import wait_until
from anyjob_amqp import JOB_QUEUE, AmqpNames, read_url

__all__ = ["PrivateRabbit", "RabbitHarness", "RabbitWorld", "amqp_url", "connect", "plain_url"]

AMQP_URL = os.environ.get("ANYJOB_TEST_AMQP_URL", "amqp://guest:guest@localhost:5672/%2F")

# The script itself: the one on the path changes to a user who can't write where tests may.
SCRIPTS = ("/usr/lib/rabbitmq/bin/rabbitmq-server", "/opt/homebrew/sbin/rabbitmq-server")


def amqp_url() -> str:
    """Return the URL of the shared RabbitMQ, `ANYJOB_TEST_AMQP_URL`."""
    try:
        connect(AMQP_URL).close()
    except (OSError, amqp.AMQPError) as error:
        unavailable(f"no RabbitMQ at ANYJOB_TEST_AMQP_URL: {error}")
    return AMQP_URL


def connect(url: str) -> amqp.Connection:
    """Return a connection to be used by one thread."""
    address = read_url(url, "tests")
    connection = amqp.Connection(
        f"{address.host}:{address.port}",
        address.user,
        address.password,
        virtual_host=address.vhost,
        connect_timeout=5,
        read_timeout=30,
        write_timeout=30,
    )
    connection.connect()
    return connection


class PrivateRabbit:
    """A node of the tests' own, on ports of its own, to be killed and started again with what it kept."""

    def __init__(self, folder: Path, conf: str = "") -> None:
        self.port = free_port()
        self.url = f"amqp://guest:guest@127.0.0.1:{self.port}//"
        self._epmd_port = free_port()
        self._folder = folder
        (folder / "plugins").write_text("[].")
        (folder / "rabbitmq.conf").write_text(f"listeners.tcp.local = 127.0.0.1:{self.port}\n{conf}")
        self._environment = {
            **os.environ,
            "HOME": str(folder),
            "ERL_EPMD_PORT": str(self._epmd_port),
            "RABBITMQ_NODENAME": f"anyjob{self.port}@localhost",
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
            "RABBITMQ_CONF_ENV_FILE": str(folder / "no-such-file"),
            "RABBITMQ_DIST_PORT": str(free_port()),
            "RABBITMQ_MNESIA_BASE": str(folder / "data"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
            "RABBITMQ_PID_FILE": str(folder / "pid"),
        }
        self.kills = 0
        self._node: subprocess.Popen[bytes] | None = None
        self._mapper: subprocess.Popen[bytes] | None = None

    @staticmethod
    def is_installed() -> bool:
        """Whether there is a RabbitMQ here to be started."""
        return _script() is not None and program("epmd") is not None

    def start(self) -> None:
        """Start it, with what it had, and wait until it answers."""
        script, mapper = _script(), program("epmd")
        assert script is not None
        assert mapper is not None
        if self._mapper is None:  # else Erlang starts one, a daemon that would outlive us
            self._mapper = self._run(mapper, "-port", str(self._epmd_port))
        self._node = self._run(script)
        wait_until(self._answers, timeout=60, what="the private RabbitMQ")

    def kill(self) -> None:
        """Kill it with -9."""
        if self._node is not None:
            os.killpg(self._node.pid, signal.SIGKILL)
            self._node.wait()
            self._node = None
            self.kills += 1

    def close(self) -> None:
        """Kill it, and what runs beside it."""
        self.kill()
        if self._mapper is not None:
            self._mapper.kill()
            self._mapper.wait()
            self._mapper = None

    def _run(self, *argv: str) -> subprocess.Popen[bytes]:
        with (self._folder / "out").open("ab") as out:
            return subprocess.Popen(
                argv, env=self._environment, stdout=out, stderr=out, stdin=subprocess.DEVNULL, start_new_session=True
            )

    def _answers(self) -> bool:
        assert self._node is not None
        assert self._node.poll() is None, (self._folder / "out").read_text(errors="replace")
        try:
            connect(self.url).close()
        except (OSError, amqp.AMQPError):
            return False
        return True


class RabbitWorld(ServerWorld):
    """A namespace on RabbitMQ."""

    def __init__(self, url: str, folder: Path, settings: dict[str, Any], node: PrivateRabbit | None) -> None:
        super().__init__(url, folder, settings)
        self._node = node
        self._kills = node.kills if node is not None else 0
        self._proxies = ExitStack()

    @property
    @abstractmethod
    def names(self) -> AmqpNames:
        """The names of its queues."""

    @property
    def exchanges(self) -> Sequence[str]:
        """The exchanges that the library itself makes."""
        return ()

    def clear(self) -> None:
        if self._node is not None and self._node.kills != self._kills:
            # Deleted while they come back, delay queues take down, on RabbitMQ 3.10, what moves the messages of all
            # others on. Nobody else has this namespace, and the node goes with the tests.
            return
        names = self.names
        with self.connect() as connection, connection.channel() as channel:
            for queue in (*map(names.queue, QUEUES), names.parked, names.notes.name, *names.levels):
                channel.queue_delete(queue)
            for exchange in (names.due, *names.levels, *self.exchanges):
                channel.exchange_delete(exchange)

    def start_pausable_worker(self) -> WorkerHandle:
        proxy, url = self.proxy()
        worker = self.start_worker(backends={"main": {"url": url, "queues": list(QUEUES)}})
        assert isinstance(worker, WorkerProcess)
        worker.on_pause = proxy.cut  # else the broker would wait for two heartbeats, of a minute each
        return worker

    def proxy(self) -> tuple[Proxy, str]:
        """Return a proxy in front of the broker, which lasts as long as the world, and the URL to go through it."""
        server = read_url(plain_url(self.url), "tests")
        proxy = self._proxies.enter_context(closing(Proxy(server.host, server.port)))
        who = f"{quote(server.user, safe='')}:{quote(server.password, safe='')}"
        return (
            proxy,
            f"{self.url.partition('amqp')[0]}amqp://{who}@127.0.0.1:{proxy.port}/{quote(server.vhost, safe='')}",
        )

    def close(self) -> None:
        super().close()
        self._proxies.close()

    def connect(self) -> amqp.Connection:
        """Return a connection to the broker."""
        return connect(plain_url(self.url))

    def publish(self, message: amqp.Message, queue: str) -> None:
        """Put a message into a logical queue, and return when it is there."""
        native = self.names.queue(queue)
        with self.connect() as connection, connection.channel() as channel:
            channel.confirm_select()
            channel.queue_declare(native, durable=True, auto_delete=False, arguments=dict(JOB_QUEUE))
            channel.basic_publish_confirm(message, "", native, mandatory=True)

    def publish_raw(self, properties: Sequence[bytes], body: bytes, queue: str) -> int:
        """Put messages with these properties into a logical queue; return how many, when they are there."""
        native = self.names.queue(queue).encode()
        with self.connect() as connection, connection.channel() as channel:
            channel.confirm_select()
            channel.queue_declare(native, durable=True, auto_delete=False, arguments=dict(JOB_QUEUE))
            before = channel.queue_declare(native, passive=True).message_count
            for each in properties:
                publish_raw(channel, each, body, native)
            expected = before + len(properties)
            wait_until(
                lambda: channel.queue_declare(native, passive=True).message_count >= expected, what="all to be there"
            )
        return len(properties)


class RabbitHarness(ServerHarness):
    """Worlds on a RabbitMQ: given a folder, on a node of their own, if one can be started; else on the shared one."""

    def __init__(
        self, library: str | None, world: type[RabbitWorld], folder: Path | None = None, conf: str = ""
    ) -> None:
        self.library = library
        self._prefix = f"{library}+" if library else ""
        self._world = world
        self._node = PrivateRabbit(folder, conf) if folder is not None and PrivateRabbit.is_installed() else None
        self.restartable = self._node is not None
        if self._node is not None:
            self._node.start()
        super().__init__(f"{self._prefix}{self._node.url if self._node else amqp_url()}")

    def open(self, folder: Path, **settings: Any) -> RabbitWorld:
        return self._world(self.url, folder, settings, self._node)

    def url_at(self, host: str, port: int) -> str:
        return f"{self._prefix}amqp://guest:guest@{host}:{port}//"

    def stop_server(self) -> None:
        assert self._node is not None
        self._node.kill()

    def start_server(self) -> None:
        assert self._node is not None
        self._node.start()

    def close(self) -> None:
        if self._node is not None:
            self._node.close()


def plain_url(url: str) -> str:
    """Return the URL of the broker in that of a backend."""
    return url[url.index("amqp") :]


def _script() -> str | None:
    if "ANYJOB_TEST_SERVERS" in os.environ:
        return program("rabbitmq-server")
    return next((script for script in SCRIPTS if Path(script).exists()), None)
