"""The fixture as users have it: under pytest, pytest-xdist, pytest-asyncio, anyio and unittest, each in a process."""

from __future__ import annotations

import pytest

APPLICATION = """
import asyncio
import pytest
from dataclasses import dataclass
from anyjob import AsyncBackgroundJob, BackgroundJob, current_job

done = []

@dataclass
class Mail:
    to: str

class SendMail(BackgroundJob[Mail]):
    def execute(self, args):
        if args.to == "bounce":
            raise ConnectionError
        done.append(args.to)

@dataclass
class Ping:
    number: int

class SendPing(AsyncBackgroundJob[Ping]):
    async def execute(self, args):
        done.append(args.number)
"""
EVERYTHING = """
@pytest.mark.parametrize("round", range(3))
class TestWorld:
    def test_that_fails_in_the_middle(self, anyjob_sandbox, round):
        with anyjob_sandbox.run_at_enqueue():
            SendMail.enqueue(Mail("a"))
        anyjob_sandbox.travel(days=round)
        with anyjob_sandbox.worker(raises=False):
            SendPing.enqueue(Ping(1))
        SendMail.enqueue(Mail("left"), delay=60)
        with anyjob_sandbox.freeze(), anyjob_sandbox.worker_killed():
            SendMail.enqueue(Mail("b"))
            anyjob_sandbox.run()
            SendMail.enqueue(Mail("bounce"))
            anyjob_sandbox.run()  # raises

    def test_the_next_world_is_empty(self, anyjob_sandbox, round):
        import datetime, threading, time_machine
        import anyjob
        anyjob_sandbox.assert_nothing_enqueued()
        assert anyjob_sandbox.ran == anyjob_sandbox.abandoned == ()
        assert set(anyjob.get_manager().inspect().count().values()) == {0}
        assert anyjob_sandbox.run_all() == 0
        assert not time_machine.escape_hatch.is_travelling()
        assert not [each for each in threading.enumerate() if each.name.startswith("anyjob-worker")]
        SendMail.enqueue(Mail("mine"))
        assert anyjob_sandbox.run() == 1
"""

pytestmark = pytest.mark.timeout(60)


@pytest.mark.parametrize("options", [(), ("-n", "2")], ids=["plain", "xdist"])
def test_no_test_leaves_anything_to_the_next_even_if_it_fails(
    pytester: pytest.Pytester, options: tuple[str, ...]
) -> None:
    pytester.makepyfile(APPLICATION + EVERYTHING)
    done = pytester.runpytest_subprocess("-p", "no:randomly", "-p", "no:asyncio", *options)
    done.assert_outcomes(passed=3, failed=3)
    assert "ConnectionError" in done.stdout.str()


def test_it_works_under_pytest_asyncio(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\n")
    pytester.makepyfile(
        APPLICATION
        + """
@pytest.fixture
async def loop():
    yield asyncio.get_running_loop()

async def test_it(anyjob_sandbox, loop):
    await SendPing.aenqueue(Ping(1))
    SendMail.enqueue(Mail("sync in async"))
    assert await anyjob_sandbox.arun() == 2
    assert done == [1, "sync in async"]
    assert asyncio.get_running_loop() is loop
"""
    )
    pytester.runpytest_subprocess("-p", "no:randomly").assert_outcomes(passed=1)


def test_it_works_under_anyio_on_both_loops(pytester: pytest.Pytester) -> None:
    pytest.importorskip("trio")
    pytester.makepyfile(
        APPLICATION
        + """
import anyio
from anyjob import background_job

@background_job("wait")
async def wait(seconds: float) -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(anyio.sleep, seconds)
    done.append(seconds)

@pytest.mark.anyio
async def test_it(anyjob_sandbox):
    done.clear()
    await wait.aenqueue(0)
    with anyio.fail_after(5):
        assert await anyjob_sandbox.arun() == 1
    with anyjob_sandbox.run_at_enqueue():
        await wait.aenqueue(0.001)
    assert done == [0, 0.001]
"""
    )
    pytester.runpytest_subprocess("-p", "no:randomly", "-p", "no:asyncio").assert_outcomes(passed=2)


def test_the_marker_says_what_to_behave_like_and_is_known(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        APPLICATION
        + """
from datetime import UTC, datetime
from anyjob.seams.capabilities import Capabilities

pytestmark = pytest.mark.anyjob_sandbox(start=datetime(2030, 1, 1, tzinfo=UTC))

def test_of_the_module(anyjob_sandbox):
    assert anyjob_sandbox.now().year == 2030

@pytest.mark.anyjob_sandbox(profile=Capabilities())
def test_of_its_own(anyjob_sandbox):
    import anyjob
    with pytest.raises(anyjob.UnsupportedCapabilityError):
        SendMail.enqueue(Mail("a"), delay=1)
"""
    )
    done = pytester.runpytest_subprocess("-p", "no:randomly", "-p", "no:asyncio", "--strict-markers")
    done.assert_outcomes(passed=2)


def test_a_test_run_without_the_fixture_imports_nothing_of_anyjob(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
import sys

def test_it():
    assert "pytest_anyjob" in sys.modules
    assert not [name for name in sys.modules if name.partition(".")[0] in ("anyjob", "msgspec")]
"""
    )
    pytester.runpytest_subprocess("-p", "no:randomly", "-p", "no:asyncio").assert_outcomes(passed=1)


def test_a_failed_claim_points_at_the_test_s_own_line(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        APPLICATION
        + """
def test_it(anyjob_sandbox):
    SendMail.enqueue(Mail("a"))
    anyjob_sandbox.assert_enqueued(SendMail, Mail("b"))
"""
    )
    done = pytester.runpytest_subprocess("-p", "no:randomly", "-p", "no:asyncio")
    done.stdout.fnmatch_lines(['>*assert_enqueued(SendMail, Mail("b"))', "E*args.to: 'a', expected 'b'"])
    assert "assertions.py" not in done.stdout.str()


def test_unittest_s_own_runner_runs_the_mixin(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        test_cases=APPLICATION
        + """
import unittest
from anyjob.testing import JobSandboxMixin

class Sync(JobSandboxMixin, unittest.TestCase):
    def test_it(self):
        SendMail.enqueue(Mail("a"))
        self.assertEqual(self.sandbox.run(), 1)

    def test_the_other(self):
        self.sandbox.assert_nothing_enqueued()

class Async(JobSandboxMixin, unittest.IsolatedAsyncioTestCase):
    async def test_it(self):
        await SendPing.aenqueue(Ping(1))
        self.assertEqual(await self.sandbox.arun_all(), 1)
"""
    )
    import sys

    done = pytester.run(sys.executable, "-m", "unittest", "test_cases")
    assert done.ret == 0, done.stderr.str()
    assert "Ran 3 tests" in done.stderr.str()
