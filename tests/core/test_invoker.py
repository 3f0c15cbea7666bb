from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar, copy_context
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from envelopes import make_envelope

from anyjob import (
    AsyncBackgroundJob,
    BackgroundJob,
    JobDefinitionError,
    JobManager,
    JobRegistry,
    JobResolutionError,
    JobTimeLimitError,
    background_job,
    current_job,
)
from anyjob.base.clock import SystemClock
from anyjob.base.envelope import write_envelope
from anyjob.define.configuration import JobConfiguration
from anyjob.run.invoker import JobInvoker, construct
from anyjob.run.loop import JobLoop
from anyjob.run.timelimit import TimeLimits
from anyjob.testing import FakeClock


@dataclass
class Email:
    to: str


LOG: list[str] = []


class SendEmail(BackgroundJob[Email], registry=None):
    def __init__(self, mailer: str) -> None:
        self.mailer = mailer

    def execute(self, args: Email) -> None:
        LOG.append(f"{self.mailer} sends to {args.to}")
        if args.to == "nobody":
            raise ValueError(args.to)


class SendAsync(AsyncBackgroundJob[Email], registry=None):
    def __init__(self, mailer: str) -> None:
        self.mailer = mailer

    async def execute(self, args: Email) -> None:
        await asyncio.sleep(0)
        LOG.append(f"{self.mailer} sends to {args.to}")
        if args.to == "nobody":
            raise ValueError(args.to)


def plain(job: type[Any]) -> Any:
    return job("plain")


@contextlib.contextmanager
def scope(job: type[Any]) -> Iterator[Any]:
    LOG.append("open")
    try:
        yield job("scope")
    finally:
        LOG.append("close")


@contextlib.asynccontextmanager
async def async_scope(job: type[Any]) -> AsyncIterator[Any]:
    LOG.append("open")
    task = asyncio.current_task()
    try:
        yield job("async scope")
    finally:
        assert asyncio.current_task() is task  # cancel scopes must be left in the task that entered them
        LOG.append("close")


async def awaitable(job: type[Any]) -> Any:
    return job("awaited")


@pytest.fixture
def log() -> Iterator[list[str]]:
    LOG.clear()
    yield LOG
    LOG.clear()


def run(job: type[Any], resolver: Callable[[type[Any]], Any], to: str) -> None:
    invoker = JobInvoker(SystemClock(), resolver)
    try:
        invoker.invoke(JobConfiguration.of_class(job, Email), Email(to))
    finally:
        invoker.loop.close()


@pytest.mark.parametrize("job", [SendEmail, SendAsync])
@pytest.mark.parametrize(
    ("resolver", "before", "name", "after"),
    [
        (plain, [], "plain", []),
        (scope, ["open"], "scope", ["close"]),
        (async_scope, ["open"], "async scope", ["close"]),
        (awaitable, [], "awaited", []),
    ],
)
class TestResolver:
    def test_gives_the_job_in_its_scope(
        self, job: type[Any], resolver: Any, before: list[str], name: str, after: list[str], log: list[str]
    ) -> None:
        run(job, resolver, "me")
        assert log == [*before, f"{name} sends to me", *after]

    def test_leaves_the_scope_when_the_job_fails(
        self, job: type[Any], resolver: Any, before: list[str], name: str, after: list[str], log: list[str]
    ) -> None:
        with pytest.raises(ValueError, match="nobody"):
            run(job, resolver, "nobody")
        assert log == [*before, f"{name} sends to nobody", *after]


@contextlib.contextmanager
def swallowing(job: type[Any]) -> Iterator[Any]:
    with contextlib.suppress(ValueError):
        yield job("quiet")


@contextlib.asynccontextmanager
async def swallowing_async(job: type[Any]) -> AsyncIterator[Any]:
    with contextlib.suppress(ValueError):
        yield job("quiet")


@pytest.mark.parametrize("resolver", [swallowing, swallowing_async])
def test_a_scope_may_swallow_the_error(resolver: Any, log: list[str]) -> None:
    run(SendEmail, resolver, "nobody")
    assert log == ["quiet sends to nobody"]


