"""A job as Celery's message: what it says, and that nothing of it changes on the way."""

from __future__ import annotations

import json
from contextvars import ContextVar
from datetime import UTC, datetime
from functools import wraps
from typing import Any

import pytest
from celery import Celery, current_app
from envelopes import make_envelope
from kombu.utils.json import loads as kombu_loads

from anyjob import JobPriority
from anyjob.base.envelope import write_envelope
from anyjob_celery.frame import TASK, ForeignMessageError, body_of, headers_of, open_frame
from anyjob_celery.publishing import Publication
from anyjob_celery.redis_scripts import FRESH, LOST
from anyjob_celery.redis_wire import LEVELS, envelope_in, item_of, read_item

OURS = {"task": TASK, "id": "x"}
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def test_headers_are_those_of_celerys_protocol_2() -> None:
    envelope = make_envelope(NOW, "job-1")
    app = Celery(set_as_current=False)
    native = app.amqp.as_task_v2(
        envelope.id, TASK, shadow=envelope.name, ignore_result=True, argsrepr=f"<{envelope.id}>", kwargsrepr="{}"
    )
    opened = open_frame(headers_of(envelope), body_of(write_envelope(envelope))).headers
    assert {**opened, "origin": None} == {**native.headers, "origin": None}
    assert opened["origin"].partition("@")[2] == native.headers["origin"].partition("@")[2]
    args, kwargs, embedded = json.loads(body_of(write_envelope(envelope)))
    assert (args[0]["id"], kwargs, embedded) == (envelope.id, native.body[1], native.body[2])


def test_no_argument_is_in_the_headers() -> None:
    assert "secret" not in json.dumps(headers_of(make_envelope(NOW, "job-1", args={"password": "secret"})))


@pytest.mark.parametrize(
    "raw",
    [
        b'{"__type__":"uuid","__value__":"no uuid"}',  # kombu makes Python objects of such
        b'{"big":123456789012345678901234567890,"float":1.0e5,"tiny":1e-400,"huge":1e400}',
        b'{"a":"\\u00e9\\ud83d\\ude00","a":  [ 1,2 ]}',
        '{"text":"é漢\U0001f600"}'.encode(),
    ],
)
def test_the_envelope_comes_out_to_the_byte(raw: bytes) -> None:
    assert open_frame(OURS, body_of(raw)).raw == raw


def test_kombu_alone_would_choke_on_such_arguments() -> None:
    with pytest.raises(Exception, match="UUID"):
        kombu_loads(body_of(b'{"__type__":"uuid","__value__":"no uuid"}').decode())


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({}, body_of(b"{}")),
        ([], body_of(b"{}")),
        (None, body_of(b"{}")),
        ({**OURS, "task": "os.system"}, body_of(b"{}")),
        ({**OURS, "id": 7}, body_of(b"{}")),
        (OURS, b""),
        (OURS, b"\xff"),
        (OURS, b"[[],{},{}]"),
        (OURS, b"[[1,2],{},{}]"),
        (OURS, b'[[1],{"a":1},{}]'),
        (OURS, b'[[1],{},{"callbacks":[{"task":"os.system"}]}]'),
        (OURS, b'[[1],{},{"chain":[{"task":"os.system"}]}]'),
        (OURS, b'{"args":[1],"kwargs":{}}'),
    ],
)
def test_what_is_not_as_we_send_it_is_foreign(headers: Any, body: bytes) -> None:
    with pytest.raises(ForeignMessageError):
        open_frame(headers, body)


def test_what_celery_would_act_on_is_not_believed() -> None:
    hostile = {"expires": "2020-01-01", "timelimit": [1, 1], "stamped_headers": ["x"], "group": "g", "retries": 9}
    opened = open_frame({**OURS, **hostile, "traceparent": "00-ab"}, body_of(b"{}")).headers
    assert opened["traceparent"] == "00-ab"
    assert opened["timelimit"] == [None, None]
    assert all(not opened[name] for name in ("expires", "stamped_headers", "group", "retries"))


def test_the_message_on_redis() -> None:
    envelope = make_envelope(NOW, "job-1")
    item = item_of(envelope, headers_of(envelope), "tag")
    assert item.startswith(FRESH.encode())
    assert envelope_in(item) == write_envelope(envelope)
    lost = LOST.encode() + item.removeprefix(FRESH.encode())
    assert (read_item(item).redelivered, read_item(lost).redelivered) == (False, True)
    assert envelope_in(lost) == write_envelope(envelope)


def test_levels_are_kombus_lists() -> None:
    assert [LEVELS[level] for level in sorted(JobPriority)] == [4, 3, 2, 1, 0]


def test_publish_signals_fire_and_may_add_headers() -> None:
    from celery.signals import after_task_publish, before_task_publish

    told: list[Any] = []

    def before(sender: str, headers: dict[str, Any], body: Any, **_: Any) -> None:
        told.append((sender, headers["task"], headers["id"], body[0][0]["name"]))
        headers |= {"traceparent": "00-ab", "task": "os.system"}

    def after(sender: str, headers: dict[str, Any], **_: Any) -> None:
        told.append((sender, headers["task"], headers["traceparent"]))

    envelope = make_envelope(NOW, "job-1")
    before_task_publish.connect(before)
    after_task_publish.connect(after)
    try:
        publication = Publication(envelope, datetime(2030, 1, 1, tzinfo=UTC).isoformat())
        publication.done()
    finally:
        before_task_publish.disconnect(before)
        after_task_publish.disconnect(after)
    assert told == [(envelope.name, envelope.name, envelope.id, envelope.name), (envelope.name, envelope.name, "00-ab")]
    eta = {"eta": "2030-01-01T00:00:00+00:00"}
    assert publication.headers == {**headers_of(envelope), **eta, "traceparent": "00-ab"}
    assert Publication(envelope).headers == headers_of(envelope)


def test_who_wraps_send_task_adds_headers_too(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    sends: Any = Celery.send_task
    told: list[Any] = []

    @wraps(sends)
    def wrapped(*args: Any, headers: Any, **options: Any) -> Any:
        told.append((args[1], current_app.tasks[args[1]].name))
        sends(*args, headers={**headers, "sentry-trace": "ab"}, **options)
        told.append("sent")

    envelope = make_envelope(NOW, "job-1")
    monkeypatch.setattr(Celery, "send_task", wrapped)
    assert Publication(envelope).headers == {**headers_of(envelope), "sentry-trace": "ab"}
    assert told == [(envelope.name, envelope.name), "sent"]
    assert envelope.name not in current_app.tasks  # they are somebody's
    monkeypatch.setattr(Celery, "send_task", wraps(sends)(lambda *_, **__: 1 / 0))
    assert Publication(envelope).headers == headers_of(envelope)
    assert "sent without what tracers add" in caplog.text


def test_what_a_tracer_begins_at_a_publish_stays_there() -> None:
    from celery.signals import before_task_publish

    active: ContextVar[str] = ContextVar("active", default="")
    seen: list[str] = []

    def before(sender: str, **_: Any) -> None:
        seen.append(active.get())
        active.set(sender)

    before_task_publish.connect(before)
    try:
        for number in range(2):
            Publication(make_envelope(NOW, f"job-{number}"))
    finally:
        before_task_publish.disconnect(before)
    assert (seen, active.get()) == (["", ""], "")
