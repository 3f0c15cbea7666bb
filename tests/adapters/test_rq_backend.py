"""RQ's backend: what it takes, what it tells, and what becomes of a send when Redis is away."""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import fakeredis
import pytest
import redis
from envelopes import make_envelope
from msgspec.structs import replace
from servers import PrivateRedis, free_port

from anyjob import JobManager, JobRegistry
from anyjob.base.errors import ConfigurationError, DuplicateJobIdError, EnqueueError, UnsupportedCapabilityError
from anyjob.seams.backend import BackendConfig, NativeCommand
from anyjob.seams.capabilities import ALL_STATES
from anyjob.seams.outcome import Retry
from anyjob.seams.stored import JobFilter, JobState
from anyjob.seams.worker_options import WorkerOptions
from anyjob.settings.loader import load_backend
from anyjob.testing import FakeClock
from anyjob_rq import RQBackend, RQJobWorker

NOW = FakeClock().now()


def configured(url: str, **options: Any) -> RQBackend:
    return RQBackend(BackendConfig(alias="main", url=url, **options))


# Configuration


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("rq+redis://localhost:1/3", redis.Connection),
        ("rq+rediss://localhost:1/3", redis.SSLConnection),
        ("rq+unix:///run/redis.sock?db=3", redis.UnixDomainSocketConnection),
    ],
)
def test_each_scheme_is_found_and_connects_to_nothing(url: str, kind: type) -> None:
    backend = load_backend(BackendConfig(alias="main", url=url))
    assert isinstance(backend, RQBackend)
    pool = backend.client.connection_pool
    assert pool.connection_class is kind
    assert pool.connection_kwargs["db"] == 3
    backend.close()


def test_time_outs_keep_an_enqueue_within_its_bound_and_options_win() -> None:
    kwargs = configured("rq+redis://h", enqueue_timeout=3.0).client.connection_pool.connection_kwargs
    assert (kwargs["socket_timeout"], kwargs["socket_connect_timeout"]) == (1.5, 1.5)
    kwargs = configured("rq+redis://h", options={"socket_timeout": 9}).client.connection_pool.connection_kwargs
    assert (kwargs["socket_timeout"], kwargs["socket_connect_timeout"]) == (9, 2.5)


@pytest.mark.parametrize(
    ("url", "options", "match"),
    [
        ("rq+redis://h", {"sokcet_timeout": 1}, "main: the redis client can't use this: .*sokcet_timeout"),
        ("rq+redis://h/jobs", {}, "main: the redis client can't use this: 'jobs' is no database's number"),
        ("rq+redis://h:port", {}, "main.url: it can't be read.*A port is a number"),
        ("rq+redis://h", {"decode_responses": True}, "decode_responses must be off"),
    ],
)
def test_what_the_client_cannot_use_is_refused(url: str, options: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigurationError, match=match):
        configured(url, options=options)


def test_a_connection_of_ones_own_must_not_decode() -> None:
    own = fakeredis.FakeRedis(decode_responses=True)
    with pytest.raises(ConfigurationError, match="decode_responses must be off"):
        RQBackend(BackendConfig(alias="main", url="rq+redis://h"), connection=own)


def test_capabilities_are_told() -> None:
    can = configured("rq+redis://h", lease=30.0).capabilities
    assert dict(can.describe()) == {
        "priority": "exact",
        "priority across a worker's queues": "yes",
        "delay": "exact, at most 2 s late",
        "bulk enqueue": "batch",
        "a taken id is refused": "yes",
        "lists jobs": "every state",
        "takes out single jobs": "waiting, scheduled, abandoned",
        "moves jobs away": "waiting, scheduled, abandoned",
        "what is moved here is here": "once",
        "counts exactly": "every state",
        "a worker ends by itself (`burst`, `max_jobs`)": "yes",
        "survives the process": "yes",
        "survives a server restart": "yes",
        "runs again after a crash, within": "41 s",
        "counts crashes": "exactly",
        "a time limit ends": "any job",
        "a job may keep the interpreter's lock for": "any time",
    }
    assert can.removal == ALL_STATES - {JobState.RUNNING}


# The native worker


