"""The kit itself: it finds every backend that breaks a promise, by the test that is about that promise."""

from __future__ import annotations

import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conformance.folder_mutants import FOLDERS_FOUND_BY
from conformance.mutants import FOUND_BY, STORES_FOUND_BY

from anyjob.testing.conformance import BackendConformance

MUTANTS = Path(__file__).with_name("mutants.py")
FOLDERS = Path(__file__).with_name("folder_mutants.py")
SHARDS = 4  # they wait more than they work


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    """Run each mutant's test on it, and the same tests on the faithful store; return the outcomes by test."""
    wanted = [f"{MUTANTS}::Test{each.__name__}::{test}" for each, test in FOUND_BY.items()]
    wanted += [f"{MUTANTS}::TestFaithful::{test}" for test in {*FOUND_BY.values()}]
    wanted += [f"{MUTANTS}::TestStore{each.__name__}::{test}" for each, test in STORES_FOUND_BY.items()]
    wanted += [f"{MUTANTS}::TestStoreFaithful::{test}" for test in {*STORES_FOUND_BY.values()}]
    wanted += [f"{FOLDERS}::Test{name}::{test}" for name, test in FOLDERS_FOUND_BY.items()]
    wanted += [f"{FOLDERS}::TestFaithful::{test}" for test in {*FOLDERS_FOUND_BY.values()}]
    folder = tmp_path_factory.mktemp("verdicts")
    with ThreadPoolExecutor(SHARDS) as pool:
        shards = pool.map(lambda number: _run(wanted[number::SHARDS], folder / f"{number}.xml"), range(SHARDS))
        return {test: outcome for shard in shards for test, outcome in shard.items()}


def _run(tests: Sequence[str], report: Path) -> Mapping[str, str]:
    options = ["-q", "-p", "no:cacheprovider", "-c", str(MUTANTS.parents[2] / "pyproject.toml"), f"--junitxml={report}"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *tests],
        env={**os.environ, "ANYJOB_TEST_PATIENCE": "0.3"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert report.exists(), done.stdout + done.stderr
    cases = ET.parse(report).getroot().iter("testcase")  # noqa: S314  # our own
    return {
        "::".join([*case.get("classname", "").rsplit(".", 2)[1:], str(case.get("name"))]): (
            next((child.tag for child in case if child.tag in ("failure", "error", "skipped")), "passed")
        )
        for case in cases
    }


@pytest.mark.timeout(300)  # the first one waits for all
@pytest.mark.parametrize(("mutant", "test"), [(each.__name__, test) for each, test in FOUND_BY.items()])
def test_a_broken_promise_is_found(verdicts: Mapping[str, str], mutant: str, test: str) -> None:
    assert verdicts[f"mutants::TestFaithful::{test}"] == "passed"
    assert verdicts[f"mutants::Test{mutant}::{test}"] == "failure"


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("mutant", "test"), [(each.__name__, test) for each, test in STORES_FOUND_BY.items()])
def test_a_broken_promise_of_a_store_is_found(verdicts: Mapping[str, str], mutant: str, test: str) -> None:
    assert verdicts[f"mutants::TestStoreFaithful::{test}"] == "passed"
    assert verdicts[f"mutants::TestStore{mutant}::{test}"] == "failure"


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("mutant", "test"), FOLDERS_FOUND_BY.items())
def test_a_broken_promise_is_found_that_only_processes_see(verdicts: Mapping[str, str], mutant: str, test: str) -> None:
    assert verdicts[f"folder_mutants::TestFaithful::{test}"] == "passed"
    assert verdicts[f"folder_mutants::Test{mutant}::{test}"] == "failure"


def test_there_are_as_many_tests_as_the_documentation_says() -> None:
    tests = [name for name in dir(BackendConformance) if name.startswith("test_")]
    page = Path(__file__).parents[2] / "docs" / "write_an_adapter.md"
    assert f"are plain pytest methods, {len(tests)} of them" in page.read_text(encoding="utf-8")
