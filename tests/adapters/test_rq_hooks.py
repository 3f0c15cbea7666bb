"""Who surrounds RQ's jobs, or handles their errors, sees ours: on a fake server, without a fork."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any, cast

import pytest
from envelopes import make_envelope
from msgspec.structs import replace
from rq import Queue, get_current_job
from rq.job import Job
from rq.worker import Worker

from anyjob import JobManager, JobRegistry, RetryPolicy, Snooze
from anyjob.seams.stored import JobState
from anyjob.testing import FakeClock
from anyjob_rq import RQBackend, RQSimpleJobWorker

MakeWorker = Callable[..., RQSimpleJobWorker]


def test_exception_handlers_hear_of_each_failed_try(
    manager: JobManager, backend: RQBackend, registry: JobRegistry, make_worker: MakeWorker, clock: FakeClock
) -> None:
    heard: list[Any] = []

    def tell(job: Job, kind: type, error: BaseException, trace: Any) -> None:
        heard.append((job.func_name, job.args, job.retries_left, job.get_status(refresh=False), kind, str(error)))
        assert error.__traceback__ is trace
        raise OSError("a handler of no use")  # which costs nothing

    def fail(_args: Any) -> None:
        raise LookupError("no")

    registry.register_handler("fail", fail, retry=RetryPolicy(max_tries=2, first_wait=10))
    manager.enqueue_by_name("fail", "secret")
    worker = make_worker(exception_handlers=[tell])
    worker.work(burst=True)
    clock.travel(10)
    worker.work(burst=True)
    assert heard == [("fail", (), left, "failed", LookupError, "no") for left in (1, 0)]
    assert backend.inspector.count()[JobState.ABANDONED] == 1


def test_a_handler_may_stop_the_others(manager: JobManager, registry: JobRegistry, make_worker: MakeWorker) -> None:
    heard: list[str] = []
    registry.register_handler("leave", lambda _: sys.exit(3), retry=None)
    manager.enqueue_by_name("leave", None)
    handlers = [lambda *_: heard.append("first"), lambda *_: False, lambda *_: heard.append("last")]
    make_worker(exception_handlers=handlers).work(burst=True)
    assert heard == ["first"]


def test_who_surrounds_perform_job_is_passed_by_all_jobs_and_their_errors(
    manager: JobManager, registry: JobRegistry, make_worker: MakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    owner: Any = next(each for each in reversed(Worker.__mro__) if "perform_job" in vars(each))
    perform_job, handle_exception, perform = owner.perform_job, owner.handle_exception, Job.perform

    def surround(self: Any, job: Job, *args: Any, **options: Any) -> bool:
        assert get_current_job() is None
        done: bool = perform_job(self, job, *args, **options)
        seen.append((job.func_name, done))
        return done

    def surround_perform(self: Job) -> Any:
        seen.append("perform")
        return perform(self)

    def surround_exception(self: Any, job: Job, *exc_info: Any) -> None:
        seen.append(type(exc_info[1]))
        handle_exception(self, job, *exc_info)

    monkeypatch.setattr(owner, "perform_job", surround)
    monkeypatch.setattr(owner, "handle_exception", surround_exception)
    monkeypatch.setattr(Job, "perform", surround_perform)

    def snooze(_args: Any) -> None:
        current = get_current_job()
        assert current is not None
        assert current.func_name == "snooze"
        raise Snooze(5)

    registry.register_handler("note", lambda _: None)
    registry.register_handler("snooze", snooze)
    registry.register_handler("leave", lambda _: sys.exit(3), retry=None)
    for name in ("note", "snooze", "leave"):
        manager.enqueue_by_name(name, None)
    make_worker().work(burst=True)
    assert seen == ["perform", ("note", True), "perform", ("snooze", True), "perform", SystemExit, ("leave", False)]


def test_what_tracers_put_into_meta_comes_along(
    manager: JobManager, registry: JobRegistry, make_worker: MakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    enqueue_job, metas = Queue.enqueue_job, list[Any]()

    @functools.wraps(enqueue_job)
    def trace(self: Queue, job: Job, *args: Any, **options: Any) -> Job:
        assert (job.func_name, job.args, job.kwargs) == ("note", (), {})
        job.meta["trace"] = {"from": self.name}
        if len(metas) == 2:
            job.meta["trace"] = "x" * 5000  # too long to go along
        if len(metas) == 3:
            raise OSError("a tracer of no use")
        return enqueue_job(self, job, *args, **options)

    def note(_args: Any) -> None:
        current = get_current_job()
        assert current is not None
        metas.append(current.meta)
        if len(metas) == 1:
            raise Snooze(0)  # and is sent again

    monkeypatch.setattr(Queue, "enqueue_job", trace)
    registry.register_handler("note", note)
    for _ in range(3):
        manager.enqueue_by_name("note", "secret")
        make_worker().work(burst=True)
    told = {"trace": {"from": "anyjob:default:normal"}}
    assert metas == [told, told, {}, {}]


def test_a_meta_that_somebody_else_wrote_harms_nobody(
    backend: RQBackend, registry: JobRegistry, make_worker: MakeWorker, clock: FakeClock
) -> None:
    metas: list[Any] = []
    registry.register_handler("note", lambda _: metas.append(cast("Any", get_current_job()).meta))
    for number, meta in enumerate(('{"a": 1}', "[1]", "{", "[" * 2000, "null")):
        backend.send([replace(make_envelope(clock.now(), f"m{number}", "note"), headers={"anyjob-rq-meta": meta})])
    make_worker().work(burst=True)
    assert metas == [{"a": 1}, {}, {}, {}, {}]
