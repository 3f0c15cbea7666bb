"""A job as a message of Dramatiq's, and back: to the byte, and nothing in it is obeyed."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from dramatiq import Message, Middleware
from dramatiq.errors import Retry as DramatiqRetry
from dramatiq.middleware import Callbacks, Pipelines, SkipMessage, TimeLimit
from envelopes import make_envelope

from anyjob.base.envelope import write_envelope
from anyjob.base.errors import ConfigurationError
from anyjob.seams.backend import BackendConfig, NativeCommand
from anyjob.seams.outcome import Completed, Deferred, Retry
from anyjob.seams.worker_options import WorkerOptions
from anyjob.settings.loader import load_backend
from anyjob_dramatiq.backend import OwnDramatiqBackend
from anyjob_dramatiq.broker import forbidden_options
from anyjob_dramatiq.frame import UNREADABLE_NAME, Delivery, decode, encode, pack, unwrap
from anyjob_dramatiq.runner import TryFailedError, raise_error

NOW = datetime(2026, 1, 1, tzinfo=UTC)
URLS = ["dramatiq+redis://:secret@host/0", "dramatiq+amqp://me:secret@host//"]


def read(data: bytes, forbidden: frozenset[str] = frozenset()) -> tuple[Message[Any], Delivery]:
    message = decode(data, queue="mail", forbidden=forbidden, native_id="n", place=None, redelivered=False)
    return message, message.args[0]


def framed(raw: bytes, **options: object) -> bytes:
    delivery = Delivery("x", raw)
    return encode(Message("mail", "mail.send", (delivery,), {}, dict(options), message_id="x", message_timestamp=1))


@pytest.mark.parametrize(
    "raw",
    [
        b'{"v":1}',
        b'{ "v" : 1,  "args":{"x":0.10,"y":1e400,"n":123456789012345678901234567890,"n":2}\n}',
        '{"text":"\\u00e9é\\ud83d\\ude00😀\\/"}'.encode(),
        b"null",
        b'["not", "an", "envelope"]',
    ],
)
def test_the_envelope_comes_out_to_the_byte(raw: bytes) -> None:
    assert read(framed(raw))[1].raw == raw
    assert unwrap(framed(raw)) == raw


def test_it_is_a_message_as_dramatiq_reads_it() -> None:
    envelope = make_envelope(NOW, "an-id", "mail.send", {"to": "a"}, queue="mail")
    message = Message.decode(encode(pack(envelope, {"broker_priority": 2})))
    assert (message.queue_name, message.actor_name, message.message_id) == ("mail", "mail.send", "an-id")
    assert message.args == (msgspec.json.decode(write_envelope(envelope)),)
    assert message.options == {"broker_priority": 2}
    assert message.message_datetime == NOW


def test_what_dramatiq_logs_holds_no_arguments() -> None:
    envelope = make_envelope(NOW, "an-id", "mail.send", {"password": "hunter2"})
    for message in (pack(envelope, {}), read(encode(pack(envelope, {})))[0]):
        assert str(message) == "mail.send(<job an-id>)"
        assert "hunter2" not in repr(message)


@pytest.mark.parametrize("data", [b"", b"no JSON", b"{}", b"[" * 100_000, b"\xff", framed(b"{}")[:-1] + b',"more":1}'])
def test_what_is_no_message_of_ours_is_kept_whole(data: bytes) -> None:
    message, delivery = read(data)
    assert (message.actor_name, message.queue_name, delivery.raw, delivery.id) == (UNREADABLE_NAME, "mail", data, "n")
    assert delivery.fault
    assert message.options == {}


def test_the_queue_is_where_it_came_from_whatever_it_says() -> None:
    assert read(framed(b"{}").replace(b'"mail"', b'"no-such-queue"'))[0].queue_name == "mail"


class Tracing(Middleware):
    """An application's own, with an option of its own."""

    actor_options = {"trace"}  # noqa: RUF012

    def before_enqueue(self, broker: Any, message: Any, delay: int | None) -> None:
        message.options["trace"] = f"of {message.message_id}, {delay}"


