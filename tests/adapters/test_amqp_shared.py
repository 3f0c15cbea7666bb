"""What adapters on RabbitMQ share: publishing that tells the truth, delays that arrive, the parked."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

import amqp
import pytest
from rabbit import PrivateRabbit, amqp_url, connect
from redis import Redis
from servers import redis_url

from anyjob.base.clock import SystemClock
from anyjob.base.errors import ConfigurationError, EnqueueError, InvalidOptionError, UnsupportedCapabilityError
from anyjob.define.registry import JobRegistry
from anyjob.run.executor import JobExecutor
from anyjob.seams.backend import BackendConfig
from anyjob.seams.capabilities import Capabilities, Quality
from anyjob.seams.outcome import JobFailure
from anyjob.seams.stored import JobFilter, JobState
from anyjob.testing.probes.jobs import NAME
from anyjob.testing.probes.journal import wait_until
from anyjob_amqp import (
    AmqpInspector,
    AmqpNames,
    KnownQueues,
    Links,
    MoveJournal,
    Parcel,
    Publisher,
    Route,
    read_url,
)

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def names() -> AmqpNames:
    return AmqpNames(f"shared{secrets.token_hex(4)}")


@pytest.fixture
def links() -> Iterator[Links]:
    links = Links(read_url(amqp_url(), "tests"), 5.0, {})
    yield links
    links.close()


@pytest.fixture
def publisher(links: Links) -> Publisher:
    return Publisher(links, 5.0)


@pytest.fixture
def channel(names: AmqpNames) -> Iterator[amqp.Channel]:
    """Give a channel to look with; what the test made is removed over it."""
    with closing(connect(amqp_url())) as connection:
        channel = connection.channel()
        yield channel
        with connection.channel() as last:
            mine = (*map(names.queue, ("mail", "x.mail", "full", "x")), names.parked, names.notes.name)
            for queue in (*mine, *names.levels):
                last.queue_delete(queue)
            for exchange in (names.due, *names.levels):
                last.exchange_delete(exchange)


def parcel(name: str, route: Route) -> Parcel:
    return Parcel(name, route, amqp.Message(name.encode(), message_id=name, delivery_mode=2))


def bodies(channel: amqp.Channel, queue: str, count: int, timeout: float = 20.0) -> list[str]:
    """Take messages until there are so many."""
    found: list[str] = []

    def enough() -> bool:
        while (message := channel.basic_get(queue, no_ack=True)) is not None:
            body = message.body
            found.append(body if isinstance(body, str) else bytes(body).decode())
        return len(found) >= count

    wait_until(enough, timeout=timeout, what=lambda: f"{count} messages in {queue}, not {found}")
    return found


def test_what_is_published_is_there(publisher: Publisher, names: AmqpNames, channel: amqp.Channel) -> None:
    route = names.route("mail")
    publisher.publish([parcel(f"{number}", route) for number in range(1_200)])
    assert bodies(channel, names.queue("mail"), 1_200) == [f"{number}" for number in range(1_200)]


def test_a_queue_deleted_under_a_producer_is_made_anew(
    publisher: Publisher, names: AmqpNames, channel: amqp.Channel
) -> None:
    route = names.route("mail")
    publisher.publish([parcel("before", route)])
    channel.queue_delete(names.queue("mail"))
    publisher.publish([parcel(f"after-{number}", route) for number in range(3)])
    assert sorted(bodies(channel, names.queue("mail"), 3)) == [f"after-{number}" for number in range(3)]


def test_a_full_queues_refusal_is_told(publisher: Publisher, names: AmqpNames, channel: amqp.Channel) -> None:
    native = names.queue("full")
    arguments = {"x-max-length": 2, "x-overflow": "reject-publish"}
    channel.queue_declare(native, durable=True, auto_delete=False, arguments=arguments)
    place = names.route_to_parked().place  # is declared as it is, and is not where this goes
    with pytest.raises(EnqueueError) as failed:
        publisher.publish([parcel(f"{number}", Route("", native, place)) for number in range(4)])
    assert sorted(failed.value.accepted) == ["0", "1"]
    assert sorted(failed.value.rejected) == ["2", "3"]
    assert failed.value.in_doubt == ()


def test_a_queue_with_other_arguments_is_told(publisher: Publisher, names: AmqpNames, channel: amqp.Channel) -> None:
    channel.queue_declare(names.queue("mail"), durable=True, auto_delete=False)  # without priorities
    with pytest.raises(EnqueueError, match="x-max-priority") as failed:
        publisher.publish([parcel("a", names.route("mail"))])
    assert failed.value.rejected == ("a",)


def test_a_broker_that_falls_silent_leaves_doubt(names: AmqpNames, channel: amqp.Channel) -> None:
    """Sent, and never confirmed: nobody can tell."""
    with _Relay(amqp_url()) as relay:
        links = Links(read_url(relay.url, "tests"), 1.0, {})
        publisher, route = Publisher(links, 1.0), names.route("mail")
        publisher.publish([parcel("a", route)])
        relay.swallow()
        begun = time.monotonic()
        with pytest.raises(EnqueueError) as failed:
            publisher.publish([parcel("b", route)])
        assert time.monotonic() - begun < 3
        assert failed.value.in_doubt == ("b",)
        links.close()


def test_a_connection_that_was_closed_meanwhile_is_opened_anew(names: AmqpNames, channel: amqp.Channel) -> None:
    with _Relay(amqp_url()) as relay:
        links = Links(read_url(relay.url, "tests"), 5.0, {})
        publisher, route = Publisher(links, 5.0), names.route("mail")
        publisher.publish([parcel("a", route)])
        relay.cut()
        publisher.publish([parcel("b", route)])
        assert sorted(bodies(channel, names.queue("mail"), 2)) == ["a", "b"]
        links.close()


def test_delays_arrive_in_their_queue_and_in_no_other(
    publisher: Publisher, names: AmqpNames, channel: amqp.Channel
) -> None:
    publisher.publish([parcel("other", names.route("x.mail", 1)), parcel("now", names.route("mail"))])
    begun = time.monotonic()
    publisher.publish([parcel("2", names.route("mail", 2)), parcel("1", names.route("mail", 1))])
    assert bodies(channel, names.queue("mail"), 1) == ["now"]
    assert bodies(channel, names.queue("mail"), 2) == ["1", "2"]
    assert 2 <= time.monotonic() - begun < 4
    assert bodies(channel, names.queue("x.mail"), 1) == ["other"]


def test_the_longest_pass_has_17_bits(names: AmqpNames) -> None:
    assert names.route("mail", 2**17 - 1).key == "1." * 17 + names.queue("mail")
    assert names.route("mail", 2**40).key == "1." * 17 + names.queue("mail")
    longest = AmqpNames("n" * 63).route("q" * 63, 1).key
    assert len(longest) <= 255


def test_a_first_delayed_message_needs_few_round_trips(names: AmqpNames, channel: amqp.Channel) -> None:
    """With a server 100 ms away each costs as much: the whole chain is declared in one."""
    with _Relay(amqp_url()) as relay:
        with closing(Links(read_url(relay.url, "tests"), 5.0, {})) as links:
            Publisher(links, 5.0).publish([parcel("a", names.route("mail", 1))])
        assert relay.turns <= 12  # five of them for the note of the queue


def test_a_refused_declaration_is_told_whichever_it_was(names: AmqpNames, channel: amqp.Channel) -> None:
    channel.queue_declare(names.level(9), durable=True, auto_delete=False)  # no quorum queue
    links = Links(read_url(amqp_url(), "tests"), 5.0, {})
    with closing(links), pytest.raises(EnqueueError, match=names.level(9)) as failed:
        Publisher(links, 5.0).publish([parcel("a", names.route("mail", 1))])
    assert failed.value.rejected == ("a",)


def test_an_alarm_of_the_broker_fails_a_publish_in_time(tmp_path: Path) -> None:
    """It reads no more from who publishes, and says nothing."""
    if not PrivateRabbit.is_installed():
        pytest.skip("there is no RabbitMQ here to be started")
    with closing(PrivateRabbit(tmp_path)) as node:
        with (tmp_path / "rabbitmq.conf").open("a") as conf:
            conf.write("vm_memory_high_watermark.relative = 0.0000001\n")
        node.start()
        route = AmqpNames("alarm").route("mail")
        with closing(Links(read_url(node.url, "tests"), 2.0, {})) as links:
            publisher = Publisher(links, 2.0)
            for size in (2, 1_000_000):
                begun = time.monotonic()
                with pytest.raises(EnqueueError) as failed:
                    publisher.publish(
                        [Parcel(each, route, amqp.Message(b"x" * size, message_id=each)) for each in "abc"]
                    )
                assert time.monotonic() - begun < 2.7
                assert {*failed.value.in_doubt, *failed.value.rejected} == {*"abc"}


@pytest.mark.timeout(300)
@pytest.mark.skipif(not os.environ.get("ANYJOB_TEST_SLOW"), reason="RabbitMQ looks again after 3 minutes")
def test_a_due_message_whose_queue_is_gone_waits_for_one(
    publisher: Publisher, names: AmqpNames, channel: amqp.Channel
) -> None:
    """Classic dead-lettering would drop it, in silence."""
    publisher.publish([parcel("a", names.route("mail", 1))])
    channel.queue_delete(names.queue("mail"))
    begun = time.monotonic()
    wait_until(lambda: time.monotonic() - begun > 1.5, what="it to be due")
    publisher.publish([parcel("b", names.route("mail"))])  # brings the queue back
    assert bodies(channel, names.queue("mail"), 2, timeout=240) == ["b", "a"]


def failure(executor: JobExecutor) -> JobFailure:
    return executor.refuse(b"", "x" * 200_000).failure


def test_parked_jobs_are_kept_whatever_their_size(
    publisher: Publisher, links: Links, names: AmqpNames, channel: amqp.Channel
) -> None:
    del channel
    inspector = AmqpInspector(
        links,
        publisher,
        names,
        resend=lambda _: None,
        clock=SystemClock(),
        capabilities=Capabilities(
            listing=frozenset({JobState.ABANDONED}),
            removal=frozenset({JobState.ABANDONED}),
            counts={JobState.ABANDONED: Quality.EXACT},
        ),
    )
    assert inspector.scan(JobFilter()).jobs == []  # before there is a queue
    why = failure(JobExecutor(JobRegistry()))
    ids = [inspector.park(bytes(range(256)) * 1_000, why) for _ in range(5)]
    wait_until(lambda: inspector.count() == {JobState.ABANDONED: 5}, what="five to be parked")
    pages, cursor, seen = 0, None, []
    while pages == 0 or cursor is not None:
        page = inspector.scan(JobFilter(), cursor=cursor, limit=2)
        seen += [job.id for job in page.jobs]
        cursor, pages = page.cursor, pages + 1
    assert seen == ids
    assert inspector.find(ids[3]) is not None
    with pytest.raises(UnsupportedCapabilityError, match="list waiting"):
        inspector.scan(JobFilter(states=frozenset({JobState.WAITING})))
    with inspector.hold_some(JobFilter(ids=frozenset(ids[1:3])), limit=5) as taken:
        assert [each.acknowledge() for each in taken] == [True, True]
    assert [job.id for job in inspector.scan(JobFilter()).jobs] == [ids[0], *ids[3:]]


def test_a_page_goes_on_where_the_last_one_ended_whatever_is_gone(
    publisher: Publisher, links: Links, names: AmqpNames, channel: amqp.Channel
) -> None:
    del channel
    parked = frozenset({JobState.ABANDONED})
    can = Capabilities(listing=parked, removal=parked)
    inspector = AmqpInspector(links, publisher, names, resend=lambda _: None, clock=SystemClock(), capabilities=can)
    why = failure(JobExecutor(JobRegistry()))
    ids = [inspector.park(b"?", why) for _ in range(8)]

    def after(cursor: str | None) -> list[str]:
        return [job.id for job in inspector.scan(JobFilter(), cursor=cursor).jobs]

    page = inspector.scan(JobFilter(), limit=3)
    assert after(page.cursor) == ids[3:]
    assert inspector.discard(ids[2])  # what was shown last
    assert after(page.cursor) == ids[3:]
    page = inspector.scan(JobFilter(), limit=3)
    assert inspector.discard(ids[4])  # what came next: by somebody else
    assert after(page.cursor) == ids[5:]
    page = inspector.scan(JobFilter(where=lambda job: job.id in ids[5:7]), limit=2)
    assert after(page.cursor) == ids[7:]
    assert inspector.discard(ids[6])
    assert inspector.discard(ids[7])
    assert after(page.cursor) == [*ids[:2], ids[3], ids[5]]  # rather twice than not at all
    for cursor, limit in (("3", 1), ("null", 1), (None, 0)):
        with pytest.raises(InvalidOptionError):
            inspector.scan(JobFilter(), cursor=cursor, limit=limit)


def test_somebody_elses_message_among_the_parked_is_shown(
    publisher: Publisher, links: Links, names: AmqpNames, channel: amqp.Channel
) -> None:
    can = Capabilities(listing=frozenset({JobState.ABANDONED}))
    inspector = AmqpInspector(links, publisher, names, resend=lambda _: None, clock=SystemClock(), capabilities=can)
    inspector.park(b"ours", failure(JobExecutor(JobRegistry())))
    channel.basic_publish(amqp.Message("theirs"), "", names.parked)
    wait_until(lambda: len(inspector.scan(JobFilter()).jobs) == 2, what="both")
    assert [job.raw for job in inspector.scan(JobFilter()).jobs] == [b"ours", b"theirs"]


def test_a_parked_job_whose_failure_cant_be_read_is_shown_and_discarded(
    publisher: Publisher, links: Links, names: AmqpNames, channel: amqp.Channel
) -> None:
    parked = frozenset({JobState.ABANDONED})
    can = Capabilities(listing=parked, removal=parked)
    inspector = AmqpInspector(links, publisher, names, resend=lambda _: None, clock=SystemClock(), capabilities=can)
    why = failure(JobExecutor(JobRegistry()))
    before = inspector.park(b"before", why)
    for job_id, body in (("broken", b'{"raw": "am9i", "failure": {"tries": "many"}}'), ("garbage", b"\xff")):
        channel.basic_publish(amqp.Message(body, message_id=job_id), "", names.parked)
    wait_until(lambda: len(inspector.scan(JobFilter()).jobs) == 3, what="those with faults")
    after = inspector.park(b"after", why)
    jobs = inspector.scan(JobFilter()).jobs
    assert [(job.id, job.raw) for job in jobs] == [
        (before, b"before"),
        ("broken", b"job"),
        ("garbage", b"\xff"),
        (after, b"after"),
    ]
    for job in jobs[1:3]:
        assert job.failure is not None
        assert "can't be read" in job.failure.message
        assert inspector.discard(job.id)
    assert [job.id for job in inspector.scan(JobFilter()).jobs] == [before, after]


def test_a_note_of_a_move_that_cant_be_read_is_told(
    publisher: Publisher, links: Links, names: AmqpNames, channel: amqp.Channel
) -> None:
    MoveJournal(links, publisher, names).begin("a-move")
    channel.basic_publish(amqp.Message(b"\xff"), "", names.moving("a-move"))
    try:
        with pytest.raises(EnqueueError, match="can't be read"):
            MoveJournal(links, publisher, names).note("a-move", ["a"])
    finally:
        channel.queue_delete(names.moving("a-move"))


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("amqp://user:p%40ss@host:1/v%2Fhost", ("host", 1, "user", "p@ss", "v/host", False)),
        ("amqps://host//", ("host", 5671, "guest", "guest", "/", True)),
        ("amqp://", ("localhost", 5672, "guest", "guest", "/", False)),
    ],
)
def test_urls(url: str, told: tuple[object, ...]) -> None:
    read = read_url(url, "main")
    assert (read.host, read.port, read.user, read.password, read.vhost, read.tls) == told
    assert "p@ss" not in repr(read)


def test_several_hosts_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="one address"):
        read_url("amqp://a//;amqp://b//", "main")


class _Relay:
    """A door to the broker that can be cut, or made a black hole."""

    def __init__(self, url: str) -> None:
        self._target = read_url(url, "tests")
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._pairs: list[socket.socket] = []
        self._swallows = False
        self.turns = 0
        """How often the client spoke after the broker did: the round trips, but for the one that connects."""
        self._last = ""
        port = self._listener.getsockname()[1]
        there = self._target
        self.url = f"amqp://{quote(there.user)}:{quote(there.password)}@127.0.0.1:{port}/{quote(there.vhost, safe='')}"

    def swallow(self) -> None:
        """Pass nothing on from now on."""
        self._swallows = True

    def cut(self) -> None:
        """End every connection there is."""
        for each in self._pairs:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        for each in self._pairs:
            each.close()

    def _accept(self) -> None:
        while True:
            try:
                here, _ = self._listener.accept()
            except OSError:
                return
            there = socket.create_connection((self._target.host, self._target.port))
            self._pairs += [here, there]
            self._start(lambda here=here, there=there: self._pass_on(here, there, "there"))  # type: ignore[misc]
            self._start(lambda here=here, there=there: self._pass_on(there, here, "back"))  # type: ignore[misc]

    def _pass_on(self, source: socket.socket, target: socket.socket, direction: str) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65_536):
                if direction == "there" and self._last != direction:
                    self.turns += 1
                self._last = direction
                if not self._swallows:
                    target.sendall(data)
            target.shutdown(socket.SHUT_RDWR)

    def _start(self, run: Callable[[], None]) -> None:
        threading.Thread(target=run, daemon=True).start()


def known_queues(names: AmqpNames, links: Links, timeout: float = 5.0, **options: Any) -> list[str]:
    config = BackendConfig(alias="x", url="amqp:", enqueue_timeout=timeout, **options)
    return list(KnownQueues(names, config, links))


def test_the_queues_are_those_that_the_application_knows_and_all_that_anybody_sent_to(
    publisher: Publisher, links: Links, names: AmqpNames, channel: amqp.Channel
) -> None:
    known: dict[str, Any] = {"known_queues": lambda: ("default", "report")}
    assert known_queues(names, links, **known) == [names.queue("default"), names.queue("report")]
    with pytest.raises(amqp.NotFound), channel.connection.channel() as other:
        other.queue_declare(names.notes.name, passive=True)  # to look makes nothing
    publisher.publish([parcel("now", names.route("mail")), parcel("later", names.route("x", 3_600))])
    with closing(Links(read_url(amqp_url(), "tests"), 5.0, {})) as fresh:
        assert known_queues(names, fresh, **known) == [*map(names.queue, ("default", "mail", "report", "x"))]
        assert known_queues(names, fresh, queues=("bulk",)) == [*map(names.queue, ("bulk", "mail", "x"))]


def test_what_is_noted_of_queues_grows_with_them_alone(
    publisher: Publisher, names: AmqpNames, channel: amqp.Channel
) -> None:
    """Producers come and go; several do so at once; somebody's message in there is left alone."""
    publisher.publish([parcel("first", names.route("mail"))])
    channel.basic_publish(amqp.Message("theirs"), "", names.notes.name)

    def send(queue: str) -> None:
        with closing(Links(read_url(amqp_url(), "tests"), 5.0, {})) as links:
            Publisher(links, 5.0).publish([parcel(queue, names.route(queue))])

    for _ in range(3):
        threads = [threading.Thread(target=send, args=(queue,)) for queue in ("mail", "x.mail", "x") * 3]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    send("full")
    found = bodies(channel, names.notes.name, 2)
    assert sorted(found) == ['["full","mail","x","x.mail"]', "theirs"]


