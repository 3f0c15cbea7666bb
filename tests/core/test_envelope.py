from __future__ import annotations

import json
import os
import random
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from msgspec import Raw

from anyjob import EnvelopeError, JobEnvelope, JobPriority
from anyjob.base.envelope import JobIds, read_envelope, write_envelope

CREATED = datetime(2026, 1, 1, 12, 0, 0, 123456, tzinfo=UTC)
LEAST = JobEnvelope(
    v=1,
    id="0123abc",
    name="mail.send",
    args=Raw(b'{"to":"a@b.c"}'),
    queue="default",
    priority=JobPriority.NORMAL,
    created_at=CREATED,
    first_due_at=CREATED,
)
FULL = JobEnvelope(
    v=1,
    id="0123abc",
    name="mail.send",
    args=Raw(b'{"to":"\xc3\xa4@b.c"}'),
    queue="mail",
    priority=JobPriority.HIGH,
    created_at=CREATED,
    first_due_at=CREATED,
    due_at=CREATED + timedelta(minutes=5),
    try_count=2,
    last_try_at=CREATED + timedelta(minutes=1),
    last_error="ValueError: no",
    lost_count=1,
    headers={"traceparent": "00-ab-cd-01"},
)

# The wire format. A change here breaks queued messages and other deployments: bump the version.
LEAST_JSON = (
    b'{"v":1,"id":"0123abc","name":"mail.send","args":{"to":"a@b.c"},"queue":"default","priority":15,'
    b'"created_at":"2026-01-01T12:00:00.123456Z","first_due_at":"2026-01-01T12:00:00.123456Z"}'
)
FULL_JSON = (
    b'{"v":1,"id":"0123abc","name":"mail.send","args":{"to":"\xc3\xa4@b.c"},"queue":"mail","priority":25,'
    b'"created_at":"2026-01-01T12:00:00.123456Z","first_due_at":"2026-01-01T12:00:00.123456Z",'
    b'"due_at":"2026-01-01T12:05:00.123456Z","try_count":2,"last_try_at":"2026-01-01T12:01:00.123456Z",'
    b'"last_error":"ValueError: no","lost_count":1,"headers":{"traceparent":"00-ab-cd-01"}}'
)


@pytest.mark.parametrize(("envelope", "raw"), [(LEAST, LEAST_JSON), (FULL, FULL_JSON)])
def test_the_wire_format_is_pinned(envelope: JobEnvelope, raw: bytes) -> None:
    assert write_envelope(envelope) == raw
    assert write_envelope(read_envelope(raw)) == raw


def test_times_with_other_offsets_are_the_same_instant() -> None:
    raw = LEAST_JSON.replace(b"12:00:00.123456Z", b"14:00:00.123456+02:00")
    assert read_envelope(raw).created_at == CREATED


def test_unknown_fields_of_the_same_version_are_ignored() -> None:
    assert read_envelope(LEAST_JSON[:-1] + b',"colour":"red"}').id == "0123abc"


def test_an_envelope_can_not_be_changed() -> None:
    with pytest.raises(AttributeError):
        LEAST.try_count = 1  # type: ignore[misc]


def changed(**fields: Any) -> bytes:
    data = json.loads(LEAST_JSON)
    for key, value in fields.items():
        if value is None:
            del data[key]
        else:
            data[key] = value
    return json.dumps(data).encode()


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\xff\xfe",
        b"null",
        b"[]",
        b"{",
        b'{"v":"1"}',
        b"[" * 100_000,
        b'{"v":1,"args":' + b"[" * 100_000,
        changed(v=None),
        changed(id=None),
        changed(id=""),
        changed(id="a b"),
        changed(id="x" * 65),
        changed(id="ä"),
        changed(id="a\n"),
        changed(name=""),
        changed(name="x" * 129),
        changed(args=None),
        changed(queue="Mail"),
        changed(queue="mail\n"),
        changed(queue=""),
        changed(priority=7),
        changed(priority="HIGH"),
        changed(created_at="2026-01-01T12:00:00"),
        changed(created_at="yesterday"),
        changed(headers={"a": 1}),
        changed(try_count=-1.5),
        changed(try_count=-1),
        changed(try_count=2**40),
        changed(lost_count=-1),
    ],
)
def test_what_is_no_envelope_is_told_so(raw: bytes) -> None:
    with pytest.raises(EnvelopeError, match="Not a job envelope"):
        read_envelope(raw)


@pytest.mark.parametrize("raw", [b'{"v":2}', changed(v=2), changed(v=99, id=None), changed(v=0)])
def test_another_version_is_told_apart_from_damage(raw: bytes) -> None:
    with pytest.raises(EnvelopeError, match=r"has version \d+; this anyjob reads version 1"):
        read_envelope(raw)


def test_args_stay_raw_until_somebody_decodes_them() -> None:
    raw = LEAST_JSON.replace(b'{"to":"a@b.c"}', b'{"n": 1.50, "deep": [[]]}')
    assert bytes(read_envelope(raw).args) == b'{"n": 1.50, "deep": [[]]}'


def test_ids_sort_by_time_and_fit_every_backend() -> None:
    ids = JobIds()
    made = [ids.new(CREATED + timedelta(milliseconds=n // 3)) for n in range(300)]
    assert made == sorted(made)
    assert all(len(each) == 28 and each.isalnum() for each in made)


def test_ids_never_repeat_across_threads_sources_and_seeded_generators() -> None:
    sources = [JobIds() for _ in range(4)]

    def draw(number: int) -> list[str]:
        random.seed(1)
        return [sources[number % 4].new(CREATED) for _ in range(1000)]

    with ThreadPoolExecutor(8) as pool:
        made = [each for batch in pool.map(draw, range(16)) for each in batch]
    assert len(set(made)) == 16_000


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_draws_other_ids_than_its_parent() -> None:
    ids = JobIds()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, ids.new(CREATED).encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reader, 64).decode() != ids.new(CREATED)
    os.close(reader)
    os.close(writer)


def test_priorities_are_abps_five_levels() -> None:
    assert [(each.name, int(each)) for each in JobPriority] == [
        ("LOW", 5),
        ("BELOW_NORMAL", 10),
        ("NORMAL", 15),
        ("ABOVE_NORMAL", 20),
        ("HIGH", 25),
    ]
    assert msgspec.json.encode(JobPriority.HIGH) == b"25"
