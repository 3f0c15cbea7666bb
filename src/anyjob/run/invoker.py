"""Builds a job in its scope and calls it: the one place where application code runs, sync and async."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from concurrent.futures import CancelledError, Future
from contextlib import AbstractAsyncContextManager, AbstractContextManager, contextmanager
from typing import Any

from anyjob.base.clock import Clock
from anyjob.base.envelope import JobEnvelope
from anyjob.base.errors import ConfigurationError, JobDefinitionError, JobResolutionError
from anyjob.base.named import NamedObject
from anyjob.define.configuration import JobConfiguration
from anyjob.define.signature import JobFunction, is_unrun, source_location_of
from anyjob.run.loop import JobLoop
from anyjob.run.timelimit import TimeIsUp, TimeLimits

__all__ = ["JobInvoker", "JobResolver", "NamedResolver", "construct"]

JobResolver = Callable[[type[Any]], Any]
"""Gives the job object for a job class, one scope per run.

It returns the object itself, a context manager or async context manager that yields it (the scope: left after the
run), or an awaitable of it. `JobResolutionError` says that the job can never be built: it is abandoned at once. Any
other exception is a failed try.
"""


def construct(job: type[Any]) -> Any:
    """Build a job without arguments: the default resolver."""
    try:
        return job()
    except TypeError as error:
        try:
            inspect.signature(job).bind()
        except TypeError as mismatch:
            raise JobResolutionError(
                f"{source_location_of(job)} can't be built without arguments: {mismatch}. "
                "Give the manager a resolver that knows them."
            ) from error
        raise


class NamedResolver:
    """A resolver that the settings name, imported on first use."""

    def __init__(self, named: NamedObject) -> None:
        self._named = named
        self._found: JobResolver | None = None

    def __call__(self, job: type[Any]) -> Any:
        return self.load()(job)

    def load(self) -> JobResolver:
        """Import it; raise `ConfigurationError` if it is missing or is no resolver."""
        if self._found is None:
            found = self._named.load()
            if isinstance(found, type) or not callable(found):
                raise ConfigurationError(
                    f"{self._named} is {source_location_of(found)}: a resolver is a function that takes a job class."
                )
            self._found = found
        return self._found


class JobInvoker:
    """Calls jobs with their decoded arguments. Thread-safe."""

    def __init__(self, clock: Clock, resolver: JobResolver = construct) -> None:
        self._resolver = resolver
        self._limits = TimeLimits(clock)
        self.loop = JobLoop()

    def invoke(
        self, configuration: JobConfiguration, args: Any, owner: object = None, who: JobEnvelope | None = None
    ) -> Any:
        """Run the job to its end, here if it is sync, on the loop if it is async. Return or raise as the job does.

        `owner` is whoever may cancel it on the loop; `who` is the job that the log names if it gets stuck.
        """
        if configuration.is_async:
            call = self._acall(configuration.job, args)
            if configuration.time_limit is not None:
                call = self._limited(call, configuration.time_limit, who)
            return self.loop.run(call, owner)
        if configuration.time_limit is None:
            return self._call(configuration.job, args)
        with self._limits.in_this_thread(configuration.time_limit, who):
            return self._call(configuration.job, args)

    async def ainvoke(self, configuration: JobConfiguration, args: Any, who: JobEnvelope | None = None) -> Any:
        """Like `invoke`, but an async job runs in the caller's own task, and no other loop is needed."""
        if not configuration.is_async:
            return self.invoke(configuration, args, who=who)
        if configuration.time_limit is None:
            return await self._acall(configuration.job, args)
        return await self._limited(self._acall(configuration.job, args), configuration.time_limit, who)

    def close(self) -> None:
        """End the threads of async jobs and of time limits, if there are any. Later jobs start them anew."""
        self.loop.close()
        self._limits.close()

    def _call(self, job: type[Any] | JobFunction[..., Any], args: Any) -> Any:
        if isinstance(job, JobFunction):
            return self._finished(job.call(args))
        if isinstance(resolved := self._resolver(job), job):
            return self._finished(resolved.execute(args))
        with self._scope(resolved) as instance:
            return self._finished(instance.execute(args))

    def _finished(self, result: Any) -> Any:
        """Return the job's result; run a coroutine that a seemingly sync job returned: a decorator may hide an async
        function.
        """
        if result is None:
            return None
        if isinstance(result, Awaitable):
            result = self.loop.run(_wait_for(result))
        return _run(result)

    async def _acall(self, job: type[Any] | JobFunction[..., Any], args: Any) -> Any:
        if isinstance(job, JobFunction):
            return await _finished(job.call(args))
        resolved = self._resolver(job)
        if isinstance(resolved, job):
            return await _finished(resolved.execute(args))
        if isinstance(resolved, AbstractAsyncContextManager):
            async with resolved as instance:
                return await _finished(instance.execute(args))
        if isinstance(resolved, AbstractContextManager):
            with resolved as instance:
                return await _finished(instance.execute(args))
        instance = await resolved if isinstance(resolved, Awaitable) else resolved
        return await _finished(instance.execute(args))

    @contextmanager
    def _scope(self, resolved: Any) -> Iterator[Any]:
        """Enter a scope for a sync job. An async scope is entered and left on the loop, in one task."""
        if isinstance(resolved, AbstractContextManager):
            with resolved as instance:
                yield instance
        elif isinstance(resolved, AbstractAsyncContextManager):
            with _OnLoop(self.loop, resolved) as instance:
                yield instance
        elif isinstance(resolved, Awaitable):
            yield self.loop.run(_wait_for(resolved))
        else:
            yield resolved

    async def _limited(self, call: Coroutine[Any, Any, Any], seconds: float, who: JobEnvelope | None) -> Any:
        import asyncio

        task = asyncio.ensure_future(_end_of(call))
        loop = asyncio.get_running_loop()
        struck = []

        def strike() -> None:
            struck.append(True)
            loop.call_soon_threadsafe(task.cancel)

        with self._limits.limit(seconds, who, strike):
            try:
                result, error = await task
            except asyncio.CancelledError as cancelled:
                task.cancel()  # our own task was cancelled: the job must not go on alone
                if struck:
                    raise TimeIsUp from cancelled
                raise
            if error is not None:
                raise error
            return result