def test_options_of_the_applications_middleware_pass_and_dramatiqs_do_not() -> None:
    forbidden = forbidden_options([Tracing(), Callbacks(), Pipelines(), TimeLimit()])
    assert read(framed(b"{}", trace="x"), forbidden)[0].options == {"trace": "x"}
    for option in ("on_success", "on_failure", "pipe_target", "time_limit", "eta", "group_completion_callbacks"):
        assert option in (read(framed(b"{}", **{option: "x"}), forbidden)[1].fault or "")


@pytest.mark.parametrize("url", URLS)
def test_the_worker_command_has_no_secret(url: str) -> None:
    backend = load_backend(BackendConfig(alias="main", url=url))
    options = WorkerOptions(queues=("mail",), concurrency=3, stop_timeout=1.5)
    command = backend.native_worker(options)
    assert isinstance(command, NativeCommand)
    assert "secret" not in repr(command)
    assert command.argv[1:4] == ("-m", "anyjob_dramatiq", "anyjob_dramatiq.app")
    assert command.argv[4:] == (
        *("--processes", "1", "--threads", "3", "--worker-shutdown-timeout", "7000", "--queues", "mail"),
    )


@pytest.mark.parametrize(
    ("middleware", "told"),
    [
        (["no_such_module:x"], "no_such_module"),
        (["dramatiq:Broker"], "no middleware"),
        (["dramatiq"], "must be 'module:name'"),
    ],
)
def test_middleware_that_cant_be_used_is_refused(middleware: list[str], told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        load_backend(BackendConfig(alias="main", url=URLS[0], options={"middleware": middleware}))


def test_middleware_that_cant_be_made_is_refused() -> None:
    middleware = ["dramatiq.results:Results"]
    backend = load_backend(BackendConfig(alias="main", url=URLS[0], options={"middleware": middleware}))
    assert isinstance(backend, OwnDramatiqBackend)
    with pytest.raises(ConfigurationError, match="'dramatiq.results:Results' can't be made without arguments"):
        _ = backend.broker


def test_wrong_options_are_told_with_their_place() -> None:
    for url, options, told in (
        (URLS[0], {"middleware": "shop:Tracing"}, r"options.middleware: 'shop:Tracing': it is a list, as \["),
        (URLS[0], {"sokket_timeout": 3}, "sokket_timeout"),
        (URLS[1], {"hartbeat": 3}, "no 'hartbeat'. Did you mean 'heartbeat'"),
    ):
        with pytest.raises(ConfigurationError, match=told):
            load_backend(BackendConfig(alias="main", url=url, options=options))


def test_native_delays_are_those_of_a_broker_of_ones_own() -> None:
    with pytest.raises(ConfigurationError, match=r"dramatiq://\?broker="):
        load_backend(BackendConfig(alias="main", url=URLS[0], options={"delay": "native"}))


@pytest.mark.parametrize("error", [LookupError("no"), SystemExit(3)])
def test_what_a_try_raised_is_raised_for_dramatiq(error: BaseException) -> None:
    with pytest.raises(type(error)) as raised:
        raise_error(Retry(make_envelope(NOW, "an-id", "mail.send"), error))
    assert raised.value is error


@pytest.mark.parametrize("error", [SkipMessage("no"), DramatiqRetry("no", delay=1)])
def test_an_error_that_would_be_an_order_to_dramatiq_is_told_as_a_failure(error: Exception) -> None:
    with pytest.raises(TryFailedError, match=f"{type(error).__name__}: no") as raised:
        raise_error(Retry(make_envelope(NOW, "an-id", "mail.send"), error))
    assert raised.value.__cause__ is error


def test_what_did_not_fail_raises_nothing() -> None:
    envelope = make_envelope(NOW, "an-id", "mail.send")
    for outcome in (Completed(), Deferred(envelope), Retry(envelope)):  # the last: its process was lost
        raise_error(outcome)


def test_a_message_can_be_encoded_by_who_reports_it() -> None:
    assert json.loads(json.dumps(pack(make_envelope(NOW, "an-id", "mail.send"), {}).asdict()))["args"] == [
        "<job an-id>"
    ]
