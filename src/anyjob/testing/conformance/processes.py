"""Worlds on a server: a namespace of its own, and `anyjob worker` as its users start it, in processes to be killed."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from anyjob.base.envelope import QUEUE_NAME
from anyjob.current import default_registry, override
from anyjob.send.manager import JobManager
from anyjob.settings import load_settings
from anyjob.settings.compose import build
from anyjob.testing.conformance.harness import PROBES, SHORT, BackendHarness, WorkerHandle, World, retry_of
from anyjob.testing.probes.journal import Journal, wait_until

__all__ = ["ServerHarness", "ServerWorld", "WorkerProcess"]

QUEUES: Final = ("default", "a", "b")
ENQUEUE_TIMEOUT: Final = 2.0


class WorkerProcess(WorkerHandle):
    """A command that was started as a process group of its own; what it prints goes to the file `log`."""

    def __init__(self, argv: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        self.log = log
        self.on_pause: Callable[[], object] | None = None
        """Lets the server see that the worker is silent, where that would take it long by itself."""
        with log.open("ab") as out:
            self.process = subprocess.Popen(
                argv, env=environment, stdout=out, stderr=subprocess.STDOUT, cwd=log.parent, start_new_session=True
            )

    def kill(self) -> None:
        # Stopped first, parents and all, until nobody new is found: who replaces dead children would do so in between.
        stopped: set[int] = set()
        while found := self.pids - stopped:
            _signal(found, signal.SIGSTOP)
            stopped |= found
        _signal(stopped, signal.SIGKILL)
        self._wait_for_the_end_of(stopped)

    def behead(self) -> None:
        all_of_it = self.pids
        self.process.kill()
        self._wait_for_the_end_of(all_of_it)

    @property
    def lives(self) -> bool:
        return self.process.poll() is None

    def pause(self) -> None:
        _signal(self.pids, signal.SIGSTOP)
        if self.on_pause is not None:
            self.on_pause()

    def resume(self) -> None:
        _signal(self.pids, signal.SIGCONT)

    def terminate(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()

    def wait(self, timeout: float = 20.0) -> None:
        wait_until(lambda: self.process.poll() is not None, timeout=timeout, what=self._told)

    def wait_for_its_end(self, timeout: float = 20.0) -> int:
        self.wait(timeout)
        return self.process.returncode

    @property
    def exit_code(self) -> int:
        return self.process.wait()

    @property
    def pids(self) -> set[int]:
        """Its processes, those too whose parent is gone, and those that one of them started in a session of its own."""
        return _family(self.process.pid)

    def said(self) -> str:
        """Return the end of what it printed."""
        return self.log.read_text(errors="replace")[-3000:]

    def _wait_for_the_end_of(self, pids: set[int]) -> None:
        self.process.wait()
        wait_until(lambda: pids.isdisjoint(_running()), what="the processes of a killed worker to end")

    def _told(self) -> str:
        return f"the worker to stop; it said:\n{self.said()}"


def _signal(pids: Iterable[int], number: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def _running() -> Mapping[int, tuple[int, int]]:
    """Return the parent and the session of each process that runs; one that ended and waits for its parent does not."""
    command = ["ps", "-A", "-o", "pid=,ppid=,sess=,stat="]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    rows = [line.split() for line in listed.splitlines()]
    return {int(pid): (int(parent), int(session)) for pid, parent, session, state in rows if state[0] != "Z"}


def _family(leader: int) -> set[int]:
    """Return all processes in the session of a leader, and all their children, and theirs."""
    running = _running()
    found = [pid for pid, (_, session) in running.items() if session == leader]
    for each in found:
        found.extend(pid for pid, (parent, _) in running.items() if parent == each and pid not in found)
    return {*found}


class ServerWorld(World):
    """A namespace on a server. An adapter's own subclass says how messages get in past the core and what to remove."""

    found_in: Sequence[Path] = ()
    """Folders of modules that its processes import, beside what is installed."""

    def __init__(self, url: str, folder: Path, settings: Mapping[str, Any]) -> None:
        self.url = url
        self.folder = folder
        self.namespace: str = settings.get("namespace", f"kit{secrets.token_hex(6)}")
        self.journal = Journal(folder / "journal")
        backends = {"main": {"url": url, "queues": list(QUEUES)}}
        plain = {"backends": backends, "namespace": self.namespace, **SHORT}
        self._settings = {**plain, **_retry_of({**plain, **settings}), **settings}
        self._workers: list[WorkerProcess] = []
        self._file = self.write_settings(*PROBES)
        self.manager = _manager_of({}, self._file)
        self._override = override(self.manager)  # for what finds its manager by itself
        self._override.__enter__()

    @abstractmethod
    def clear(self) -> None:
        """Remove everything under `namespace` from the server."""

    def start_worker(
        self,
        *,
        queues: Sequence[str] | None = None,
        concurrency: int = 1,
        imports: Sequence[str] = PROBES,
        burst: bool = False,
        max_jobs: int | None = None,
        **settings: Any,
    ) -> WorkerProcess:
        file = self.write_settings(*imports, **settings)
        argv = ["-m", "anyjob", "--config", str(file), "worker", "-c", str(concurrency)]
        if queues is not None:
            argv += ["-Q", ",".join(queues)]
        if burst:
            argv.append("--burst")
        if max_jobs is not None:
            argv += ["--max-jobs", str(max_jobs)]
        return self.start_process(*argv)

    def start_process(self, *arguments: str) -> WorkerProcess:
        """Start a Python of this environment, with none of its settings, to be killed with the world."""
        plain = {name: value for name, value in os.environ.items() if not name.startswith("ANYJOB_")}
        # What a worker's coverage of a user's own would add to the environment stays; programs are found beside python.
        plain["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), plain.get("PATH", "")])
        if self.found_in:
            plain["PYTHONPATH"] = os.pathsep.join([*map(str, self.found_in), plain.get("PYTHONPATH", "")])
        log = self.folder / f"worker-{len(self._workers)}.log"
        worker = WorkerProcess([sys.executable, *arguments], plain, log)
        self._workers.append(worker)
        return worker

    @contextmanager
    def another_manager(self, *, queues: Sequence[str] | None = None) -> Iterator[JobManager]:
        file = self._file
        if queues is not None:
            file = self.write_settings(
                backends={"main": {**self._settings["backends"]["main"], "queues": list(queues)}}
            )
        with closing(_manager_of({}, file)) as manager:
            yield manager

    def close(self) -> None:
        for worker in self._workers:
            worker.kill()
        self.clear()
        self._override.__exit__(None, None, None)
        self.manager.close()

    def write_settings(self, *imports: str, **settings: Any) -> Path:
        """Write a file of settings for another process, `settings` over those of the world; return its path."""
        assert QUEUE_NAME.fullmatch(self.namespace)
        said = {"imports": list(imports), **self._settings, **settings}
        file = self.folder / f"anyjob-{len(list(self.folder.glob('anyjob-*')))}.toml"
        file.write_text("\n".join(f"{key} = {_toml(value)}" for key, value in said.items()), encoding="utf-8")
        return file


class ServerHarness(BackendHarness):
    """Opens `ServerWorld`s on the server at `url`."""

    def __init__(self, url: str) -> None:
        self.url = url

    @abstractmethod
    def open(self, folder: Path, **settings: Any) -> ServerWorld: ...

    @abstractmethod
    def url_at(self, host: str, port: int) -> str:
        """Return the URL of a server of the same kind at another address."""

    def unreachable(self, host: str, port: int) -> JobManager:
        plain = {"backends": {"main": self.url_at(host, port)}, "enqueue_timeout": ENQUEUE_TIMEOUT}
        return _manager_of({**plain, **_retry_of(plain)})


def _manager_of(given: Mapping[str, Any], file: Path | None = None) -> JobManager:
    """Return the manager that settings describe, and nothing of the environment."""
    settings = load_settings(given, environ={}, directory=Path("/"), config=file)
    assert settings is not None
    return build(settings, registry=default_registry)


def _retry_of(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return `retry_of` the backend that settings describe: it is made for that, and connects to nothing."""
    with closing(_manager_of(settings)) as manager:
        return retry_of(manager.backend().capabilities)


def _toml(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(key)} = {_toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value, ensure_ascii=False)  # numbers, strings and booleans are spelt alike