@contextlib.asynccontextmanager
async def broken_scope(job: type[Any]) -> AsyncIterator[Any]:
    raise ConnectionError("no container")
    yield job


@contextlib.asynccontextmanager
async def breaking_exit(job: type[Any]) -> AsyncIterator[Any]:
    yield job("x")
    raise ConnectionError("no way out")


@pytest.mark.parametrize("resolver", [broken_scope, breaking_exit])
@pytest.mark.parametrize("job", [SendEmail, SendAsync])
def test_a_scope_that_breaks_is_a_failed_try(resolver: Any, job: type[Any], log: list[str]) -> None:
    with pytest.raises(ConnectionError):
        run(job, resolver, "me")


class ManagedJob(BackgroundJob[Email], registry=None):
    """A job that happens to be a context manager itself is a job, not a scope."""

    def __enter__(self) -> object:
        raise AssertionError("entered")

    def __exit__(self, *failure: object) -> None:
        raise AssertionError("left")

    def execute(self, args: Email) -> None:
        LOG.append("ran")


def test_a_job_that_is_a_context_manager_is_not_taken_for_a_scope(log: list[str]) -> None:
    run(ManagedJob, construct, "me")
    assert log == ["ran"]


def test_the_default_resolver_says_what_is_missing() -> None:
    with pytest.raises(JobResolutionError, match=r"SendEmail.*'mailer'.*resolver"):
        construct(SendEmail)


class Failing(BackgroundJob[Email], registry=None):
    def __init__(self) -> None:
        raise TypeError("a bug in the constructor")

    def execute(self, args: Email) -> None: ...


def test_a_constructor_that_raises_is_a_failed_try_not_a_missing_resolver() -> None:
    with pytest.raises(TypeError, match="a bug"):
        construct(Failing)


# One loop


def test_async_jobs_share_one_loop_that_outlives_them(registry: JobRegistry, manager: JobManager) -> None:
    loops = []

    @background_job("see.loop", registry=registry)
    async def see_loop() -> None:
        loops.append(asyncio.get_running_loop())

    for _ in range(3):
        manager.enqueue_by_name("see.loop", {})
    assert manager.drain() == 3
    assert len(set(map(id, loops))) == 1
    assert loops[0].is_running()


def test_the_loop_starts_anew_after_close() -> None:
    loop = JobLoop()

    async def running() -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()

    first = loop.run(running())
    loop.close()
    second = loop.run(running())
    assert first is not second
    loop.close()


VARIABLE: ContextVar[str] = ContextVar("VARIABLE")


def test_async_jobs_see_their_context(registry: JobRegistry, manager: JobManager) -> None:
    seen = []

    @background_job("look", registry=registry)
    async def look() -> None:
        seen.append((current_job().name, VARIABLE.get(), await asyncio.to_thread(lambda: current_job().id)))

    envelope = manager.prepare_by_name("look", {})
    context = copy_context()
    context.run(VARIABLE.set, "from the native worker's thread")  # where its middleware may have a trace
    context.run(manager.executor.execute, write_envelope(envelope))
    assert seen == [("look", "from the native worker's thread", envelope.id)]


# Time limits


def travel_when(started: threading.Event, clock: FakeClock) -> None:
    started.wait(5)
    clock.travel(10)


def configuration(function: Callable[[], Any], limit: float) -> JobConfiguration:
    registry = JobRegistry()
    background_job("limited", registry=registry, time_limit=limit)(function)
    return registry.get("limited")


def test_a_sync_job_ends_at_its_time_limit(clock: FakeClock) -> None:
    started, ended = threading.Event(), []

    def spin() -> None:
        started.set()
        try:
            while True:
                pass
        finally:
            ended.append("cleaned up")

    invoker = JobInvoker(clock)
    traveller = threading.Thread(target=travel_when, args=(started, clock))
    traveller.start()
    limited = configuration(spin, 10)
    with pytest.raises(JobTimeLimitError, match="longer than 10 s"):
        invoker.invoke(limited, limited.args_type())
    traveller.join()
    assert ended == ["cleaned up"]


