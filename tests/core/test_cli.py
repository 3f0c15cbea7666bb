"""The command line: what it says, what it ends with, and a worker that stops when it is told to."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from click.testing import Result

from anyjob import (
    BackgroundJob,
    EnqueueError,
    JobEnvelope,
    JobFailure,
    JobManager,
    JobPriority,
    JobRegistry,
    JobState,
    job_name,
    override,
)
from anyjob.cli.commands import ExitCode
from anyjob.extend import StoreBackend
from anyjob.seams.backend import JobBackend, NativeCommand
from anyjob.seams.stored import JobFilter
from anyjob.seams.worker_options import WorkerOptions

USAGE = 2


@job_name("mail.send")
@dataclass
class Email:
    to: str
    subject: str = ""


@pytest.fixture
def registry() -> JobRegistry:
    registry = JobRegistry()

    class SendEmail(BackgroundJob[Email], registry=registry):
        def execute(self, args: Email) -> None: ...

    return registry


Run = Callable[..., Result]


# Settings that won't do


def test_without_settings(anyjob: Run) -> None:
    for command in (["worker"], ["enqueue", "x", "{}"], ["config"]):
        result = anyjob(*command)
        assert result.exit_code == ExitCode.SETTINGS
        assert "ANYJOB_BACKEND" in result.stderr
        assert result.stdout == ""


def test_faults_are_told_one_a_line(anyjob: Run) -> None:
    result = anyjob("config", ANYJOB_BACKEND="nobody", ANYJOB_NAMESPASE="x")

    assert result.exit_code == ExitCode.SETTINGS
    assert result.stderr.splitlines() == [
        "anyjob: environment: unknown variable ANYJOB_NAMESPASE. Did you mean 'ANYJOB_NAMESPACE'?",
        "environment: default = 'nobody' names no backend. Defined: none.",
    ]


@pytest.mark.parametrize(
    ("command", "why"),
    [
        (["worker"], "a worker of another process never sees its jobs"),
        (["worker", "--print-command"], "a worker of another process never sees its jobs"),
        (["enqueue", "mail.send", "{}"], "the job would end with this command"),
    ],
)
def test_memory_is_refused_with_the_way_out(anyjob: Run, command: Sequence[str], why: str) -> None:
    result = anyjob(*command, ANYJOB_BACKEND="memory:")

    assert result.exit_code == ExitCode.SETTINGS
    assert f"Backend 'default' lives in one process: {why}." in result.stderr
    assert "manager.start_worker()" in result.stderr


def test_no_worker_where_only_enqueueing_is_allowed(anyjob: Run) -> None:
    result = anyjob("worker", ANYJOB_BACKEND="memory:", ANYJOB_ENQUEUE_ONLY="1")

    assert result.exit_code == ExitCode.SETTINGS
    assert "ANYJOB_ENQUEUE_ONLY" in result.stderr


def test_an_unknown_alias(anyjob: Run) -> None:
    result = anyjob("worker", "--backend", "defualt", ANYJOB_BACKEND="memory:")

    assert result.exit_code == ExitCode.SETTINGS
    assert "No backend is called 'defualt'. Did you mean 'default'?" in result.stderr


def test_a_module_of_jobs_that_is_not_there(anyjob: Run) -> None:
    result = anyjob("worker", ANYJOB_BACKEND="memory:", ANYJOB_IMPORTS="nowhere.jobs")

    assert result.exit_code == ExitCode.SETTINGS
    assert "imports: there is no module 'nowhere.jobs'" in result.stderr


@pytest.mark.parametrize(
    "argv",
    [
        ["nothing"],
        ["worker", "--concurrency", "0"],
        ["worker", "--stop-timeout", "-1"],
        ["worker", "-Q", "mail,Web"],
        ["worker", "-Q", "mail,"],
        ["enqueue", "mail.send"],
        ["enqueue", "mail.send", "{}", "--priority", "urgent"],
        ["enqueue", "mail.send", "{}", "--delay", "soon"],
        ["enqueue", "mail.send", "{"],
        ["enqueue", "mail.send", "[" * 100_000],
    ],
    ids=lambda argv: " ".join(argv)[:50],
)
def test_wrong_usage(anyjob: Run, argv: Sequence[str]) -> None:
    result = anyjob(*argv, ANYJOB_BACKEND="memory:")

    assert result.exit_code == USAGE
    assert "Usage: " in result.stderr


def test_help_and_version(anyjob: Run) -> None:
    assert all(command in anyjob("-h").stdout for command in ("worker", "enqueue", "config"))
    assert "version" in anyjob("--version").stdout


# -A


@pytest.mark.parametrize(
    ("app", "told"),
    [
        ("nowhere", "-A nowhere: there is no module 'nowhere' here or on the path."),
        ("shop.nowhere:manager", "there is no module 'shop.nowhere'"),
        ("shop:nothing", "-A shop:nothing: 'nothing' is no JobManager in shop."),
        ("shop:number", "'number' is no JobManager in shop."),
    ],
)
def test_a_wrong_app(anyjob: Run, app: str, told: str) -> None:
    Path("shop.py").write_text("number = 7")

    result = anyjob("-A", app, "worker")

    assert result.exit_code == ExitCode.SETTINGS
    assert told in result.stderr


def test_what_an_app_fails_to_import_is_its_own_affair(anyjob: Run) -> None:
    Path("shop.py").write_text("import missing_library")

    with pytest.raises(ModuleNotFoundError, match="missing_library"):
        anyjob("-A", "shop", "worker")


def test_an_app_brings_its_manager(anyjob: Run) -> None:
    Path("shop.py").write_text(
        "from anyjob import Capabilities, JobManager, JobRegistry\n"
        "from anyjob.extend import StoreBackend\n"
        "from anyjob.stores.memory import InMemoryJobStore\n"
        "registry = JobRegistry()\n"
        "registry.register_handler('plugin', print)\n"
        "manager = JobManager(StoreBackend(InMemoryJobStore(), Capabilities()), registry=registry, retry=None)\n"
    )

    result = anyjob("-A", "shop:manager", "enqueue", "plugin", "[1]", "--id", "mine")

    assert (result.exit_code, result.stdout) == (ExitCode.DONE, "mine\n")
    assert sys.modules["shop"].manager.inspect().find("mine").state is JobState.WAITING


# enqueue


@pytest.fixture
def in_force(make_manager: Callable[..., JobManager], server: StoreBackend) -> Iterator[JobManager]:
    with override(make_manager(backends=server)) as manager:
        yield manager


def waiting(manager: JobManager) -> list[JobEnvelope]:
    return [job.envelope for job in manager.inspect().scan(JobFilter()).jobs if job.envelope is not None]


def test_enqueue_prints_the_id(anyjob: Run, in_force: JobManager) -> None:
    result = anyjob("enqueue", "mail.send", '{"to": "a@b.c"}')

    (envelope,) = waiting(in_force)
    assert (result.exit_code, result.stdout) == (ExitCode.DONE, f"{envelope.id}\n")
    assert json.loads(bytes(envelope.args))["to"] == "a@b.c"
    assert (envelope.queue, envelope.priority, envelope.due_at) == ("default", JobPriority.NORMAL, None)


def test_enqueue_takes_options(anyjob: Run, in_force: JobManager) -> None:
    options = ["--priority", "high", "--delay", "60", "--queue", "mail", "--id", "mine"]
    result = anyjob("enqueue", "mail.send", '{"to": "a@b.c"}', *options)

    (envelope,) = waiting(in_force)
    assert (result.exit_code, result.stdout) == (ExitCode.DONE, "mine\n")
    assert (envelope.id, envelope.queue, envelope.priority) == ("mine", "mail", JobPriority.HIGH)
    assert envelope.due_at is not None
    assert (envelope.due_at - envelope.created_at).total_seconds() == 60


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["mail.sent", "{}"], "No job is named 'mail.sent'. Did you mean 'mail.send'?"),
        (["mail.send", "{}"], "missing required field `to`"),
        (["mail.send", '{"to": 3}'], "Expected `str`, got `int` - at `$.to`"),
        (["mail.send", '{"to": "a", "subjet": ""}'], "unknown field 'subjet' at `$`. Did you mean 'subject'?"),
        (["mail.send", '{"to": NaN}'], "at `$.to`"),
        (["mail.send", '{"to": "a"}', "--delay", "-1"], "delay = -1.0"),
        (["mail.send", '{"to": "a"}', "--queue", "My Mail"], "queue = 'My Mail'"),
        (["mail.send", '{"to": "a"}', "--id", "no good"], "job_id = 'no good'"),
    ],
    ids=str,
)
def test_a_job_that_is_refused(anyjob: Run, in_force: JobManager, argv: Sequence[str], told: str) -> None:
    result = anyjob("enqueue", *argv)

    assert result.exit_code == ExitCode.FAILED
    assert told in result.stderr
    assert result.stdout == ""
    assert waiting(in_force) == []


def test_an_id_that_is_taken(anyjob: Run, in_force: JobManager) -> None:
    job = ["enqueue", "mail.send", '{"to": "a"}', "--id", "mine"]

    assert anyjob(*job).exit_code == ExitCode.DONE
    assert anyjob(*job).exit_code == ExitCode.FAILED
    assert len(waiting(in_force)) == 1


def test_a_backend_that_is_away(
    anyjob: Run, in_force: JobManager, server: StoreBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_envelopes: object, once: str | None = None) -> None:
        raise EnqueueError("the server is away")

    monkeypatch.setattr(server, "send", refuse)
    result = anyjob("enqueue", "mail.send", '{"to": "a"}')

    assert (result.exit_code, result.stderr) == (ExitCode.UNREACHABLE, "anyjob: the server is away\n")
    assert waiting(in_force) == []


# config


SECRETS = """
observers = ["shop.tracing:Tracing", "shop.sentry:Errors"]
resolver = "shop.container:resolver"
[backends.main]
url = "memory:?password=hunter2&db=[bold]"
queues = ["mail", "web"]
[backends.main.options]
api_key = "hunter2"
[[routes]]
job = "billing.*"
backend = "main"
"""


def test_config_hides_passwords_and_names_the_sources(anyjob: Run) -> None:
    Path("anyjob.toml").write_text(SECRETS)
    Path("pyproject.toml").write_text("[tool.anyjob]\nmax_losses = 3")

    table = anyjob("config", ANYJOB_NAMESPACE="shop", COLUMNS="200")
    as_json = anyjob("config", "--json", ANYJOB_NAMESPACE="shop")

    assert table.exit_code == as_json.exit_code == ExitCode.DONE
    assert "hunter2" not in table.stdout + as_json.stdout
    rows = {path: (row["value"], row["source"]) for path, row in json.loads(as_json.stdout).items()}
    route = "(JobRoute(backend='main', job='billing.*', queue=None),)"
    assert rows == {
        "backends.main.options": ("api_key=***", "anyjob.toml"),
        "backends.main.queues": ("mail, web", "anyjob.toml"),
        "backends.main.url": ("memory:?password=***&db=[bold]", "anyjob.toml"),
        "max_losses": ("3", "pyproject.toml [tool.anyjob]"),
        "namespace": ("shop", "environment"),
        "observers": ("shop.tracing:Tracing, shop.sentry:Errors", "anyjob.toml"),
        "resolver": ("shop.container:resolver", "anyjob.toml"),
        "routes": (route, "anyjob.toml"),
    }
    shown = [line.split(maxsplit=1) for line in table.stdout.splitlines()]
    assert [" ".join(rest.split()) for _, rest in shown] == ["value from", *map(" ".join, rows.values())]


def test_config_cuts_nothing_off_in_a_narrow_window(anyjob: Run) -> None:
    url = "memory:?db=" + "x" * 200
    result = anyjob("config", ANYJOB_BACKEND=url, COLUMNS="60")

    assert result.stdout.count("x") == 200


def test_config_of_a_named_file(anyjob: Run) -> None:
    Path("other.toml").write_text("backends.named = 'memory:'")

    assert "backends.named.url" in anyjob("--config", "other.toml", "config").stdout
    missing = anyjob("--config", "missing.toml", "config")
    assert (missing.exit_code, missing.stderr) == (
        ExitCode.SETTINGS,
        "anyjob: missing.toml: there is no such file.\n",
    )


# worker


class Native(JobBackend):
    """Has a worker of its own."""

    def __init__(self, server: StoreBackend) -> None:
        self.capabilities = server.capabilities
        self.asked: list[WorkerOptions] = []

    def send(self, envelopes: Sequence[JobEnvelope], *, once: str | None = None) -> None: ...

    def park(self, raw: bytes, failure: JobFailure) -> str:
        raise NotImplementedError

    def native_worker(self, options: WorkerOptions) -> NativeCommand:
        self.asked.append(options)
        return NativeCommand(("native", "--name", "my worker"), {"URL": "with-a-password"})


def test_print_command_shows_what_would_run(
    anyjob: Run, make_manager: Callable[..., JobManager], server: StoreBackend
) -> None:
    native = Native(server)
    with override(make_manager(backends=native)):
        result = anyjob("worker", "-c", "4", "-Q", "mail, web", "--stop-timeout", "5", "--print-command")

    assert (result.exit_code, result.stdout) == (ExitCode.DONE, "native --name 'my worker'\n")
    assert native.asked == [WorkerOptions(queues=("mail", "web"), concurrency=4, stop_timeout=5.0)]


def test_a_worker_is_told_when_to_end_and_what_to_leave_out(
    anyjob: Run, make_manager: Callable[..., JobManager], server: StoreBackend
) -> None:
    native = Native(server)
    with override(make_manager(backends=native, queues={"default": ["mail", "web", "bulk"]})):
        result = anyjob("worker", "--burst", "--max-jobs", "7", "-X", "bulk", "--print-command")
        assert result.exit_code == ExitCode.DONE, result.output
        assert native.asked == [WorkerOptions(queues=("mail", "web"), burst=True, max_jobs=7)]

        result = anyjob("worker", "-X", "bulk", "-Q", "mail", "--print-command")
        assert (result.exit_code, "--queues or --exclude-queues" in result.stderr) == (2, True)
        result = anyjob("worker", "-X", "bulks", "--print-command")
        assert (result.exit_code, "Did you mean 'bulk'" in result.stderr) == (ExitCode.FAILED, True)

        native.capabilities = replace(native.capabilities, bounded_worker=False)
        result = anyjob("worker", "--burst", "--print-command")
        assert (result.exit_code, "ends only when it is told to" in result.stderr) == (ExitCode.FAILED, True)


def test_print_command_without_a_native_worker(anyjob: Run, in_force: JobManager) -> None:
    result = anyjob("worker", "--print-command")

    assert (result.exit_code, result.stdout) == (
        ExitCode.DONE,
        "backend 'default' has no native worker: it runs in this process\n",
    )


def test_jobs_that_cannot_travel_are_found_before_the_worker_starts(anyjob: Run, in_force: JobManager) -> None:
    @job_name("model")
    class Model:
        __mapper__ = object()

    class Save(BackgroundJob[Model], registry=in_force.registry):
        def execute(self, args: Model) -> None: ...

    result = anyjob("worker")

    assert result.exit_code == ExitCode.FAILED
    assert "database model" in result.stderr


def test_doctor_asks_each_backend(anyjob: Run, in_force: JobManager, server: StoreBackend) -> None:
    in_force.enqueue(Email("a@b.c"))
    server.risks = ["some_setting: something may be lost; use another"]

    result = anyjob("doctor")

    assert result.exit_code == ExitCode.DONE
    assert "1 names, all can travel" in result.output
    assert "1 waiting" in result.output
    assert "risk  default  some_setting: something may be lost; use another" in result.output
    assert anyjob("doctor", "--strict").exit_code == ExitCode.FAILED


def test_doctor_tells_what_is_away(
    anyjob: Run, in_force: JobManager, server: StoreBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away() -> None:
        raise EnqueueError("the server is away\x1b[2K")

    monkeypatch.setattr(server.inspector, "count", away)

    result = anyjob("doctor")

    assert result.exit_code == ExitCode.UNREACHABLE
    assert "away  default  the server is away\\u001b[2K" in result.output


def test_a_worker_without_its_server_ends_and_says_so(
    anyjob: Run, make_manager: Callable[..., JobManager], server: StoreBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away() -> None:
        raise EnqueueError("Redis: connection refused\n2026-01-01 ERROR forged\x1b[2K")

    monkeypatch.setattr(server.inspector, "count", away)
    native = Native(server)
    native.inspector = server.inspector
    for backend in (server, native):
        with override(make_manager(backends=backend)):
            result = anyjob("worker")
        told = "No worker starts, for backend 'default' does not answer: Redis: connection refused"
        assert result.exit_code == ExitCode.UNREACHABLE
        assert result.stderr == f"anyjob: {told}\\n2026-01-01 ERROR forged\\u001b[2K\n"


def test_doctor_on_memory(anyjob: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANYJOB_BACKEND", "memory:")

    assert "lives in the process that enqueues" in anyjob("doctor").output


# In a process of its own


TOY = '''
import os, sys, threading
from anyjob import JobManager, background_job, current_job, default_registry
from anyjob.stores.memory import InMemoryJobStore
from anyjob.extend import StoreBackend
from anyjob.seams.backend import NativeCommand
from anyjob.seams.capabilities import Capabilities, Quality


@background_job("toy.say")
def say(text: str) -> None:
    print(f"said {text}", flush=True)


@background_job("toy.hang")
def hang() -> None:
    print("hanging", flush=True)
    threading.Event().wait()


@background_job("toy.finish")
def finish() -> None:
    os.write(1, b"waiting to finish\\n")  # at once: others write there as well
    pause = threading.Event()
    while not current_job().should_stop:
        pause.wait(0.01)
    os.write(1, b"finished\\n")


def backend(config):
    """A store that comes with the jobs that the URL names."""
    store = InMemoryJobStore(config.clock)
    backend = StoreBackend(store, Capabilities(priority=Quality.EXACT, delay=Quality.EXACT))
    manager = JobManager(backend, registry=default_registry)
    for name in config.url.partition(":")[2].split(","):
        manager.enqueue_by_name(f"toy.{name}", {"text": "hello"} if name == "say" else {})
    return backend


class Native(StoreBackend):
    def native_worker(self, options):
        code = "import os; print('native', os.getpid(), os.environ['TOY_URL'], os.environ['KEPT'])"
        return NativeCommand((sys.executable, "-c", code), {"TOY_URL": "a-secret"})


def native(config):
    return Native(InMemoryJobStore(config.clock), Capabilities())
'''


@pytest.fixture
def toy(tmp_path: Path) -> dict[str, str]:
    """Install a package that brings backends, as pip would; return the environment that sees it."""
    site = tmp_path / "site"
    info = site / "toy-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[anyjob.backends]\ntoy = toy:backend\ntoy+native = toy:native\n")
    (site / "toy.py").write_text(TOY)
    return {**os.environ, "PYTHONPATH": str(site), "ANYJOB_IMPORTS": "toy"}


@pytest.fixture
def start(toy: dict[str, str]) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    with ExitStack() as stack:

        def start_worker(url: str, *argv: str, **environ: str) -> subprocess.Popen[str]:
            process = stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-m", "anyjob", "worker", *argv],
                    env={**toy, "ANYJOB_BACKEND": url, **environ},
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                )
            )
            stack.callback(process.kill)
            return process

        yield start_worker


Start = Callable[..., "subprocess.Popen[str]"]


def read_until(process: subprocess.Popen[str], *texts: str) -> None:
    """Read until each of the texts was seen, in any order."""
    assert process.stdout is not None
    left = set(texts)
    for line in process.stdout:
        sys.stdout.write(line)  # pytest shows it if the test failed, by its time limit too
        left -= {text for text in left if text in line}
        if not left:
            return
    pytest.fail(f"the worker ended without {left}")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_worker_runs_jobs_until_it_is_told_to_stop(start: Start, number: signal.Signals) -> None:
    process = start("toy:say")

    read_until(process, "said hello")
    process.send_signal(number)
    read_until(process, f"received signal={number.name}")

    assert process.wait() == ExitCode.DONE


def test_the_first_signal_lets_jobs_finish(start: Start) -> None:
    process = start("toy:finish,say")

    read_until(process, "waiting to finish")
    process.terminate()
    read_until(process, "finished")

    assert process.wait() == ExitCode.DONE
    assert process.stdout is not None
    assert "said" not in process.stdout.read()


def test_a_second_signal_gives_jobs_back(start: Start) -> None:
    process = start("toy:hang")

    read_until(process, "hanging")
    process.terminate()
    read_until(process, "received signal=SIGTERM")
    process.terminate()
    read_until(process, "released id=")

    assert process.wait() == ExitCode.ABORTED


def test_a_job_that_does_not_finish_in_time_is_given_back(start: Start) -> None:
    process = start("toy:hang", "--stop-timeout", "0.1")

    read_until(process, "hanging")
    process.terminate()
    read_until(process, "released id=")

    assert process.wait() == ExitCode.ABORTED


def test_a_native_worker_takes_the_place_of_the_process(start: Start) -> None:
    process = start("toy+native:", KEPT="kept")
    output, _ = process.communicate()

    assert output == f"native {process.pid} a-secret kept\n"
    assert process.returncode == 0


def test_a_worker_serves_the_backend_that_it_is_given(start: Start) -> None:
    process = start("memory:", "--backend", "other", ANYJOB_BACKENDS__OTHER__URL="toy:say")
    read_until(process, "said hello")

    process = start("memory:", ANYJOB_WORKER_BACKEND="toy:say")
    read_until(process, "said hello")


def test_several_backends_have_a_worker_each(start: Start) -> None:
    process = start("toy:finish", "--all", ANYJOB_BACKENDS__OTHER__URL="toy:finish")

    read_until(process, "waiting to finish")
    read_until(process, "waiting to finish")
    process.terminate()
    read_until(process, "finished")
    read_until(process, "finished")

    assert process.wait() == ExitCode.DONE


def test_a_worker_that_ends_takes_the_others_along(start: Start) -> None:
    other = {"ANYJOB_BACKENDS__OTHER__URL": "toy+native:", "KEPT": "kept"}
    process = start("toy:finish", "--backend", "other", "--backend", "default", **other)

    output, _ = process.communicate(timeout=15)
    assert "ended backend=other code=0" in output
    assert process.returncode == ExitCode.DONE


def test_a_burst_ends_by_itself(start: Start) -> None:
    process = start("toy:say,say", "--burst")
    output, _ = process.communicate(timeout=15)

    assert (process.returncode, output.count("said hello")) == (ExitCode.DONE, 2)


def test_in_a_burst_of_several_backends_each_ends_for_itself(start: Start) -> None:
    queues = {f"ANYJOB_BACKENDS__{alias}__QUEUES": "default,bulk" for alias in ("DEFAULT", "OTHER")}
    other = {"ANYJOB_BACKENDS__OTHER__URL": "toy:say,say,say", **queues}
    process = start("toy:finish", "--all", "--burst", "--max-jobs", "2", "-X", "bulk", "-c", "2", **other)

    read_until(process, "waiting to finish", "INFO    ended backend=other code=0")  # and the first goes on
    process.terminate()
    read_until(process, "finished")

    assert process.wait() == ExitCode.DONE


@pytest.mark.parametrize("library", ["click", "rich"])
def test_without_its_libraries_the_command_says_what_to_install(library: str) -> None:
    code = f"import sys; sys.modules[{library!r}] = None; from anyjob.cli import main; main()"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert ended.returncode == ExitCode.FAILED
    assert ended.stderr == f"The anyjob command needs {library}. Run: pip install 'anyjob[cli]'\n"
