"""A Celery application's own messages: read as calls, taken out, left in place."""

from __future__ import annotations

import base64
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from celery import chain, group, signature
from celery.utils.time import maybe_make_aware
from celery_natives import OwnApp, own_app
from kombu.utils.json import register_type

from anyjob.seams.natives import NativeMessage
from anyjob_celery.existing_queues import AppQueues

TOMORROW = datetime(2026, 1, 2, 12, tzinfo=UTC)


@pytest.fixture(params=["redis", "amqp"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def shop(kind: str) -> Iterator[OwnApp]:
    with own_app(kind) as shop:
        yield shop


def test_a_call_is_read_with_all_that_it_says(shop: OwnApp) -> None:
    sent = shop.send(
        1, "two", [3.5, None], kwargs={"to": {"name": "x"}}, eta=TOMORROW, retries=2, headers={"tenant": "a", "size": 7}
    )
    assert shop.read() == {
        sent: NativeMessage(
            id=sent,
            task="shop.send",
            queue=shop.name,
            args=[1, "two", [3.5, None]],
            kwargs={"to": {"name": "x"}},
            due_at=TOMORROW,
            tries=2,
            headers={"tenant": "a"},
        )
    }
    assert shop.left() == [sent]


def test_a_message_is_read_where_it_is(shop: OwnApp) -> None:
    low, mail = shop.send(1, priority=9), shop.send(2, queue=shop.mail)
    assert {each.id: each.queue for each in shop.read().values()} == {low: shop.name, mail: shop.mail}
    assert [*shop.read(shop.mail)] == [mail]
    assert [*shop.read(f"{shop.name}.nowhere")] == []


def _do_nothing() -> None: ...


@pytest.mark.filterwarnings("ignore::celery.exceptions.CDeprecationWarning")  # of `queue`
def test_queues_that_routes_and_tasks_name_are_looked_into(kind: str) -> None:
    with own_app(kind) as shop:
        routed, named, plain = (f"{shop.name}.{each}" for each in ("routed", "named", "plain"))
        shop.app.conf.task_routes = ({"shop.*": {"queue": routed}}, [("mail.*", plain)], lambda *_, **__: None)
        shop.app.task(name="shop.named", queue=named, shared=False)(_do_nothing)
        assert {shop.name, routed, named, plain} <= {*AppQueues(shop.app, shop.backend().config).chosen(None)}


@pytest.mark.parametrize(
    ("options", "due"),
    [
        ({}, None),
        ({"eta": datetime(2026, 1, 2, 14, tzinfo=UTC)}, datetime(2026, 1, 2, 14, tzinfo=UTC)),
        ({"eta": "2026-01-02T14:00:00+02:00"}, TOMORROW),
        ({"eta": datetime(2026, 1, 2, 12)}, TOMORROW),  # noqa: DTZ001  # naive: UTC, as a worker of Celery's takes it
    ],
)
@pytest.mark.parametrize("zone", ["UTC", "Asia/Tokyo"])
def test_a_due_time_is_what_a_worker_of_celerys_takes_it_for(
    kind: str, zone: str, options: Any, due: datetime | None
) -> None:
    with own_app(kind, timezone=zone) as shop:
        sent = shop.send(**options)
        assert shop.read()[sent].due_at == due
    eta = options.get("eta")
    assert not isinstance(eta, datetime) or maybe_make_aware(eta, zone) == due


def test_a_countdown_is_a_due_time(shop: OwnApp) -> None:
    before = datetime.now(UTC)
    sent = shop.send(countdown=60)
    due = shop.read()[sent].due_at
    assert due is not None
    assert before <= due - timedelta(seconds=60) <= datetime.now(UTC)


def test_what_kombu_marks_is_what_our_json_has(shop: OwnApp) -> None:
    key = uuid.uuid4()
    values = [TOMORROW, date(2026, 1, 2), TOMORROW.time(), Decimal("1.50"), key, b"text", b"\xff"]
    sent = shop.send(*values, kwargs={"deep": [{"when": TOMORROW}]})
    read = shop.read()[sent]
    assert read.args == [
        TOMORROW.isoformat(),
        "2026-01-02",
        "12:00:00",
        "1.50",
        str(key),
        base64.b64encode(b"text").decode(),
        base64.b64encode(b"\xff").decode(),
    ]
    assert read.kwargs == {"deep": [{"when": TOMORROW.isoformat()}]}


class _Coin:
    pass


def _sign(shop: OwnApp, *args: Any, **options: Any) -> Any:
    return signature("shop.send", args=args, immutable=True, app=shop.app, **options)


MORE_THAN_A_CALL: dict[str, tuple[Callable[[OwnApp], object], str]] = {
    "chain": (lambda shop: chain(_sign(shop), _sign(shop), app=shop.app).apply_async(), "part of a chain"),
    "group": (lambda shop: group([_sign(shop)], app=shop.app).apply_async(), "one of a group"),
    "link": (lambda shop: shop.send(link=_sign(shop)), "follows its success"),
    "link_error": (lambda shop: shop.send(link_error=_sign(shop)), "follows its failure"),
    "chord": (lambda shop: shop.send(chord=_sign(shop)), "one of a chord"),
    "expires": (lambda shop: shop.send(expires=3600), "expires"),
    "expiration": (lambda shop: shop.send(expiration=3600), "expires"),
    "time_limit": (lambda shop: shop.send(time_limit=10), "time limit of its own"),
    "soft_time_limit": (lambda shop: shop.send(soft_time_limit=10), "time limit of its own"),
    "stamps": (lambda shop: shop.send(stamped_headers=["monday"], monday="yes"), "stamped"),
    "pickle": (lambda shop: shop.send(serializer="pickle"), "only JSON in utf-8"),
    "compressed": (lambda shop: shop.send(compression="zlib"), "compressed"),
    "a type of theirs": (lambda shop: shop.send(_Coin()), "'coin', which only the application knows"),
}


@pytest.mark.parametrize("name", MORE_THAN_A_CALL)
def test_what_is_more_than_a_call_is_named_and_stays(shop: OwnApp, name: str) -> None:
    register_type(_Coin, "coin", lambda _: "heads", lambda _: _Coin())
    send, obstacle = MORE_THAN_A_CALL[name]
    send(shop)
    ((sent, read),) = shop.read().items()
    assert read.obstacle is not None
    assert obstacle in read.obstacle
    assert (read.task, read.args, read.kwargs) == ("shop.send", (), {})
    assert shop.left() == [sent]


def test_a_message_of_protocol_1_is_named_and_stays(shop: OwnApp) -> None:
    shop.app.conf.task_protocol = 1
    sent = shop.send(1)
    shop.app.conf.task_protocol = 2
    read = shop.read()[sent]
    assert (read.task, read.obstacle) == (
        "shop.send",
        "It is no message of Celery's protocol 2: its headers name no task.",
    )
    assert shop.left() == [sent]