@pytest.mark.parametrize(
    ("options", "closed", "command"),
    [
        (WorkerOptions(), None, ["worker", "*"]),
        (WorkerOptions(queues=("mail", "default")), None, ["worker", "mail", "default"]),
        (WorkerOptions(), ("default", "mail"), ["worker", "default", "mail"]),
        (WorkerOptions(concurrency=3), None, ["worker-pool", "--num-workers", "3", "*"]),
        (WorkerOptions(burst=True, max_jobs=7), None, ["worker", "--burst", "--max-jobs", "7", "*"]),
        (WorkerOptions(concurrency=2, burst=True), None, ["worker-pool", "--num-workers", "2", "--burst", "*"]),
    ],
)
def test_the_native_command(options: WorkerOptions, closed: tuple[str, ...] | None, command: list[str]) -> None:
    backend = configured("rq+redis://:secret@h:1/3", queues=closed)
    native = backend.native_worker(options)
    assert isinstance(native, NativeCommand)
    assert native.argv[:3] == (sys.executable, "-m", "anyjob_rq")
    rest = list(native.argv[3:])
    at = rest.index("--worker-class")
    assert rest[at : at + 2] == ["--worker-class", "anyjob_rq.RQJobWorker"]
    assert rest[:at] + rest[at + 2 :] == command
    assert native.environment == {"RQ_REDIS_URL": "redis://:secret@h:1/3"}
    assert "secret" not in repr(native) + repr(backend) + " ".join(native.argv)


def test_a_pool_counts_no_jobs() -> None:
    manager = JobManager(configured("rq+redis://h"), registry=JobRegistry())
    with pytest.raises(UnsupportedCapabilityError, match="worker-pool.* counts none. With max_jobs, start several"):
        manager.any_worker("default", WorkerOptions(max_jobs=7, concurrency=2))


def test_no_command_line_holds_a_connection_of_ones_own(backend: RQBackend, manager: JobManager) -> None:
    with pytest.raises(ConfigurationError, match="Start the worker in code: RQJobWorker"):
        backend.native_worker(WorkerOptions())


@pytest.mark.parametrize("queues", [["Mail"], ["anyjob:mail:high"], ["reports"]])
def test_a_worker_is_given_logical_queues_that_there_are(queues: list[str], manager: JobManager) -> None:
    backend = RQBackend(
        BackendConfig(alias="main", url="rq+redis://h", queues=("default",)), connection=fakeredis.FakeRedis()
    )
    with pytest.raises(ConfigurationError, match=r"has no queue .* closed to: default"):
        RQJobWorker(queues, backend=backend, executor=manager.executor)


def test_a_worker_of_another_backend_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anyjob.current._manager", None)
    monkeypatch.setenv("ANYJOB_BACKEND", "memory:")
    with pytest.raises(ConfigurationError, match="Set ANYJOB_WORKER_BACKEND"):
        RQJobWorker(["default"])


# Redis away


def send_two(backend: RQBackend) -> EnqueueError:
    began = time.monotonic()
    with pytest.raises(EnqueueError) as caught:
        backend.send([make_envelope(NOW, "a"), make_envelope(NOW, "b")])
    assert time.monotonic() - began < backend.config.enqueue_timeout
    assert isinstance(caught.value.__cause__, redis.RedisError)
    return caught.value


def test_refused_is_rejected() -> None:
    error = send_two(configured(f"rq+redis://127.0.0.1:{free_port()}", enqueue_timeout=1.0))
    assert (error.rejected, error.in_doubt) == (("a", "b"), ())