def test_notes_of_queues_that_somebody_holds_hold_up_no_producer_and_are_not_taken_for_none(
    publisher: Publisher, links: Links, names: AmqpNames, channel: amqp.Channel
) -> None:
    publisher.publish([parcel("first", names.route("mail"))])
    with channel.connection.channel() as holder:
        holder.basic_consume(names.notes.name, exclusive=True)
        with closing(Links(read_url(amqp_url(), "tests"), 5.0, {})) as fresh:
            Publisher(fresh, 5.0).publish([parcel("second", names.route("full"))])
        with pytest.raises(EnqueueError, match=f"'{names.notes.name}', and can't be read"):
            known_queues(names, links, timeout=0.3)
        waiting = threading.Timer(0.2, holder.close)
        waiting.start()
        assert known_queues(names, links, queues=("mail",)) == [names.queue("full"), names.queue("mail")]
        waiting.join()


@pytest.mark.timeout(120)
def test_a_process_counts_and_moves_what_another_sent_to_a_queue_that_only_its_call_named(
    names: AmqpNames, channel: amqp.Channel, tmp_path: Path
) -> None:
    del channel  # it tidies up
    (tmp_path / "anyjob.toml").write_text(
        f"""namespace = "{names.namespace}"
default = "old"
imports = ["anyjob.testing.probes.jobs"]
backends = {{ old = "celery+{amqp_url()}", new = "celery+{redis_url()}" }}
"""
    )

    def anyjob(*argv: str) -> str:
        command = [sys.executable, "-m", "anyjob", *argv]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    args = '{"journal": "journal", "label": "a", "gate": null, "heeds_stop": false}'
    anyjob("enqueue", f"{NAME}.probe", args, "--queue", "mail")
    try:
        assert json.loads(anyjob("count", "--json", "--backend", "old"))["old"]["waiting"] == 1
        told = anyjob("migrate", "old", "new")
        assert "read 1 = moved 1" in told
        assert "'old' has no waiting, scheduled or abandoned jobs now; what is running can't be counted" in told
        assert json.loads(anyjob("count", "--json", "--backend", "new"))["new"]["waiting"] == 1
    finally:
        with Redis.from_url(redis_url()) as client:
            for key in client.scan_iter(f"{names.namespace}:*", 1000):
                client.delete(key)