async def _end_of(call: Coroutine[Any, Any, Any]) -> tuple[Any, BaseException | None]:
    """Return the job's result, and its exception. If a task raised SystemExit, asyncio would leave the loop of all
    jobs.
    """
    import asyncio

    try:
        return await call, None
    except asyncio.CancelledError:
        raise
    except BaseException as error:  # noqa: BLE001  # whoever awaits the task raises it
        return None, error


async def _finished(call: Awaitable[Any]) -> Any:
    """Return the result of a call; run a coroutine that it returned: an `await` may have been forgotten."""
    result = await call
    if result is None:
        return None
    return _run(await result if isinstance(result, Awaitable) else result)


def _run(result: Any) -> Any:
    """Return the result of a job that ran; raise `JobDefinitionError` if it is the work itself, unrun."""
    if is_unrun(result):
        raise JobDefinitionError(
            f"The job returned a {type(result).__name__}, which is its work and not its result: nothing was run. It "
            "must not yield."
        )
    return result


async def _wait_for(awaitable: Awaitable[Any]) -> Any:
    return await awaitable


class _OnLoop(AbstractContextManager[Any]):
    """An async scope around a sync job. One task on the loop enters it, waits, and leaves it (cancel scopes insist)."""

    def __init__(self, loop: JobLoop, scope: AbstractAsyncContextManager[Any]) -> None:
        self._loop = loop
        self._scope = scope
        self._entered: Future[Any] = Future()
        self._left: Future[BaseException | None] = Future()

    async def _hold(self) -> None:
        import asyncio

        async with self._scope as instance:
            self._entered.set_result(instance)
            failure = await asyncio.wrap_future(self._left)
            if failure is not None:
                raise failure

    def __enter__(self) -> Any:
        self._held = self._loop.submit(self._hold())
        self._held.add_done_callback(self._fail_to_enter)
        return self._entered.result()

    def _fail_to_enter(self, held: Future[None]) -> None:
        if not self._entered.done():
            error = CancelledError() if held.cancelled() else held.exception()
            self._entered.set_exception(error or JobResolutionError("the scope was left before it was entered"))

    def __exit__(self, _type: Any, failure: BaseException | None, _traceback: Any) -> bool:
        if not self._left.done():  # else the loop was closed, and the task that held the scope with it
            self._left.set_result(failure)
        try:
            self._held.result()
        except BaseException as error:
            if error is failure:
                return False
            raise
        return failure is not None  # the scope swallowed it
