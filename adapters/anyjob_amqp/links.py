"""Connections to RabbitMQ: bounded in time, shared by threads one at a time, never by a forked child."""

from __future__ import annotations

import inspect
import os
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, Final

import amqp
from amqp.exceptions import AMQPError, NotFound
from amqp.spec import Basic

from anyjob.extend import ConfigurationError, EnqueueError, describe_error, did_you_mean
from anyjob_amqp.deadline import Deadline
from anyjob_amqp.notes import note_names
from anyjob_amqp.topology import BindingDeclaration, ExchangeDeclaration, Note, Place, QueueDeclaration, Route
from anyjob_amqp.undecodable import frame_handler
from anyjob_amqp.urls import AmqpAddress

__all__ = ["AMQP_ERRORS", "Link", "Links", "refuse_unknown_options", "translated"]

AMQP_ERRORS: Final = (AMQPError, OSError)
"""All that py-amqp raises; a timeout is an OSError."""


@contextmanager
def translated() -> Iterator[None]:
    """Raise py-amqp's errors as `EnqueueError`, except that of a missing queue."""
    try:
        yield
    except NotFound:
        raise
    except AMQP_ERRORS as error:
        raise EnqueueError(f"RabbitMQ can't be reached, or refused: {describe_error(error)}") from error


def refuse_unknown_options(options: Mapping[str, Any], where: str, *, also: Collection[str] = ()) -> None:
    """Raise `ConfigurationError` for an option that py-amqp's connection hasn't: it would ignore it in silence."""
    known = {*inspect.signature(amqp.Connection.__init__).parameters, *also} - {"self", "kwargs"}
    for option in options:
        if option not in known:
            hint = did_you_mean(str(option), known)
            raise ConfigurationError(f"{where}: py-amqp's connection has no {option!r}.{hint}")


class _Channel(amqp.Channel):  # type: ignore[misc]  # py-amqp is untyped
    def __init__(self, *args: Any, **options: Any) -> None:
        # A body is bytes, whatever its message says of it: decoded and encoded again, it may be other ones, or none.
        super().__init__(*args, **{**options, "auto_decode": False})


class _Connection(amqp.Connection):  # type: ignore[misc]
    Channel = _Channel
    # Without `connection.blocked`: else py-amqp reads before each publish, and drops the confirmations that it finds.
    negotiate_capabilities: Final = {"consumer_cancel_notify": True, "authentication_failure_close": True}
    deadline: Deadline | None = None
    """The bound of all calls over it together, besides the bound of each single answer."""

    def drain_events(self, timeout: float | None = None) -> None:
        if self.deadline is not None:
            left = self.deadline.left()
            timeout = left if timeout is None else min(timeout, left)
        super().drain_events(timeout)


class Link:
    """One connection, with a channel that confirms. For one thread at a time."""

    def __init__(self, connection: Any, noted: set[str]) -> None:
        self.connection = connection
        self.channel = connection.channel()
        self.channel.confirm_select(nowait=True)
        self.returned: set[str] = set()
        """The `message_id`s of messages that could not be routed."""
        self.channel.events["basic_return"].add(self._note_returned)
        self.published = 0
        """How many were published; each number is the tag of its confirmation."""
        self._declared: set[object] = set()
        self._noted = noted

    def is_open(self) -> bool:
        """Whether the broker has not closed the connection, as far as this side was told."""
        try:
            self.connection.drain_events(timeout=0)
        except TimeoutError:
            return True  # nothing was said
        except AMQP_ERRORS:
            return False
        return bool(self.connection.connected and self.channel.is_open)

    def prepare(self, place: Place, *, again: bool = False) -> None:
        """Declare what a route needs; what was declared over this link before is taken to be there, unless `again`."""
        if place in self._declared and not again:
            return
        keys = {
            (type(each), each.name) if isinstance(each, QueueDeclaration) else each: each for each in place.declarations
        }
        wanted = {key: each for key, each in keys.items() if again or key not in self._declared}
        # In one flight: only the last is answered, or, if any of them is refused, the channel closed.
        for number, each in enumerate(wanted.values(), 1):
            _DECLARE[type(each)](self.channel, each, number < len(wanted))
        self._declared.update(wanted, [place])

    def note(self, notes: Iterable[Note], *, again: bool = False) -> None:
        """Note names; those noted since the broker was last unreachable are taken to be there, unless `again`."""
        new = {note.name: note.queue for note in notes if again or note.name not in self._noted}
        if not new:
            return
        queue = next(iter(new.values()))  # a link is one namespace's

        def write(message: amqp.Message) -> None:
            _declare_queue(self.channel, queue, nowait=True)
            message.properties["message_id"] = queue.name
            self.publish(message, Route("", queue.name, Place(queue.name, (queue,))))
            self.channel.wait([Basic.Ack], callback=lambda *_: None)

        self._noted |= note_names(self.connection, queue, new, write)

    def publish(self, message: amqp.Message, route: Route) -> None:
        """Publish a message; the caller still has to wait for the confirmation."""
        self.published += 1
        self.channel.basic_publish(message, route.exchange, route.key, mandatory=True)

    def close(self) -> None:
        with suppress(*AMQP_ERRORS):
            self.connection.close()

    def drop(self) -> None:
        """Close it without a handshake: the other end does not answer."""
        self.connection.collect()

    def _note_returned(self, _error: object, _exchange: str, _key: str, message: amqp.Message) -> None:
        self.returned.add(message.properties["message_id"])


