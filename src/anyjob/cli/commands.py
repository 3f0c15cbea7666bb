"""The commands, and the exit codes that scripts can rely on."""

from __future__ import annotations

import functools
import json
import logging
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from enum import IntEnum
from pathlib import Path
from typing import Any, NoReturn, ParamSpec, cast

import click
from msgspec.structs import replace
from rich.console import Console
from rich.table import Column, Table

from anyjob import current
from anyjob.base.envelope import QUEUE_NAME, QUEUE_RULE, JobPriority
from anyjob.base.error_text import visible
from anyjob.base.errors import AnyjobError, ConfigurationError, DuplicateJobIdError, EnqueueError, NotConfiguredError
from anyjob.base.urls import hide_password
from anyjob.cli.doctor import Verdict, examine
from anyjob.cli.process import run_worker
from anyjob.define.options import EnqueueOptions
from anyjob.run.stopping import HANDED_BACK
from anyjob.run.supervisor import UP_VARIABLE, Supervisor
from anyjob.seams.backend import JobBackend, NativeCommand
from anyjob.seams.stored import JobState
from anyjob.seams.worker_options import WorkerOptions
from anyjob.send.manager import JobManager
from anyjob.settings import Settings, load_settings
from anyjob.settings.loader import installed_schemes
from anyjob.settings.sources import APP_VARIABLE, CONFIG_VARIABLE

__all__ = ["ExitCode", "cli", "fail", "refuse_in_process", "split_queues", "with_exit_codes"]

P = ParamSpec("P")


class ExitCode(IntEnum):
    """Exit codes of the command; 2 (wrong usage) is click's, 130 (Ctrl-C) the shell's."""

    DONE = 0
    FAILED = 1
    SETTINGS = 3
    UNREACHABLE = 4
    ABORTED = HANDED_BACK


def fail(code: ExitCode, *told: object) -> NoReturn:
    """End the command with messages, a line each, and an exit code."""
    click.echo("anyjob: " + "\n".join(visible(str(each)) for each in told), err=True)
    sys.exit(code)


