"""What was written into Redis by others: none of it runs, all of it is parked, the worker and its neighbours go on."""

from __future__ import annotations

import os
import pickle
import socket
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from envelopes import make_envelope
from msgspec import Raw
from rq import Callback, Queue, Retry
from rq.job import Job
from rq.serializers import JSONSerializer
from rq.webhook import Webhook
from rq_world import World

from anyjob.base.envelope import write_envelope
from anyjob.seams.stored import JobFilter, JobState
from anyjob.testing.probes.journal import wait_until
from anyjob_rq import EnvelopeSerializer, frame

pytestmark = pytest.mark.timeout(60)


class Attack:
    """Ways to write into a queue of ours. `proof` is a file that exists if anything of it was run."""

    def __init__(self, world: World, proof: Path, port: int) -> None:
        self.client: redis.Redis = world.client
        self.namespace = world.namespace
        self.name = f"{world.namespace}:default:normal"
        self.proof = proof
        self.port = port
        self.now = world.backend.config.clock.now()

    def queue(self, serializer: Any) -> Queue:
        return Queue(self.name, connection=self.client, serializer=serializer)

    def ours(self, job_id: str, **options: Any) -> Job:
        """A job that is ours to the letter, but for the options."""
        raw = Raw(write_envelope(make_envelope(self.now, job_id, "say", {"word": "evil"})))
        settings: dict[str, Any] = {"timeout": -1, "result_ttl": 0, "description": "say", **options}
        return Job.create(
            frame.ENTRY,
            args=[raw],
            connection=self.client,
            id=f"{self.namespace}-J-{job_id}",
            serializer=EnvelopeSerializer,
            **settings,
        )

    def shell_command(self) -> None:
        self.queue(JSONSerializer).enqueue("os.system", f"touch {self.proof}")

    def pickled_code(self) -> None:
        self.queue(None).enqueue("os.system", f"touch {self.proof}")

    def pickle_that_acts_when_it_is_read(self) -> None:
        job = self.ours("pickled")
        self.queue(EnvelopeSerializer).enqueue_job(job)
        self.client.hset(job.key, "data", zlib.compress(pickle.dumps(_Bomb(str(self.proof)))))

    def pickle_in_meta(self) -> None:
        job = self.ours("meta")
        self.queue(EnvelopeSerializer).enqueue_job(job)
        self.client.hset(job.key, "meta", pickle.dumps(_Bomb(str(self.proof))))

    def success_callback(self) -> None:
        self.queue(EnvelopeSerializer).enqueue_job(self.ours("success", on_success=Callback("os.getpid")))

    def failure_callback(self) -> None:
        self.queue(EnvelopeSerializer).enqueue_job(self.ours("failure", on_failure=Callback("os.getpid")))

    def stopped_callback(self) -> None:
        self.queue(EnvelopeSerializer).enqueue_job(self.ours("stopped", on_stopped=Callback("os.getpid")))

    def webhook(self) -> None:
        self.queue(EnvelopeSerializer).enqueue_job(
            self.ours("webhook", webhooks=[Webhook(f"http://127.0.0.1:{self.port}/", "finished")])
        )

    def retries(self) -> None:
        self.queue(EnvelopeSerializer).enqueue_job(self.ours("retries", retry=Retry(max=3)))

    def time_to_live(self) -> None:
        self.queue(EnvelopeSerializer).enqueue_job(self.ours("ttl", ttl=3600))

    def corrupt_timeout(self) -> None:
        job = self.ours("corrupt")
        self.queue(EnvelopeSerializer).enqueue_job(job)
        self.client.hset(job.key, "timeout", "abc")

    def missing_hash(self) -> None:
        self.client.rpush(f"rq:queue:{self.name}", f"{self.namespace}-J-nobody")

    def an_id_that_rq_would_not_take(self) -> None:
        self.client.rpush(f"rq:queue:{self.name}", b"\xff \n:")

    def another_type(self) -> None:
        self.client.set(f"rq:job:{self.namespace}-J-text", "text")
        self.client.rpush(f"rq:queue:{self.name}", f"{self.namespace}-J-text")

    def our_frame_under_a_foreign_id(self) -> None:
        job = self.ours("foreign")
        job.id = "foreign"
        self.queue(EnvelopeSerializer).enqueue_job(job)

    def bytes_that_are_no_json(self) -> None:
        self.framed("bytes", b"\xff\xfe{")

    def an_envelope_of_a_newer_version(self) -> None:
        self.framed("newer", b'{"v":99,"id":"newer","what":"ever"}')

    def framed(self, job_id: str, raw: bytes) -> None:
        job = self.ours(job_id)
        self.queue(EnvelopeSerializer).enqueue_job(job)
        data = EnvelopeSerializer.dumps((frame.ENTRY, None, [Raw(b"0")], {})).replace(b"[0]", b"[%b]" % raw)
        self.client.hset(job.key, "data", zlib.compress(data))