def test_an_async_job_ends_at_its_time_limit(clock: FakeClock) -> None:
    started, ended = threading.Event(), []

    async def wait() -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("cleaned up")

    invoker = JobInvoker(clock)
    traveller = threading.Thread(target=travel_when, args=(started, clock))
    traveller.start()
    limited = configuration(wait, 10)
    with pytest.raises(JobTimeLimitError, match="longer than 10 s"):
        invoker.invoke(limited, limited.args_type())
    traveller.join()
    invoker.loop.close()
    assert ended == ["cleaned up"]


def test_a_job_in_time_is_left_alone_and_so_is_the_thread_after_it(clock: FakeClock) -> None:
    invoker = JobInvoker(clock)
    limited = configuration(lambda: None, 10)
    for _ in range(100):
        invoker.invoke(limited, limited.args_type())
        clock.travel(20)  # an alarm that was not taken back would strike here
    assert sum(range(1000)) == 499_500


@pytest.mark.parametrize("step", [-3600, 3600])
def test_a_limit_strikes_in_its_time_whatever_the_wall_clock_does(
    clock: FakeClock, step: float, wait_until: Callable[..., None]
) -> None:
    limits, struck = TimeLimits(clock), []
    with limits.watch(10, lambda: struck.append(clock.monotonic())):
        clock.step(step)
        clock.travel(9)
        wait_until(lambda: clock._waiting)  # noqa: SLF001
        assert struck == []
        clock.travel(1)
        wait_until(lambda: struck)
    assert struck == [10]
    limits.close()


def test_limits_strike_in_the_order_of_their_time(clock: FakeClock, wait_until: Callable[..., None]) -> None:
    invoker, ended = JobInvoker(clock), []
    started = threading.Barrier(3)

    def job(name: str, limit: float) -> None:
        def spin() -> None:
            started.wait(5)
            while True:
                pass

        limited = configuration(spin, limit)
        try:
            invoker.invoke(limited, limited.args_type())
        except JobTimeLimitError:
            ended.append(name)

    threads = [threading.Thread(target=job, args=pair) for pair in (("long", 20), ("short", 10))]
    for thread in threads:
        thread.start()
    started.wait(5)
    clock.travel(10)
    wait_until(lambda: ended == ["short"])
    clock.travel(10)
    wait_until(lambda: ended == ["short", "long"])
    for thread in threads:
        thread.join()


# What must not end the loop, or hide that nothing ran


def _invoke(invoker: JobInvoker, function: Callable[[], Any]) -> None:
    registry = JobRegistry()
    background_job("it", registry=registry)(function)
    job = registry.get("it")
    invoker.invoke(job, job.args_type())


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()])
def test_a_job_that_wants_to_exit_does_not_take_the_loop_along(error: BaseException) -> None:
    invoker, others = JobInvoker(SystemClock()), []

    async def leave() -> None:
        raise error

    async def other() -> None:
        await asyncio.sleep(0.01)
        others.append("ran")

    with ThreadPoolExecutor(2) as pool:
        beside = pool.submit(_invoke, invoker, other)
        left = pool.submit(_invoke, invoker, leave)
        with pytest.raises(type(error)):
            left.result(timeout=10)
        beside.result(timeout=10)
    _invoke(invoker, other)
    assert others == ["ran", "ran"]
    invoker.loop.close()


def test_a_sync_job_that_wants_to_exit_inside_an_async_scope_leaves_the_loop_alone(log: list[str]) -> None:
    invoker = JobInvoker(SystemClock(), async_scope)

    class Leave(SendEmail, registry=None):
        def execute(self, args: Email) -> None:
            raise SystemExit(3)

    with pytest.raises(SystemExit):
        invoker.invoke(JobConfiguration.of_class(Leave, Email), Email("me"))
    invoker.invoke(JobConfiguration.of_class(SendEmail, Email), Email("me"))
    assert log[-3:] == ["open", "async scope sends to me", "close"]
    invoker.loop.close()


