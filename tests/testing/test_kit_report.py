"""What a run of the kit tells beside its results: the logs of a failed test's workers, and what was not proved."""

from __future__ import annotations

import subprocess
import sys

import pytest

RUN = """
import pytest
from pathlib import Path
from anyjob.testing.conformance.fixtures import not_proved

class TestMine:
    @classmethod
    def make_harness(cls, tmp_path_factory): ...

    def test_that_fails(self, tmp_path):
        (tmp_path / "worker-0.log").write_text("x" * 5_000 + "the reason")
        (tmp_path / "chaos").mkdir()
        (tmp_path / "chaos" / "worker-1.log").write_text("another's reason")
        (tmp_path / "chaos" / "worker-2.log").touch()
        assert False

    def test_that_passes(self, tmp_path):
        (tmp_path / "worker-0.log").write_text("all is well")

    def test_that_proves_nothing(self):
        not_proved("that pigs fly: there are none")

    def test_that_proves_nothing_either(self):
        not_proved("that pigs fly: there are none")

    def test_that_is_skipped(self):
        pytest.skip("of itself")

def test_that_fails_and_is_none_of_the_kits(tmp_path):
    (tmp_path / "worker-0.log").write_text("nobody's business")
    assert False
"""


def test_the_log_of_a_failed_tests_workers_is_shown_and_what_was_not_proved(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(RUN)
    run = pytester.runpytest_subprocess("-p", "no:cacheprovider")
    run.assert_outcomes(failed=2, passed=1, skipped=3)
    run.stdout.fnmatch_lines(["*- worker-0.log in *test_that_fails0 -*", "*xxx*the reason"])
    run.stdout.fnmatch_lines(["*- worker-1.log in *", "another's reason"])
    told = run.stdout.str()
    assert "worker-2.log in" not in told
    assert "all is well" not in told
    assert told.count("nobody's business") == 1  # in the traceback
    assert "x" * 3_001 not in told
    run.stdout.fnmatch_lines(["*= what the kit did not prove =*", "*::TestMine", "    that pigs fly: there are none"])
    assert told.count("    that pigs fly") == 1


def test_the_state_machine_says_what_it_needs() -> None:
    script = (
        "import sys; sys.modules['hypothesis'] = None; from anyjob.testing.conformance import BackendConformance; "
        "from anyjob.testing.conformance import StoreMachine"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert run.stderr.splitlines()[-1] == "ImportError: StoreMachine needs Hypothesis. Run: pip install hypothesis"
