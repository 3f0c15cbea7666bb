"""`anyjob migrate` and `anyjob count`: what they say, what they end with, and what they leave alone."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from click.testing import Result
from envelopes import make_envelope

from anyjob import EnqueueError, JobEnvelope, JobManager, JobState, override
from anyjob.cli.commands import ExitCode
from anyjob.extend import StoreBackend
from anyjob.seams.capabilities import Quality
from anyjob.stores.memory import InMemoryJobStore
from anyjob.stores.store_backend import memory_capabilities
from anyjob.testing import FakeClock

USAGE = 2
RUN = "the-run"

Run = Callable[..., Result]


@pytest.fixture
def new(clock: FakeClock) -> StoreBackend:
    return StoreBackend(InMemoryJobStore(clock), replace(memory_capabilities(30.0), in_process=False))


@pytest.fixture
def manager(make_manager: Callable[..., JobManager], server: StoreBackend, new: StoreBackend) -> Iterator[JobManager]:
    with override(make_manager(backends={"old": server, "new": new}, default="old")) as manager:
        yield manager


@pytest.fixture
def jobs(server: StoreBackend, clock: FakeClock, manager: JobManager) -> Sequence[JobEnvelope]:
    now = clock.now()
    jobs = [make_envelope(now, f"now-{number}", queue=("default", "mail")[number % 2]) for number in range(6)]
    jobs += [make_envelope(now, f"later-{number}", delay=timedelta(hours=1)) for number in range(4)]
    server.send(jobs)
    return jobs


def test_it_moves_what_waits(
    anyjob: Run, server: StoreBackend, new: StoreBackend, jobs: Sequence[JobEnvelope], tmp_path: Path
) -> None:
    file = tmp_path / "report.json"

    result = anyjob("migrate", "old", "new", "--report", str(file), "--batch", "3", "--resume", RUN)

    assert result.exit_code == ExitCode.DONE, result.output
    assert "run the-run: after a crash, go on with --resume the-run" in result.stderr
    assert "read 10 = moved 10 + left 0 + foreign 0\n'old' has no jobs now\n" in result.stdout
    assert server.store.count() == dict.fromkeys(JobState, 0)
    assert new.store.count()[JobState.SCHEDULED] == 4
    told = json.loads(file.read_text())
    assert (told["run"], told["moved"], told["is_balanced"], told["dry_run"]) == (RUN, 10, True, False)
    group = {"queue": "default", "state": "scheduled", "moved": 4, "left": 0, "why": []}
    assert {**told["groups"][0], "job": ""} == {**group, "job": ""}


@pytest.mark.parametrize(
    ("counted", "told"),
    [
        ([JobState.ABANDONED], "no abandoned jobs now; what is waiting, scheduled or running can't be counted"),
        (
            [JobState.WAITING, JobState.SCHEDULED],
            "no waiting or scheduled jobs now; what is running or abandoned can't",
        ),
    ],
)
def test_what_cant_be_counted_is_not_said_to_be_gone(
    anyjob: Run,
    server: StoreBackend,
    jobs: Sequence[JobEnvelope],
    counted: Sequence[JobState],
    told: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    inspector = server.inspector
    assert inspector is not None
    counts = inspector.count
    monkeypatch.setattr(inspector, "count", lambda: {state: counts()[state] for state in counted})

    result = anyjob("migrate", "old", "new")

    assert result.exit_code == ExitCode.DONE, result.output
    assert f"'old' has {told}" in result.stdout
    assert "no jobs" not in result.stdout


def test_a_dry_run_moves_nothing_and_tells_what_cannot_be_kept(
    anyjob: Run, server: StoreBackend, new: StoreBackend, jobs: Sequence[JobEnvelope]
) -> None:
    new.capabilities = replace(new.capabilities, delay=Quality.NONE)

    result = anyjob("migrate", "old", "new", "--dry-run")

    assert result.exit_code == ExitCode.FAILED
    assert "read 10 = would move 6 + left 4 + foreign 0" in result.stdout
    assert "'old' has waiting 6, scheduled 4 now" in result.stdout
    row = next(line for line in result.stdout.splitlines() if " scheduled " in line)
    assert row.split()[3:5] == ["0", "4"]
    assert "delay" in result.stdout
    assert server.store.count()[JobState.WAITING] == 6
    assert new.store.count() == dict.fromkeys(JobState, 0)


@pytest.mark.parametrize(
    ("options", "moved"),
    [
        (["--queue", "mail"], 3),
        (["-Q", "mail,default"], 10),
        (["--job", "no.such.*"], 0),
        (["--state", "scheduled"], 4),
        (["--state", "scheduled", "--state", "waiting"], 10),
        (["--state", "abandoned"], 0),
        (["--verify"], 10),
    ],
    ids=str,
)
def test_part_of_it(
    anyjob: Run, new: StoreBackend, jobs: Sequence[JobEnvelope], options: Sequence[str], moved: int
) -> None:
    result = anyjob("migrate", "old", "new", *options)

    assert result.exit_code == ExitCode.DONE, result.output
    assert f"read {moved} = moved {moved} + left 0 + foreign 0" in result.stdout
    assert sum(new.store.count().values()) == moved
    assert ("read back and equal: 10" in result.stdout) == ("--verify" in options)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no such device")
@pytest.mark.parametrize("options", [[], ["--dry-run"]], ids=str)
def test_a_report_that_can_not_be_written_is_printed(
    anyjob: Run, new: StoreBackend, jobs: Sequence[JobEnvelope], options: Sequence[str]
) -> None:
    result = anyjob("migrate", "old", "new", "--resume", RUN, "--report", "/dev/full", *options)

    assert result.exit_code == ExitCode.FAILED
    told = "the report can't be written to '/dev/full': No space left on device. It is printed instead."
    assert result.stderr.splitlines()[-1] == f"anyjob: {told}"
    told = json.loads(result.stdout[result.stdout.index("{") :])
    assert (told["read"], told["is_balanced"]) == (10, True)
    assert sum(new.store.count().values()) == (0 if options else 10)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no such device")
def test_a_report_of_what_was_cut_short_is_printed_as_well(
    anyjob: Run, new: StoreBackend, jobs: Sequence[JobEnvelope], monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(envelopes: Sequence[JobEnvelope], once: str) -> None:
        raise EnqueueError("it is away", in_doubt=[each.id for each in envelopes])

    monkeypatch.setattr(new, "send", away)
    result = anyjob("migrate", "old", "new", "--resume", RUN, "--report", "/dev/full")

    assert result.exit_code == ExitCode.UNREACHABLE
    assert f"Go on with --resume {RUN}\nthe report can't be written" in result.stderr
    assert json.loads(result.stdout[result.stdout.index("{") :])["run"] == RUN


@pytest.mark.parametrize("command", [["migrate", "old", "new"], ["adopt", "old", "--task", "a"]], ids=str)
@pytest.mark.parametrize("where", ["nowhere/report.json", "file/report.json", "."])
def test_nothing_moves_for_a_report_that_has_no_place(
    anyjob: Run, new: StoreBackend, jobs: Sequence[JobEnvelope], tmp_path: Path, command: Sequence[str], where: str
) -> None:
    (tmp_path / "file").touch()

    result = anyjob(*command, "--report", str(tmp_path / where))

    assert (result.exit_code, "--report" in result.stderr) == (USAGE, True)
    assert new.store.count() == dict.fromkeys(JobState, 0)


def test_a_report_of_earlier_is_kept_until_there_is_another(anyjob: Run, manager: JobManager, tmp_path: Path) -> None:
    file, fresh = tmp_path / "report.json", tmp_path / "fresh.json"
    file.write_text("earlier")

    for each in (file, fresh):
        assert anyjob("migrate", "old", "nwe", "--report", str(each)).exit_code == ExitCode.SETTINGS

    assert file.read_text() == "earlier"
    assert not fresh.exists()


def test_names_of_messages_forge_no_line_of_the_table(
    anyjob: Run, manager: JobManager, server: StoreBackend, clock: FakeClock
) -> None:
    server.send([make_envelope(clock.now(), "id1", "a\nread 0 = moved 0\x1b[2K")])

    result = anyjob("migrate", "old", "new", "--dry-run", COLUMNS="200")

    assert "a\\nread 0 = moved 0\\u001b[2K" in result.stdout
    assert all(line.isprintable() for line in result.stdout.splitlines())


@pytest.mark.parametrize(
    ("argv", "code", "told"),
    [
        (["old", "nwe"], ExitCode.SETTINGS, "Did you mean 'new'?"),
        (["old"], USAGE, "Missing argument 'TO'"),
        (["old", "new", "--batch", "0"], USAGE, "0 is not in the range"),
        (["old", "new", "--rate", "0"], USAGE, "0.0 is not in the range"),
        (["old", "new", "--state", "running"], USAGE, "'running' is not one of"),
        (["old", "new", "-Q", "no queue"], USAGE, "no queue"),
        (["old", "new", "--resume", "a:b"], ExitCode.FAILED, "resume: 'a:b' is no run's name"),
        (["old", "old"], ExitCode.FAILED, "there is nothing to move"),
    ],
    ids=str,
)
def test_what_makes_no_sense(
    anyjob: Run, jobs: Sequence[JobEnvelope], argv: Sequence[str], code: int, told: str
) -> None:
    result = anyjob("migrate", *argv)

    assert (result.exit_code, told in result.stderr) == (code, True), result.stderr


def test_memory_is_refused(anyjob: Run) -> None:
    result = anyjob(
        "migrate", "a", "b", ANYJOB_BACKENDS__A__URL="memory:", ANYJOB_BACKENDS__B__URL="memory:", ANYJOB_BACKEND="a"
    )

    assert result.exit_code == ExitCode.SETTINGS
    assert "another process never sees its jobs. Move them in Python, by migration()" in result.stderr


def test_what_is_left_ends_it_with_1(
    anyjob: Run, server: StoreBackend, new: StoreBackend, jobs: Sequence[JobEnvelope]
) -> None:
    new.send(jobs[:1])

    result = anyjob("migrate", "old", "new")

    assert result.exit_code == ExitCode.FAILED
    assert "read 10 = moved 9 + left 1 + foreign 0" in result.stdout
    assert "Backend 'new' has a job of that id already." in " ".join(result.stdout.split())
    assert "'old' has waiting 1 now" in result.stdout


def test_a_destination_that_is_away_ends_it_with_4_and_the_way_on(
    anyjob: Run, new: StoreBackend, jobs: Sequence[JobEnvelope], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "report.json"
    new.capabilities = replace(new.capabilities, moves_once=False)

    def away(envelopes: Sequence[JobEnvelope], once: str) -> None:
        raise EnqueueError("it is away", in_doubt=[each.id for each in envelopes])

    monkeypatch.setattr(new, "send", away)
    result = anyjob("migrate", "old", "new", "--resume", RUN, "--report", str(file), "--batch", "2")

    assert result.exit_code == ExitCode.UNREACHABLE
    assert "Interrupted, nothing is lost: it is away\nGo on with --resume the-run" in result.stderr
    assert "may be in 'new' twice: later-0, later-1" in result.stdout or "now-0" in result.stdout
    assert len(json.loads(file.read_text())["in_doubt"]) == 2


def test_a_signal_lets_the_batch_end(
    anyjob: Run, server: StoreBackend, new: StoreBackend, jobs: Sequence[JobEnvelope], monkeypatch: pytest.MonkeyPatch
) -> None:
    send = new.send

    def hear(envelopes: Sequence[JobEnvelope], once: str) -> None:
        signal.raise_signal(signal.SIGTERM)
        send(envelopes)

    monkeypatch.setattr(new, "send", hear)
    before = signal.getsignal(signal.SIGTERM)
    result = anyjob("migrate", "old", "new", "--batch", "4")

    assert result.exit_code == ExitCode.ABORTED
    assert "read 4 = moved 4 + left 0 + foreign 0" in result.stdout
    assert "run it again to move what 'old' still has" in result.stderr
    assert sum(new.store.count().values()) == 4
    assert sum(server.store.count().values()) == 6
    assert signal.getsignal(signal.SIGTERM) is before


def test_count(anyjob: Run, new: StoreBackend, jobs: Sequence[JobEnvelope], monkeypatch: pytest.MonkeyPatch) -> None:
    assert new.inspector is not None
    monkeypatch.setattr(new.inspector, "count", lambda: {JobState.WAITING: 0, JobState.ABANDONED: 2})

    table = [line.split() for line in anyjob("count").stdout.splitlines()]

    assert table[0] == ["backend", "waiting", "scheduled", "running", "abandoned"]
    assert table[1:] == [["old", "6", "4", "0", "0"], ["new", "0", "?", "?", "2"]]
    told = json.loads(anyjob("count", "--backend", "new", "--json").stdout)
    assert told == {"new": {"waiting": 0, "scheduled": None, "running": None, "abandoned": 2}}
    assert "Did you mean 'new'?" in anyjob("count", "--backend", "nwe").stderr