class Links:
    """The links of one process to one broker. Thread-safe; a child of a fork begins with none."""

    def __init__(self, address: AmqpAddress, timeout: float, options: Mapping[str, Any]) -> None:
        self.where = f"{address.host}:{address.port}, vhost {address.vhost!r}"
        """For messages."""
        self._address = address
        self._timeout = timeout
        self._options = options
        self._pid = os.getpid()
        self._idle: deque[Link] = deque(maxlen=_MOST_IDLE)
        self._noted: set[str] = set()

    @contextmanager
    def link(self, deadline: Deadline | None = None) -> Iterator[Link]:
        """Lend a link that is open; closed afterwards if the body raises. Raises what py-amqp raises.

        With a `deadline`, connecting and all calls over the link together fail by then.
        """
        if self._pid != os.getpid():  # the parent's sockets: forget them, and send nothing over them
            self._pid, self._idle = os.getpid(), deque(maxlen=_MOST_IDLE)
        idle = self._idle
        link = self._open_link(idle, deadline)
        link.connection.deadline = deadline
        try:
            yield link
        except OSError:
            self._noted = set()  # another broker may answer now
            link.drop()
            raise
        except BaseException:
            link.close()  # an answer may still arrive over it
            raise
        link.connection.deadline = None
        if len(idle) < _MOST_IDLE:
            idle.append(link)
        else:
            link.close()

    def close(self) -> None:
        """Close the unused links."""
        while self._idle:
            self._idle.pop().close()

    def _open_link(self, idle: deque[Link], deadline: Deadline | None) -> Link:
        while True:
            try:
                link = idle.pop()
            except IndexError:
                return self._new_link(deadline)
            if link.is_open():
                return link
            self._noted = set()
            link.close()

    def _new_link(self, deadline: Deadline | None) -> Link:
        connection = self.connect(deadline)
        try:
            return Link(connection, self._noted)
        except AMQP_ERRORS:
            connection.collect()
            raise

    def connect(self, deadline: Deadline | None, *, name: str = "anyjob", **options: Any) -> Any:
        """Return a new connection, which is the caller's, with options of py-amqp's where the settings say none.

        Half of the timeout is for reaching the host, half for each of its answers. Raises what py-amqp raises.
        """
        address, half = self._address, self._timeout / 2
        tls = self._options.get("ssl", address.tls)
        connection = _Connection(
            host=f"{address.host}:{address.port}",
            userid=address.user,
            password=address.password,
            virtual_host=address.vhost,
            ssl={"server_hostname": address.host} if tls is True else tls,  # else any valid certificate would do
            connect_timeout=half,
            read_timeout=half,
            write_timeout=half,
            client_properties={"connection_name": name},
            frame_handler=frame_handler,
            **{**options, **{key: value for key, value in self._options.items() if key != "ssl"}},
        )
        connection.deadline = deadline
        connection.connect()
        return connection


_MOST_IDLE: Final = 8

_DURABLE: Final = {"durable": True, "auto_delete": False}


def _declare_queue(channel: Any, queue: QueueDeclaration, nowait: bool) -> None:
    channel.queue_declare(queue.name, arguments=dict(queue.arguments), nowait=nowait, **_DURABLE)


def _declare_exchange(channel: Any, exchange: ExchangeDeclaration, nowait: bool) -> None:
    channel.exchange_declare(exchange.name, "topic", nowait=nowait, **_DURABLE)


def _declare_binding(channel: Any, binding: BindingDeclaration, nowait: bool) -> None:
    if binding.queue is not None:
        channel.queue_bind(binding.queue, binding.source, binding.key, nowait=nowait)
    else:
        channel.exchange_bind(binding.exchange, binding.source, binding.key, nowait=nowait)


_DECLARE: Final[Mapping[type, Callable[[Any, Any, bool], None]]] = {
    QueueDeclaration: _declare_queue,
    ExchangeDeclaration: _declare_exchange,
    BindingDeclaration: _declare_binding,
}