@pytest.fixture
def black_hole() -> Iterator[int]:
    """A port that accepts and never answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def test_a_black_hole_that_never_greets_has_nothing(black_hole: int) -> None:
    error = send_two(configured(f"rq+redis://127.0.0.1:{black_hole}", enqueue_timeout=1.0))
    assert (error.rejected, error.in_doubt) == (("a", "b"), ())


def test_what_was_sent_and_not_answered_is_in_doubt(private_redis: PrivateRedis) -> None:
    backend = configured(f"rq+{private_redis.url}", enqueue_timeout=1.0)
    backend.send([make_envelope(NOW, "first")])
    with private_redis.paused():
        error = send_two(backend)
    assert (error.rejected, error.in_doubt) == ((), ("a", "b"))
    assert {job.id for job in backend.inspector.scan(JobFilter()).jobs} == {"first", "a", "b"}  # they were there
    backend.send([make_envelope(NOW, "last")])
    assert len(backend.inspector.scan(JobFilter()).jobs) == 4
    backend.close()


def test_a_refusal_by_the_server_is_rejected(private_redis: PrivateRedis) -> None:
    with private_redis.client() as client:
        client.config_set("maxmemory", 1)
    backend = configured(f"rq+{private_redis.url}")
    error = send_two(backend)
    assert (error.rejected, error.in_doubt) == (("a", "b"), ())
    backend.close()


def test_after_a_restart_it_goes_on_without_an_error(private_redis: PrivateRedis) -> None:
    backend = configured(f"rq+{private_redis.url}")
    backend.send([make_envelope(NOW, "first")])
    private_redis.stop()
    private_redis.start()
    backend.send([make_envelope(NOW, "second")])  # its scripts are not known there any more
    assert backend.inspector.count()[JobState.WAITING] == 2
    backend.close()


@pytest.mark.parametrize(
    "look",
    [
        lambda inspector: inspector.count(),
        lambda inspector: inspector.scan(JobFilter()),
        lambda inspector: inspector.find("a"),
        lambda inspector: inspector.cancel("a"),
        lambda inspector: inspector.retry("a"),
    ],
)
def test_the_inspector_tells_it_in_our_words(look: Callable[[Any], object]) -> None:
    backend = configured(f"rq+redis://127.0.0.1:{free_port()}")
    with pytest.raises(EnqueueError, match="Redis can't be reached") as caught:
        look(backend.inspector)
    assert isinstance(caught.value.__cause__, redis.RedisError)


def test_a_client_that_retries_still_sends_once(private_redis: PrivateRedis) -> None:
    with private_redis.client() as own:  # redis-py's default: tries again
        own.connection_pool.connection_kwargs["socket_timeout"] = 0.3
        backend = RQBackend(BackendConfig(alias="main", url="rq+redis://own"), connection=own)
        backend.send([make_envelope(NOW, "first")])
        with private_redis.paused():
            error = send_two(backend)
    assert error.in_doubt == ("a", "b")


# Threads and forks


def test_a_fork_has_connections_of_its_own(private_redis: PrivateRedis) -> None:
    backend = configured(f"rq+{private_redis.url}")
    backend.send([make_envelope(NOW, "parent")])
    children = []
    for number in range(5):
        pid = os.fork()
        if pid == 0:
            try:
                for each in range(20):
                    backend.send([make_envelope(NOW, f"child-{number}-{each}")])
            finally:
                os._exit(0)
        children.append(pid)
        backend.send([make_envelope(NOW, f"parent-{number}")])
    for pid in children:
        assert os.waitpid(pid, 0)[1] == 0
    assert backend.inspector.count()[JobState.WAITING] == 106
    backend.close()


def test_threads_share_a_backend(private_redis: PrivateRedis) -> None:
    backend = configured(f"rq+{private_redis.url}")

    def send_fifty(thread: int) -> None:
        for each in range(50):
            backend.send([make_envelope(NOW, f"t{thread}-{each}")])

    threads = [threading.Thread(target=send_fifty, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert backend.inspector.count()[JobState.WAITING] == 200
    backend.close()


def test_what_a_worker_lost_in_this_very_moment_is_not_sent_again(private_redis: PrivateRedis) -> None:
    backend = load_backend(BackendConfig(alias="main", url=f"rq+{private_redis.url}"))
    assert isinstance(backend, RQBackend)
    with private_redis.client() as client:
        for holder in ("slow", "quick"):
            client.set(f"anyjob:alive:{holder}", 1)
        envelope = make_envelope(backend.config.clock.now(), "a")
        backend.send([envelope])
        held = backend.messages.take("slow", ["default"], 0)
        assert held is not None
        backend.messages.give_back("slow", lost=True)  # while it was paused, after it had asked whether it holds it
        with backend.messages.settling("slow", held.entry), pytest.raises(DuplicateJobIdError):
            backend.settle(Retry(replace(envelope, try_count=1)))
        again = backend.messages.take("quick", ["default"], 0)
        assert again is not None
        with backend.messages.settling("quick", again.entry):
            backend.settle(Retry(replace(envelope, try_count=1)))
        assert backend.messages.acknowledge("quick", again.entry, "", 0.0)
    assert backend.inspector.count()[JobState.WAITING] == 1
    backend.close()
