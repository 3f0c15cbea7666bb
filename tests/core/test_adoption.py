"""Messages that an application sent by its job library alone become jobs, or stay where they are with the reason."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from typing import Any, NamedTuple, TypedDict
from uuid import UUID

import msgspec
import pytest
from msgspec import Struct
from native_app import NOW, Jobs, message
from pydantic import BaseModel

from anyjob import (
    JobPriority,
    RetryPolicy,
)
from anyjob.base.envelope import JobEnvelope
from anyjob.base.errors import EnqueueError, UnknownJobError, UnsupportedCapabilityError
from anyjob.migration import MigrationError
from anyjob.seams.natives import ADOPTED_HEADER
from anyjob.seams.stored import JobState


@dataclass
class Mail:
    to: str
    copies: int = 1


@dataclass
class Appointment:
    at: datetime
    price: Decimal = Decimal("1.50")


class Slot(NamedTuple):
    at: datetime
    room: str = "a"


class Renamed(Struct, rename="camel"):
    order_id: int


class Typed(TypedDict):
    order: int


class Sub(Typed): ...


class Model(BaseModel):
    order: int


def test_a_call_becomes_the_job_that_an_enqueue_would_have_made() -> None:
    jobs = Jobs(message(args=["a@b"], kwargs={"copies": 2}))

    def send(to: str, copies: int = 1, urgent: bool = False) -> None:
        jobs.ran.append((to, copies, urgent))

    jobs.define("mail.send", send, queue="mail", priority=JobPriority.HIGH)
    report = jobs.adopt({"shop.send": "mail.send"})
    assert (report.moved, report.left, report.foreign, report.is_balanced) == (1, 0, 0, True)
    assert jobs.app.messages == []
    (kept,) = jobs.kept()
    assert (kept.id, kept.name, kept.queue, kept.priority) == ("native-1", "mail.send", "mail", JobPriority.HIGH)
    assert msgspec.json.decode(kept.args) == {"to": "a@b", "copies": 2, "urgent": False}
    assert (kept.created_at, kept.first_due_at, kept.due_at, kept.try_count) == (NOW, NOW, None, 0)
    jobs.manager.drain("new")
    assert jobs.ran == [("a@b", 2, False)]


def test_what_a_message_says_as_text_is_read_as_the_job_declares_it() -> None:
    jobs = Jobs(message(args=[{"at": "2026-11-28T12:00:00Z"}], kwargs={"order": str(UUID(int=7))}))

    def book(when: Appointment, order: UUID, price: Decimal = Decimal("1.50")) -> None:
        jobs.ran.append((when, order, price))

    jobs.define("mail.send", book)
    assert jobs.adopt({"shop.send": "mail.send"}).moved == 1
    jobs.manager.drain("new")
    assert jobs.ran == [(Appointment(NOW), UUID(int=7), Decimal("1.50"))]


def test_due_time_tries_headers_and_the_time_of_its_making_are_kept() -> None:
    in_paris = (NOW + timedelta(hours=1)).astimezone(timezone(timedelta(hours=2)))
    made = NOW - timedelta(minutes=5)
    jobs = Jobs(
        message(1, due_at=in_paris, tries=2, headers={"trace": "x"}, created_at=made),
        message(2, due_at=NOW - timedelta(hours=1)),
    )
    jobs.define(retry=RetryPolicy(max_tries=5))
    report = jobs.adopt({"shop.send": "shop.send"})
    assert {(each.state, each.moved) for each in report.groups} == {(JobState.SCHEDULED, 1), (JobState.WAITING, 1)}
    later, past = sorted(jobs.kept(), key=lambda each: each.id)
    assert (later.due_at, later.first_due_at) == (NOW + timedelta(hours=1), NOW + timedelta(hours=1))
    assert (later.try_count, later.created_at) == (2, made)
    assert later.headers == {"trace": "x", ADOPTED_HEADER: "shop.send"}
    assert (past.due_at, past.first_due_at) == (None, NOW)


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"args": ["a@b", 1, True, 4]}, "takes 3 positional arguments; 4 given"),
        ({"args": []}, "Missing required argument 'to'"),
        ({"args": ["a@b"], "kwargs": {"cc": 1}}, "Unexpected keyword argument 'cc'"),
        ({"args": ["a@b"], "kwargs": {"copies": "two"}}, "Expected `int`, got `str`"),
        ({"args": ["a@b", object()]}, "object"),
        ({"id": "an id", "args": ["a@b"]}, "job_id = 'an id'"),
        ({"args": ["a@b"], "headers": {"anyjob-x": "y"}}, "anyjob's own"),
        ({"obstacle": "A chain follows it."}, "A chain follows it."),
    ],
)
def test_what_does_not_fit_stays_and_is_named(fields: dict[str, Any], why: str) -> None:
    jobs = Jobs(message(**fields))

    def send(to: str, copies: int = 1, urgent: bool = False) -> None: ...

    jobs.define("mail.send", send)
    report = jobs.adopt({"shop.send": "mail.send"})
    assert (report.moved, report.left, report.foreign, len(jobs.app.messages)) == (0, 1, 0, 1)
    (group,) = report.groups
    assert (group.queue, group.job, group.left) == ("celery", "shop.send", 1)
    assert why in group.why[0]
    assert jobs.kept() == []


def test_other_tasks_are_foreign_and_stay_in_their_order() -> None:
    jobs = Jobs(*(message(number, task="shop.other" if number % 2 else "shop.send") for number in range(10)))
    jobs.define()
    report = jobs.adopt({"shop.send": "shop.send"}, batch=2)
    assert (report.read, report.moved, report.left, report.foreign) == (10, 5, 0, 5)
    assert [each.id for each in jobs.app.messages] == [f"native-{number}" for number in (1, 3, 5, 7, 9)]
    assert [(each.job, each.left, each.why) for each in report.groups if each.left] == [
        ("shop.other", 5, ["Its task was not named."])
    ]


@pytest.mark.parametrize(
    ("args_type", "fields", "expected"),
    [
        (Mail, {"args": ["a@b"]}, Mail("a@b")),
        (Mail, {"kwargs": {"to": "a@b", "copies": 3}}, Mail("a@b", 3)),
        (Mail, {"args": [{"to": "a@b"}]}, Mail("a@b")),
        (Renamed, {"kwargs": {"order_id": 4}}, Renamed(4)),
        (Typed, {"kwargs": {"order": 4}}, {"order": 4}),
        (Typed, {"args": [{"order": 4}]}, {"order": 4}),
        (Model, {"kwargs": {"order": 4}}, Model(order=4)),
        (datetime, {"args": ["2026-11-28T12:00:00Z"]}, NOW),
        (Appointment, {"args": ["2026-11-28T12:00:00Z"]}, Appointment(NOW)),
        (Appointment, {"kwargs": {"at": NOW, "price": "2.0"}}, Appointment(NOW, Decimal("2.0"))),
        (Slot, {"kwargs": {"at": "2026-11-28T12:00:00Z"}}, Slot(NOW)),
        (datetime, {"args": [NOW]}, NOW),
        (UUID, {"args": [UUID(int=7)]}, UUID(int=7)),
        (int, {"args": [7]}, 7),
        (list[int], {"args": [[7]]}, [7]),
        (Any, {"args": [{"any": "thing"}]}, {"any": "thing"}),
        (Any, {"kwargs": {"any": "thing"}}, {"any": "thing"}),
    ],
)
def test_a_job_of_one_object_takes_its_fields_or_all_of_it(args_type: Any, fields: Any, expected: Any) -> None:
    jobs = Jobs(message(**fields))
    jobs.take(args_type)
    assert jobs.adopt({"shop.send": "mail.send"}).moved == 1
    jobs.manager.drain("new")
    assert jobs.ran == [expected]


@pytest.mark.parametrize(
    ("args_type", "fields"),
    [
        (int, {"args": [1, 2]}),
        (int, {"kwargs": {"x": 1}}),
        (int, {"args": ["x"]}),
        *((each, {"kwargs": {"order": 1, "typo": 2}}) for each in (Model, Typed, Sub)),
        *((each, {"args": [{"order": 1, "typo": 2}]}) for each in (Model, Typed, Sub)),
    ],
)
def test_a_job_of_one_object_takes_no_other_call(args_type: Any, fields: Any) -> None:
    jobs = Jobs(message(**fields))
    jobs.take(args_type)
    report = jobs.adopt({"shop.send": "mail.send"})
    assert (report.moved, report.left) == (0, 1)


def test_a_preview_shows_what_waits_and_moves_nothing() -> None:
    jobs = Jobs(message(1), message(2, task="shop.other", queue="other"))
    jobs.define()
    report = jobs.manager.adoption("app", {}).preview()
    assert [(each.queue, each.job, each.left) for each in report.groups] == [
        ("celery", "shop.send", 1),
        ("other", "shop.other", 1),
    ]
    report = jobs.manager.adoption("app", {"shop.send": "shop.send"}).preview()
    assert (report.moved, report.foreign, len(jobs.app.messages)) == (1, 1, 2)


def test_a_message_whose_task_nobody_can_tell_says_why() -> None:
    jobs = Jobs(message(task="", obstacle="It can't be read."))
    (group,) = jobs.manager.adoption("app", {}).preview().groups
    assert (group.left, group.why) == (1, ["It can't be read."])


def test_the_queues_are_handed_on() -> None:
    jobs = Jobs()
    jobs.manager.adoption("app", {}, queues=["celery", "mail"])
    assert jobs.app.asked == ["celery", "mail"]


def test_an_unknown_job_and_a_backend_without_queues_of_others_are_refused() -> None:
    jobs = Jobs()
    jobs.define("mail.send")
    with pytest.raises(UnknownJobError, match=r"Did you mean 'mail\.send'"):
        jobs.manager.adoption("app", {"shop.send": "mail.sent"})
    with pytest.raises(UnsupportedCapabilityError, match="no queues"):
        jobs.manager.adoption("new", {"shop.send": "mail.send"})


def test_a_destination_that_goes_away_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = Jobs(*map(message, range(5)))
    jobs.define()
    new = jobs.manager.backend("new")
    send = new.send
    calls = []

    def fail_the_second(envelopes: Sequence[JobEnvelope], *, once: str | None = None) -> None:
        calls.append(once)
        if len(calls) == 2:
            raise EnqueueError("away", rejected=[each.id for each in envelopes])
        send(envelopes, once=once)

    monkeypatch.setattr(new, "send", fail_the_second)
    with pytest.raises(MigrationError) as interrupted:
        jobs.adopt({"shop.send": "shop.send"}, batch=2)
    assert interrupted.value.report.moved == 2
    assert (len(jobs.kept()), len(jobs.app.messages)) == (2, 3)
    report = jobs.adopt({"shop.send": "shop.send"}, resume=interrupted.value.report.run)
    assert report.moved == 3
    assert sorted(each.id for each in jobs.kept()) == [f"native-{number}" for number in range(5)]