def with_exit_codes(command: Callable[P, None]) -> Callable[P, None]:
    """Turn our errors into a message and an exit code. What is not ours keeps its traceback."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except ConfigurationError as error:
            fail(ExitCode.SETTINGS, *error.faults)
        except EnqueueError as error:
            taken = isinstance(error, DuplicateJobIdError)
            fail(ExitCode.FAILED if taken else ExitCode.UNREACHABLE, error)
        except AnyjobError as error:
            fail(ExitCode.FAILED, error)

    return run


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "-A", "--app", metavar="MODULE[:MANAGER]", help="Import MODULE; use its MANAGER instead of the settings'."
)
@click.option("--config", type=click.Path(path_type=Path), help="Read settings from this file.")
@click.option("-v", "--verbose", is_flag=True, help="Log debug messages too.")
@click.version_option(package_name="anyjob")
def cli(app: str | None, config: Path | None, verbose: bool) -> None:
    """Background jobs, on the job system that your settings name."""
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.INFO, format="%(asctime)s %(levelname)-7s %(message)s"
    )
    if config is not None:
        os.environ[CONFIG_VARIABLE] = str(config)
    if app is not None:
        os.environ[APP_VARIABLE] = app  # a native worker finds the application by it
    if "" not in sys.path:
        sys.path.insert(0, "")  # the application's modules are here, as `python -m` would find them


def split_queues(_context: click.Context, _parameter: click.Parameter, value: str | None) -> tuple[str, ...] | None:
    """Read a list of queues; the callback of an option."""
    if value is None:
        return None
    names = tuple(name.strip() for name in value.split(","))
    for name in names:
        if not QUEUE_NAME.fullmatch(name):
            raise click.BadParameter(f"{name!r}: {QUEUE_RULE}")
    return names


@cli.command()
@click.option(
    "--backend",
    "backends",
    metavar="ALIAS",
    multiple=True,
    help="Serve this backend; several get a process each. Default: ANYJOB_WORKER_BACKEND, else `default`.",
)
@click.option("--all", "every", is_flag=True, help="Serve all backends of the settings.")
@click.option("-Q", "--queues", metavar="A,B", callback=split_queues, help="Serve these queues only.")
@click.option("-X", "--exclude-queues", metavar="A,B", callback=split_queues, help="Serve all queues but these.")
@click.option("-c", "--concurrency", type=click.IntRange(min=1), default=1, show_default=True, help="Jobs at a time.")
@click.option("--stop-timeout", type=click.FloatRange(min=0), metavar="SECONDS", help="Default: the settings'.")
@click.option("--burst", is_flag=True, help="Run what is due, and end.")
@click.option("--max-jobs", type=click.IntRange(min=1), metavar="N", help="End after N jobs.")
@click.option("--print-command", is_flag=True, help="Show the native worker's command line, and don't run it.")
@with_exit_codes
def worker(
    backends: Sequence[str],
    every: bool,
    queues: tuple[str, ...] | None,
    exclude_queues: tuple[str, ...] | None,
    concurrency: int,
    stop_timeout: float | None,
    burst: bool,
    max_jobs: int | None,
    print_command: bool,
) -> None:
    """Run a worker of the configured backend: its native one, set up safely, or ours."""
    up = os.environ.pop(UP_VARIABLE, None)  # not for what jobs start
    manager = current.load_application()
    if manager.enqueue_only:
        raise ConfigurationError("enqueue_only is set (ANYJOB_ENQUEUE_ONLY?): no worker starts here.")
    aliases = list(dict.fromkeys(manager.backends if every else backends or (manager.worker_backend,)))
    if queues is not None and exclude_queues is not None:
        raise click.UsageError("--queues or --exclude-queues: one of them says what to serve.")
    options = replace(
        manager.worker_options,
        queues=queues,
        exclude_queues=exclude_queues or (),
        concurrency=concurrency,
        burst=burst,
        max_jobs=max_jobs,
    )
    if stop_timeout is not None:
        options = replace(options, stop_timeout=stop_timeout)
    for alias in aliases:
        refuse_in_process(manager, alias, "a worker of another process never sees its jobs")
    manager.registry.check(manager.executor.serializer)
    found = {alias: manager.any_worker(alias, options) for alias in aliases}
    if print_command:
        for alias, each in found.items():
            ours = f"backend {alias!r} has no native worker: it runs in this process"
            click.echo(shlex.join(each.argv) if isinstance(each, NativeCommand) else ours)
        return
    if len(found) == 1:
        (alias,) = found
        _refuse_absence(alias, manager.backend(alias))
        one = found[alias]
        if isinstance(one, NativeCommand):
            _become(alias, one, options)
        elif up is not None:
            try:
                done = run_worker(one, up)
            finally:
                manager.close()  # a broker may have delivered what was not begun: it goes back uncharged
            sys.exit(ExitCode.DONE if done else ExitCode.ABORTED)
    manager.close()
    bounded = burst or max_jobs is not None
    commands = {alias: _command(alias, options) for alias in found}
    sys.exit(Supervisor(commands, bounded=bounded, absent=(ExitCode.UNREACHABLE,)).run())


@cli.command()
@click.argument("name")
@click.argument("payload", metavar="JSON")
@click.option("--priority", type=click.Choice([each.name.lower() for each in JobPriority]))
@click.option("--delay", type=float, metavar="SECONDS")
@click.option("--queue")
@click.option("--id", "job_id", metavar="ID")
@with_exit_codes
def enqueue(
    name: str,
    payload: str,
    priority: str | None,
    delay: float | None,
    queue: str | None,
    job_id: str | None,
) -> None:
    """Enqueue the job NAME with its arguments as JSON, and print its id."""
    try:
        data = json.loads(payload)
    except (ValueError, RecursionError) as error:
        raise click.BadParameter(str(error), param_hint="JSON") from error
    given: dict[str, Any] = {"delay": delay, "queue": queue, "job_id": job_id}
    options = {key: value for key, value in given.items() if value is not None}
    if priority is not None:
        options["priority"] = JobPriority[priority.upper()]
    manager = current.load_application()
    refuse_in_process(manager, manager.default, "the job would end with this command")
    click.echo(manager.enqueue_by_name(name, data, **cast("EnqueueOptions", options)))


@cli.command("config")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@with_exit_codes
def show_config(as_json: bool) -> None:
    """Show the merged settings, each with the place it comes from; passwords are hidden."""
    settings = load_settings(schemes=installed_schemes())
    if settings is None:
        raise NotConfiguredError("No settings name a backend. Set ANYJOB_BACKEND, or write anyjob.toml.")
    rows = [(path, _shown(path, _value(settings, path)), settings.sources[path]) for path in sorted(settings.sources)]
    if as_json:
        click.echo(json.dumps({path: {"value": value, "source": source} for path, value, source in rows}, indent=2))
        return
    columns = (Column(name, overflow="fold") for name in ("setting", "value", "from"))
    table = Table(*columns, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*row)
    Console(markup=False, highlight=False).print(table)


@cli.command()
@click.option("--backend", metavar="ALIAS", help="Default: the backend that new jobs go to.")
@with_exit_codes
def capabilities(backend: str | None) -> None:
    """Show what a backend can do, and how well; nothing is connected to."""
    can = current.load_application().backend(backend).capabilities
    table = Table(box=None, pad_edge=False, show_header=False)
    for promise, kept in can.describe():
        table.add_row(promise, kept)
    Console(markup=False, highlight=False).print(table)


@cli.command()
@click.option("--strict", is_flag=True, help="End with 1 if anything is at risk.")
@with_exit_codes
def doctor(strict: bool) -> None:
    """Check settings and jobs, ask each backend whether it answers, and tell what is at risk, setting by setting."""
    found = list(examine(current.load_application()))
    table = Table(Column(), Column(), Column(overflow="fold"), box=None, pad_edge=False, show_header=False)
    for finding in found:
        table.add_row(finding.verdict.value, finding.where, visible(finding.told))
    Console(markup=False, highlight=False).print(table)
    verdicts = {finding.verdict for finding in found}
    if Verdict.AWAY in verdicts:
        sys.exit(ExitCode.UNREACHABLE)
    if strict and Verdict.RISK in verdicts:
        sys.exit(ExitCode.FAILED)


@cli.command()
@click.option("--backend", "backends", metavar="ALIAS", multiple=True, help="Default: every backend of the settings.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON; what can't be counted is null.")
@with_exit_codes
def count(backends: Sequence[str], as_json: bool) -> None:
    """Count the jobs of each backend by their state; '?' is what its job system can't tell."""
    manager = current.load_application()
    aliases = list(dict.fromkeys(backends or manager.backends))
    for alias in aliases:
        refuse_in_process(manager, alias, "another process never sees its jobs")
    counts = {alias: manager.inspect(alias).count() for alias in aliases}
    if as_json:
        told = {alias: {state.value: found.get(state) for state in JobState} for alias, found in counts.items()}
        click.echo(json.dumps(told, indent=2))
        return
    table = Table("backend", *(Column(state.value, justify="right") for state in JobState), box=None, pad_edge=False)
    for alias, found in counts.items():
        table.add_row(alias, *(str(found.get(state, "?")) for state in JobState))
    Console(markup=False, highlight=False).print(table)