class _Bomb:
    def __init__(self, proof: str) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.proof}",)


ATTACKS: list[Callable[[Attack], None]] = [
    each
    for name, each in vars(Attack).items()
    if callable(each) and not name.startswith("_") and name not in ("queue", "ours", "framed")
]


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.setblocking(False)
        yield listener


def test_nothing_hostile_runs_all_is_parked_and_the_good_jobs_run(
    world: World, tmp_path: Path, listener: socket.socket
) -> None:
    proof = tmp_path / "proof"
    attack = Attack(world, proof, listener.getsockname()[1])
    for number, each in enumerate(ATTACKS):
        world.send("say", word=f"good-{number}")
        each(attack)
    world.send("say", word="last")
    worker = world.start_worker()

    wait_until(lambda: world.ran("say", "last"), timeout=20, what="the last good job")
    wait_until(world.is_empty)

    assert len(ATTACKS) == 17
    assert [line[1] for line in world.ran("say")] == [*(f"good-{number}" for number in range(len(ATTACKS))), "last"]
    parked = world.backend.inspector.scan(JobFilter(), limit=1000).jobs
    assert {job.state for job in parked} == {JobState.ABANDONED}
    assert len(parked) == len(ATTACKS)
    assert {job.failure.error_type for job in parked if job.failure} == {"anyjob.EnvelopeError"}
    assert not proof.exists()
    with pytest.raises(BlockingIOError):
        listener.accept()
    assert worker.runs
    assert not world.client.keys(f"rq:failed:{world.namespace}*")

    raws = [job.raw for job in parked]
    assert b"\xff\xfe{" in raws
    assert b"\xff \n:" in raws
    assert any(raw.startswith(b'["os.system"') for raw in raws)


def test_what_is_ours_but_for_its_frame_can_be_retried(world: World, tmp_path: Path) -> None:
    Attack(world, tmp_path / "proof", 1).success_callback()
    world.start_worker("default")  # where nobody sent, `*` finds nothing
    wait_until(lambda: world.backend.inspector.count()[JobState.ABANDONED] == 1)

    assert world.backend.inspector.retry("success")

    wait_until(lambda: world.ran("say", "evil"))
    wait_until(world.is_empty)


def test_a_queue_of_another_type_holds_up_no_other(world: World) -> None:
    world.client.set(f"rq:queue:{world.namespace}:default:high", "no list")
    world.send("say", word="on")
    world.start_worker()
    wait_until(lambda: world.ran("say", "on"))


def test_no_arguments_and_no_foreign_words_are_logged(world: World) -> None:
    Queue(f"{world.namespace}:default:normal", connection=world.client, serializer=JSONSerializer).enqueue(
        "os.system", "very secret"
    )
    world.send("fail", word="private")
    worker = world.start_worker()
    wait_until(lambda: world.backend.inspector.count()[JobState.ABANDONED] == 2)

    assert "very secret" not in worker.output()
    lines = [line for line in worker.output().splitlines() if "private" in line]
    assert len(lines) == 4  # the job's own error: why each of the two tries failed, and its traceback
    assert all("error=ValueError reason=private" in line or line == "ValueError: private" for line in lines)


def test_the_data_is_the_same_json_value(world: World) -> None:
    job_id = world.send("say", word="plain")
    data: Any = world.client.hget(f"rq:job:{world.namespace}-J-{job_id}", "data")
    entry, instance, (envelope,), options = EnvelopeSerializer.loads(zlib.decompress(data))
    assert (entry, instance, options) == (frame.ENTRY, None, {})
    assert envelope["args"] == {"word": "plain"}
