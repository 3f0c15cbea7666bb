"""What the log says of a job: why a try failed, each fact as a field, and no line that anybody else wrote."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, NoReturn

import pytest
from envelopes import make_envelope

from anyjob import (
    EnqueueError,
    GiveUp,
    InvalidArgsError,
    JobFilter,
    JobManager,
    JobRegistry,
    JobResolutionError,
    RetryLater,
    RetryPolicy,
    Snooze,
    background_job,
)
from anyjob.base.envelope import write_envelope
from anyjob.base.errors import JobTimeLimitError
from anyjob.base.log import JobLogger, log_event
from anyjob.extend import StoreBackend
from anyjob.seams.outcome import Abandoned
from anyjob.testing import FakeClock

Fail = Callable[[BaseException], Any]

FORGED = "a id=1\n2026-01-01 ERROR root logged in\r\x1b[2K\x9b2K\u2028\u202ex"


@pytest.fixture
def out() -> Iterator[io.StringIO]:
    """What a handler of the application's prints, each record behind a `|`."""
    handler, root = logging.StreamHandler(io.StringIO()), logging.getLogger()
    handler.setFormatter(logging.Formatter("|%(levelname)s %(message)s"))
    level = logging.getLogger("anyjob").level
    logging.getLogger("anyjob").setLevel(logging.INFO)
    root.addHandler(handler)
    yield handler.stream
    root.removeHandler(handler)
    logging.getLogger("anyjob").setLevel(level)


@pytest.fixture
def fail(registry: JobRegistry, make_manager: Callable[..., JobManager], clock: FakeClock) -> Fail:
    """Run a job of two tries that raises, once; return the outcome."""
    manager, wanted = make_manager(), list[BaseException]()

    @background_job("fail", registry=registry, retry=RetryPolicy(max_tries=2))
    def fail() -> None:
        clock.travel(0.25)
        raise wanted[-1]

    def run(error: BaseException) -> Any:
        wanted.append(error)
        return manager.executor.execute(write_envelope(make_envelope(clock.now(), "id1", "fail", {})))

    return run


def _caused(error: BaseException, cause: BaseException) -> BaseException:
    try:
        raise cause
    except type(cause):
        error.__cause__ = cause
    return error


def test_a_failed_try_is_told_with_its_message_and_its_traceback(fail: Fail, out: io.StringIO) -> None:
    fail(ValueError("no such customer"))
    told = out.getvalue().split("|")[-1]
    assert told.startswith(
        "WARNING failed job=fail id=id1 try=1 max_tries=2 took=0.25s "
        'error=ValueError reason="no such customer" next=2026-01-01T12:01:00+00:00 worker='
    )
    assert told.count("Traceback") == 1
    assert "raise wanted[-1]\nValueError: no such customer\n" in told


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (
            GiveUp("card refused"),
            'gave up job=fail id=id1 tries=1 took=0.25s error=anyjob.GiveUp reason="card re',
        ),
        (RetryLater(5, reason="busy"), "error=anyjob.RetryLater reason=busy next=2026-01-01T12:00:05+00:00"),
        (Snooze(5, reason="busy"), "snoozed job=fail id=id1 until=2026-01-01T12:00:05+00:00 error=anyjob.Snooze"),
        (
            JobTimeLimitError("ran longer than 1 s"),
            'error=anyjob.JobTimeLimitError reason="ran longer than 1 s"',
        ),
        (JobResolutionError("no mailer"), 'error=anyjob.JobResolutionError reason="no mailer"'),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_a_job_decides_is_told_with_its_reason_alone(
    fail: Fail, out: io.StringIO, error: BaseException, told: str
) -> None:
    fail(error)
    assert told in out.getvalue()
    assert "Traceback" not in out.getvalue()


def test_what_it_was_decided_for_has_its_traceback(fail: Fail, out: io.StringIO) -> None:
    fail(_caused(GiveUp("card refused"), KeyError("card")))
    assert out.getvalue().count("Traceback") == 1
    assert out.getvalue().endswith("raise cause\nKeyError: 'card'\n")


@pytest.mark.parametrize("error", [EnqueueError("away"), InvalidArgsError("Mail: no")])
def test_an_error_of_ours_that_a_job_ran_into_has_its_traceback(
    fail: Fail, out: io.StringIO, error: BaseException
) -> None:
    fail(error)
    assert out.getvalue().count("Traceback") == 1


@pytest.mark.parametrize(
    ("name", "args", "told"),
    [
        ("fail", {"number": "x"}, "error=anyjob.InvalidArgsError reason="),
        ("gone", {}, "error=anyjob.UnknownJobError reason="),
    ],
)
def test_what_is_refused_before_it_runs_is_told_with_the_reason(
    registry: JobRegistry,
    make_manager: Callable[..., JobManager],
    clock: FakeClock,
    out: io.StringIO,
    name: str,
    args: object,
    told: str,
) -> None:
    @background_job("fail", registry=registry)
    def fail(number: int) -> None: ...

    executor = make_manager(defer_unknown=0).executor
    assert isinstance(executor.execute(write_envelope(make_envelope(clock.now(), "id1", name, args))), Abandoned)
    assert f"ERROR gave up job={name} id=id1 tries=0 {told}" in out.getvalue()
    assert "Traceback" not in out.getvalue()