def _value(settings: Settings, path: str) -> Any:
    if not path.startswith("backends."):
        return getattr(settings, path)
    alias, name = path.removeprefix("backends.").rsplit(".", 1)
    return getattr(settings.backends[alias], name)


def _shown(path: str, value: Any) -> str:
    if path.endswith(".url"):
        return hide_password(value)
    if path.endswith(".options"):  # an option of a native library may well be a secret
        return ", ".join(f"{key}=***" for key in value)
    return ", ".join(value) if isinstance(value, tuple) and all(isinstance(each, str) for each in value) else str(value)


def _command(alias: str, options: WorkerOptions) -> Sequence[str]:
    """Return this command for one backend; the application, and the settings, are in the environment."""
    argv = [sys.executable, "-m", "anyjob", *(["-v"] if logging.getLogger().isEnabledFor(logging.DEBUG) else [])]
    argv += ["worker", "--backend", alias, "--concurrency", str(options.concurrency)]
    argv += ["--stop-timeout", f"{options.stops_within:g}"]
    for name, queues in (("--queues", options.queues), ("--exclude-queues", options.exclude_queues)):
        argv += [name, ",".join(queues)] if queues else []
    if options.burst:
        argv.append("--burst")
    if options.max_jobs is not None:
        argv += ["--max-jobs", str(options.max_jobs)]
    return argv


def _become(alias: str, worker: NativeCommand, options: WorkerOptions) -> NoReturn:
    """Become the native worker: the environment has those options that its argv can't."""
    said = {"ANYJOB_WORKER_BACKEND": alias, "ANYJOB_STOP_TIMEOUT": f"{options.stops_within:g}"}
    try:
        os.execvpe(worker.argv[0], worker.argv, {**os.environ, **said, **worker.environment})  # noqa: S606
    except FileNotFoundError as error:
        raise ConfigurationError(f"There is no program {worker.argv[0]!r} on the path to run the worker.") from error


def _refuse_absence(alias: str, backend: JobBackend) -> None:
    """Raise `EnqueueError` if the server is unreachable: a supervisor is to know it, and to start the worker again.

    Once a worker runs, it waits until its server is reachable.
    """
    try:
        if backend.inspector is not None:
            backend.inspector.count()
    except EnqueueError as error:
        raise EnqueueError(f"No worker starts, for backend {alias!r} does not answer: {error}") from error
    finally:
        backend.close()  # with what the worker would not know of


def refuse_in_process(manager: JobManager, alias: str, why: str) -> None:
    """Raise `ConfigurationError` if the jobs of a backend live in this process, and so end with it."""
    if manager.backend(alias).capabilities.in_process:
        raise ConfigurationError(
            f"Backend {alias!r} lives in one process: {why}. Start the worker inside the application, with "
            "manager.start_worker(), or configure a backend with a server."
        )