def test_an_async_function_behind_a_plain_decorator_runs() -> None:
    ran = []

    async def inner() -> None:
        await asyncio.sleep(0)
        ran.append(1)

    def decorated() -> Any:
        return inner()

    invoker = JobInvoker(SystemClock())
    _invoke(invoker, decorated)
    assert ran == [1]
    invoker.loop.close()


def _generate() -> Iterator[int]:
    yield 1


async def _agenerate() -> AsyncIterator[int]:
    yield 1


async def _areturn(value: Any) -> Any:
    return value


@pytest.mark.parametrize(
    "make",
    [
        _generate,
        _agenerate,
        contextlib.contextmanager(_generate),
        contextlib.asynccontextmanager(_agenerate),
        lambda: _areturn(_generate()),
    ],
)
def test_work_that_is_handed_back_unrun_is_no_success(make: Callable[[], Any]) -> None:
    async def behind_async() -> Any:
        return make()

    def behind_plain() -> Any:
        return make()

    for function in (behind_plain, behind_async):
        invoker = JobInvoker(SystemClock())
        with pytest.raises(JobDefinitionError, match="its work and not its result: nothing was run"):
            _invoke(invoker, function)
        invoker.loop.close()


def test_an_await_that_was_forgotten_is_made_up_for() -> None:
    ran: list[int] = []

    async def work() -> None:
        await asyncio.sleep(0)
        ran.append(1)

    async def forgetful() -> Any:
        return work()

    invoker = JobInvoker(SystemClock())
    _invoke(invoker, forgetful)
    assert ran == [1]
    invoker.loop.close()


def test_an_async_job_that_would_wait_for_itself_is_told_so() -> None:
    invoker = JobInvoker(SystemClock())

    async def inner() -> None: ...

    async def outer() -> None:
        _invoke(invoker, inner)

    with pytest.raises(JobDefinitionError, match="can't wait for another job"):
        _invoke(invoker, outer)
    invoker.loop.close()


def test_limits_that_strike_while_jobs_end_leave_the_watcher_usable() -> None:
    """The scar: an interrupt used to hit the thread just as it held the watcher's lock."""
    limits = TimeLimits(SystemClock())
    for _ in range(300):
        with contextlib.suppress(JobTimeLimitError), limits.in_this_thread(0.0005):
            for _ in range(2000):
                pass
    fired = threading.Event()
    with limits.watch(0.0, fired.set):
        assert fired.wait(10)


@pytest.mark.parametrize("then", ["return", "raise"])
def test_a_job_that_swallows_its_limit_is_no_success(clock: FakeClock, then: str) -> None:
    started = threading.Event()

    def stubborn() -> None:
        try:
            started.set()
            while True:
                pass
        except BaseException:  # noqa: BLE001
            if then == "raise":
                raise ValueError("something else") from None

    _assert_limited(JobInvoker(clock), clock, stubborn, started)


def test_an_async_job_that_swallows_its_limit_is_no_success(clock: FakeClock) -> None:
    started = threading.Event()

    async def stubborn() -> None:
        started.set()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()

    _assert_limited(JobInvoker(clock), clock, stubborn, started)


def _assert_limited(
    invoker: JobInvoker, clock: FakeClock, function: Callable[[], Any], started: threading.Event
) -> None:
    traveller = threading.Thread(target=travel_when, args=(started, clock))
    traveller.start()
    limited = configuration(function, 10 - 1e-3)
    with pytest.raises(JobTimeLimitError, match="longer than 9.999 s"):
        invoker.invoke(limited, limited.args_type())
    traveller.join()
    invoker.close()


def test_a_call_that_kept_the_watch_from_running_is_no_success_either(clock: FakeClock) -> None:
    limited = configuration(lambda: clock.travel(11), 10)  # nobody had the time to strike
    invoker = JobInvoker(clock)
    with pytest.raises(JobTimeLimitError):
        invoker.invoke(limited, limited.args_type())
    invoker.close()