def test_what_can_not_be_read_is_told_with_the_id_that_it_is_parked_under(
    backend: StoreBackend, make_manager: Callable[..., JobManager], out: io.StringIO
) -> None:
    outcome = make_manager().executor.execute(b"{")
    backend.settle(outcome)
    (parked,) = backend.store.scan(JobFilter()).jobs
    assert f"ERROR parked id={parked.id} error=anyjob.EnvelopeError reason=" in out.getvalue()


# Fields


def test_each_fact_is_a_field_of_the_record(fail: Fail, clock: FakeClock, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "anyjob")
    clock.travel(1)
    fail(ValueError("no"))
    started, failed = (
        {key: value for key, value in vars(record).items() if key.startswith("job_")} for record in caplog.records
    )
    assert started.pop("job_worker") == failed.pop("job_worker")
    who = {"job_name": "fail", "job_id": "id1", "job_queue": "default", "job_priority": "normal"}
    assert started == {**who, "job_event": "started", "job_try": 1, "job_max_tries": 2, "job_waited": 0.0}
    assert failed == {
        **who,
        "job_event": "failed",
        "job_try": 1,
        "job_max_tries": 2,
        "job_took": 0.25,
        "job_error": "ValueError",
        "job_reason": "no",
        "job_next": "2026-01-01T12:01:01+00:00",
    }


def test_fields_are_what_any_json_can_hold(caplog: pytest.LogCaptureFixture) -> None:
    facts: dict[str, Any] = {"error": ValueError("no"), "lasted": timedelta(1), "b": b"x", "long": "x" * 10_000}
    log_event(JobLogger("anyjob.test"), logging.WARNING, "told", None, none=None, number=7, seconds=0.1234567, **facts)
    (record,) = caplog.records
    fields = _fields_of(record)
    assert json.loads(json.dumps(fields)) == fields
    assert (fields["job_number"], fields["job_seconds"], fields["job_error"]) == (7, 0.1234567, "no")
    assert "job_none" not in fields
    assert record.getMessage().startswith("told number=7 seconds=0.123s error=no ")
    assert len(record.getMessage()) < 1_000


def _fields_of(record: logging.LogRecord) -> dict[str, Any]:
    return {key: value for key, value in vars(record).items() if key.startswith("job_")}


# Foreign text


def _assert_no_line_is_forged(text: str, lines: int) -> None:
    """See that each line is a record of ours, or indented, and that nothing moves a cursor."""
    found = text.splitlines()
    assert len([line for line in found if line.startswith("|")]) == lines
    assert all(line.startswith(("|", "  ")) for line in found)
    assert all(line.isprintable() for line in found)
    assert "\\u001b[2K" in text


def test_a_name_forges_no_line(make_manager: Callable[..., JobManager], clock: FakeClock, out: io.StringIO) -> None:
    make_manager().executor.execute(write_envelope(make_envelope(clock.now(), "id1", FORGED)))
    _assert_no_line_is_forged(out.getvalue(), 2)  # and, once, what that may mean


@pytest.mark.parametrize("cause", [ValueError("plain"), ValueError(FORGED)])
def test_an_error_forges_no_line(fail: Fail, out: io.StringIO, cause: BaseException) -> None:
    fail(_caused(ValueError(FORGED), cause))
    _assert_no_line_is_forged(out.getvalue(), 2)


def test_a_note_on_an_error_forges_no_line(fail: Fail, out: io.StringIO) -> None:
    error = ValueError("plain")
    error.add_note(FORGED)
    fail(error)
    _assert_no_line_is_forged(out.getvalue(), 2)


def test_the_arguments_of_a_message_forge_no_line(out: io.StringIO) -> None:
    logger = JobLogger("anyjob.test")
    logger.warning("it is away: %s", ConnectionError(FORGED))
    try:
        raise ConnectionError(FORGED)
    except ConnectionError:
        logger.exception("%s is away for %gs", FORGED, 7)
    _assert_no_line_is_forged(out.getvalue(), 2)
    assert "is away for 7s" in out.getvalue()


def test_a_library_may_colour_its_words(out: io.StringIO) -> None:
    JobLogger("native", native=True).warning("%s: %s", "\x1b[32mmail\x1b[39;49;00m", FORGED)
    assert "|WARNING \x1b[32mmail\x1b[39;49;00m: a id=1\\n2026" in out.getvalue()
    assert len(out.getvalue().splitlines()) == 1


def test_an_error_that_can_not_be_looked_at_is_told_all_the_same(out: io.StringIO) -> None:
    class HostileError(Exception):
        def __str__(self) -> NoReturn:
            raise KeyError("hostile")

    try:
        raise HostileError
    except HostileError:
        JobLogger("anyjob.test").exception("it broke")
    assert out.getvalue().startswith("|ERROR it broke\nTraceback")
    assert "it can't be shown: it raised KeyError" in out.getvalue()


def test_formatters_see_errors_of_one_line_as_they_are(fail: Fail, caplog: pytest.LogCaptureFixture) -> None:
    fail(ValueError("no"))
    record = caplog.records[-1]
    assert record.exc_info is not None
    assert type(record.exc_info[1]) is ValueError


def test_what_is_switched_off_costs_no_text(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: object) -> NoReturn:
        raise AssertionError("nobody asked")

    monkeypatch.setattr("anyjob.base.log._plain", refuse)
    log_event(JobLogger("anyjob.test"), logging.DEBUG, "told", number=7)