@pytest.mark.parametrize("is_async", [False, True])
def test_a_job_that_goes_on_beyond_its_limit_is_told_to_be_stuck_again_and_again(
    clock: FakeClock, caplog: pytest.LogCaptureFixture, wait_until: Callable[..., None], *, is_async: bool
) -> None:
    started, release = threading.Event(), threading.Event()

    def hold() -> None:
        started.set()
        release.wait(10)  # in C: no interrupt reaches it

    async def ahold() -> None:
        hold()

    limited = configuration(ahold if is_async else hold, 10)
    invoker, begun = JobInvoker(clock), clock.now()
    with ThreadPoolExecutor(1) as pool:
        run = pool.submit(invoker.invoke, limited, limited.args_type(), who=make_envelope(begun, "id1", "limited"))
        started.wait(10)
        for at, then in ((10, ""), (15, "ran=15s"), (25, "ran=25s"), (45, "ran=45s")):
            before = list(invoker._limits._alarms)  # noqa: SLF001
            clock.travel(to=begun + timedelta(seconds=at))
            wait_until(partial(_told, caplog, then))
            wait_until(partial(_is_set_anew, invoker, before))
        release.set()
        with pytest.raises(JobTimeLimitError):
            run.result(10)
    assert not invoker._limits._alarms  # noqa: SLF001  # and nothing is told of it any more
    assert caplog.text.count("stuck job=limited id=id1 time_limit=10s ran=") == 3
    invoker.close()


def _is_set_anew(invoker: JobInvoker, before: list[Any]) -> bool:
    now = list(invoker._limits._alarms)  # noqa: SLF001
    return len(now) == 1 and now != before


def _told(caplog: pytest.LogCaptureFixture, text: str) -> bool:
    return text in caplog.text


# Bad neighbours on the loop


async def stop_the_loop() -> None:
    asyncio.get_running_loop().stop()
    await asyncio.sleep(0)


async def close_the_loop() -> None:
    with pytest.raises(RuntimeError):
        asyncio.get_running_loop().close()


async def cancel_everybody() -> None:
    for task in asyncio.all_tasks():
        task.cancel()
    await asyncio.sleep(0)


async def exit_the_process() -> None:
    raise SystemExit(3)


async def break_the_handler() -> None:
    def broken(*_: object) -> None:
        raise SystemExit

    loop = asyncio.get_running_loop()
    loop.set_exception_handler(broken)
    loop.call_soon(lambda: 1 / 0)
    await asyncio.sleep(0)


@pytest.mark.parametrize(
    "neighbour",
    [stop_the_loop, close_the_loop, cancel_everybody, exit_the_process, break_the_handler],
)
@pytest.mark.timeout(30)
def test_every_other_job_ends_whatever_one_does_to_the_loop(neighbour: Callable[[], Any]) -> None:
    loop, entered, go_on = JobLoop(), threading.Event(), threading.Event()

    async def good() -> str:
        entered.set()
        while not go_on.is_set():  # noqa: ASYNC110  # another thread's event
            await asyncio.sleep(0.002)
        return "good"

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(loop.run, good())
        assert entered.wait(10)
        with contextlib.suppress(asyncio.CancelledError, SystemExit):
            loop.run(neighbour())
        go_on.set()
        if neighbour is cancel_everybody:
            with pytest.raises(asyncio.CancelledError):
                running.result(10)
        else:
            assert running.result(10) == "good"
    assert loop.run(good()) == "good"
    loop.close()


def test_a_loop_that_was_closed_is_made_anew(wait_until: Callable[..., None]) -> None:
    loop = JobLoop()

    async def own() -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()

    async def close_once_it_stands_still() -> asyncio.AbstractEventLoop:
        running = asyncio.get_running_loop()
        running.run_forever = running.close  # type: ignore[method-assign]
        return running

    first = loop.run(close_once_it_stands_still())
    first.call_soon_threadsafe(first.stop)
    wait_until(first.is_closed)
    assert loop.run(own()) is not first
    loop.close()


def test_a_job_that_stops_the_loop_is_told(caplog: pytest.LogCaptureFixture) -> None:
    loop = JobLoop()
    loop.run(stop_the_loop())
    loop.close()
    assert caplog.text.count("a job stopped the loop of async jobs") == 1
