"""What a worker claims from RabbitMQ: no more than it asks for, in order, and gone with its connection."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from datetime import timedelta
from urllib.parse import quote

import pytest
from envelopes import make_envelope
from rabbit import amqp_url, connect
from raw_amqp import UNDECODABLE, publish_raw

from anyjob import JobEnvelope, JobPriority
from anyjob.base.clock import SystemClock
from anyjob.base.envelope import read_envelope
from anyjob.base.errors import EnqueueError
from anyjob.seams.backend import BackendConfig
from anyjob.seams.outcome import Completed, Deferred, Retry
from anyjob.seams.source import JobClaim
from anyjob.seams.stored import JobState
from anyjob.testing.conformance.proxy import Proxy
from anyjob.testing.probes.journal import wait_until
from anyjob_amqp import AmqpBackend, AmqpSource, consumer, read_url

pytestmark = pytest.mark.timeout(60)

QUEUES = ("default", "mail")
LEASE = timedelta(seconds=30)


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    there = read_url(amqp_url(), "tests")
    with closing(Proxy(there.host, there.port)) as proxy:
        yield proxy


@pytest.fixture
def backend(proxy: Proxy) -> Iterator[AmqpBackend]:
    there = read_url(amqp_url(), "tests")
    url = f"amqp://{there.user}:{there.password}@127.0.0.1:{proxy.port}/{quote(there.vhost, safe='')}"
    config = BackendConfig(alias="main", url=url, namespace=f"source{secrets.token_hex(4)}", queues=QUEUES)
    with closing(AmqpBackend(config)) as backend:
        yield backend
    names = backend.names
    with connect(amqp_url()) as connection, connection.channel() as channel:
        for queue in (*map(names.queue, QUEUES), names.parked, names.notes.name):
            channel.queue_delete(queue)
        channel.exchange_delete(names.due)


@pytest.fixture
def source(backend: AmqpBackend) -> AmqpSource:
    return backend.source()


def job(job_id: str, queue: str = "default", priority: JobPriority = JobPriority.NORMAL) -> JobEnvelope:
    return make_envelope(SystemClock().now(), job_id, queue=queue, priority=priority)


def claim(source: AmqpSource, limit: int = 1, queues: Sequence[str] | None = ("default",)) -> Sequence[JobClaim]:
    return source.claim(queues=queues, limit=limit, lease=LEASE, worker="tests")


def claim_many(source: AmqpSource, count: int, queues: Sequence[str] | None = ("default",)) -> Sequence[JobClaim]:
    """Claim so many jobs, which may be delivered one after the other."""
    found: list[JobClaim] = []

    def are_there() -> bool:
        found.extend(claim(source, count - len(found), queues))
        return len(found) == count

    wait_until(are_there, what=f"{count} jobs")
    return found


def ids(claims: Sequence[JobClaim]) -> list[str]:
    return [each.id for each in claims]


def waiting(backend: AmqpBackend) -> int:
    """Return how many jobs are delivered to nobody."""
    return backend.inspector.count()[JobState.WAITING]


def test_a_look_finds_what_there_is_and_does_not_wait_for_more(backend: AmqpBackend, source: AmqpSource) -> None:
    assert claim(source) == []
    backend.send([job("a"), job("b")])
    found = claim_many(source, 2)
    assert ids(found) == ["a", "b"]
    assert not any(each.redelivered for each in found)
    assert all(source.settle(each, Completed()) for each in found)
    assert claim(source) == []
    assert waiting(backend) == 0


@pytest.mark.parametrize("queues", [("default",), QUEUES], ids=["one queue", "several"])
def test_no_more_is_held_than_is_asked_for(backend: AmqpBackend, source: AmqpSource, queues: Sequence[str]) -> None:
    backend.send([job(f"{queue}-{number}", queue) for queue in queues for number in range(5)])
    total = 5 * len(queues)
    held = [*claim(source, 1, queues)]
    assert (len(held), waiting(backend)) == (1, total - 1)
    held += claim(source, 1, queues)  # as a second thread does
    assert (len(held), waiting(backend)) == (2, total - 2)
    source.settle(held[0], Completed())
    held += claim(source, 1, queues)
    assert (len(held), waiting(backend)) == (3, total - 3)


def test_a_worker_of_all_queues_serves_the_list_of_the_settings(backend: AmqpBackend, source: AmqpSource) -> None:
    backend.send([job("a"), job("b", "mail")])
    assert sorted(ids(claim_many(source, 2, None))) == ["a", "b"]


def test_what_arrived_is_handed_out_by_its_level(backend: AmqpBackend, source: AmqpSource) -> None:
    backend.send([job("low", priority=JobPriority.LOW), job("high", "mail", JobPriority.HIGH)])
    (first, second) = claim_many(source, 2, QUEUES)  # there is room for two from here on
    source.release([first, second])
    wait_until(lambda: waiting(backend) == 0, what="both to be delivered before anybody asks")
    assert ids(claim(source, 2, QUEUES)) == ["high", "low"]


def test_what_is_released_goes_back_uncharged(backend: AmqpBackend, source: AmqpSource) -> None:
    backend.send([job("a", priority=JobPriority.HIGH)])
    (found,) = claim(source)
    source.release([found])
    assert not source.settle(found, Completed())
    (again,) = claim(source)
    assert (again.raw, again.redelivered) == (found.raw, False)


def test_what_was_delivered_and_not_claimed_goes_back_uncharged_at_the_end(
    backend: AmqpBackend, source: AmqpSource
) -> None:
    backend.send([job("b")])
    (found,) = claim(source)
    source.release([found])
    wait_until(lambda: waiting(backend) == 0, what="it to be delivered again")
    source.close()
    wait_until(lambda: waiting(backend) == 1, what="it to be back")
    (again,) = claim_many(backend.source(), 1)
    assert (again.id, again.redelivered) == ("b", False)


def test_so_it_does_when_nobody_claims_any_more(
    backend: AmqpBackend, source: AmqpSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumer, "_UNCLAIMED", 0.1)
    backend.send([job("b")])
    (found,) = claim(source)
    source.release([found])
    wait_until(lambda: waiting(backend) == 1, what="it to be back")
    (again,) = claim_many(source, 1)  # who asks again is served again
    assert (again.id, again.redelivered) == ("b", False)


@pytest.mark.parametrize("closes", [True, False], ids=["at its end", "within a second"])
def test_a_worker_that_settles_and_asks_for_no_more_gets_no_more(
    backend: AmqpBackend, source: AmqpSource, closes: bool
) -> None:
    backend.send([job("a"), job("b"), job("c")])
    (found,) = claim(source)
    assert source.settle(found, Completed())
    if closes:
        source.close()
    else:
        link = source.consumer._link  # noqa: SLF001
        assert link is not None
        wait_until(lambda: not link.owes, what="the broker to be told")
    assert waiting(backend) == 2
    other = backend.source()
    for expected in ("b", "c"):
        (again,) = claim_many(other, 1)
        assert (again.id, again.redelivered) == (expected, False)
        other.settle(again, Completed())


def test_a_claim_goes_with_its_connection(backend: AmqpBackend, source: AmqpSource, proxy: Proxy) -> None:
    backend.send([job("a")])
    (found,) = claim(source)
    assert source.renew([found], LEASE) == []
    proxy.cut()
    assert source.renew([found], LEASE) == [found]
    retry = Retry(read_envelope(found.raw))
    assert not source.settle(found, retry)
    wait_until(lambda: waiting(backend) == 1, what="nothing but the message itself")
    (again,) = claim(source)
    assert again.redelivered
    assert source.settle(again, Completed())


def test_a_claim_lasts_if_its_message_is_delivered_here_again(
    backend: AmqpBackend, source: AmqpSource, proxy: Proxy
) -> None:
    backend.send([job("a")])
    (found,) = claim(source)
    proxy.cut()

    def is_held_again() -> bool:
        with suppress(EnqueueError):  # of whoever sees first that the connection is lost
            assert claim(source) == []
        return source.renew([found], LEASE) == []

    wait_until(is_held_again, what="it to be held again")
    assert source.settle(found, Completed())
    source.close()
    assert waiting(backend) == 0


def test_what_succeeded_as_its_connection_was_lost_does_not_run_again(
    backend: AmqpBackend, source: AmqpSource, proxy: Proxy
) -> None:
    backend.send([job("a"), job("b")])
    (found,) = claim(source)
    proxy.cut()
    assert not source.settle(found, Completed())
    (other,) = claim_many(source, 1)
    assert (other.id, source.settle(other, Completed())) == ("b", True)
    wait_until(lambda: claim(source) == [] and waiting(backend) == 0, what="nothing to be left")


def test_an_absence_is_told(backend: AmqpBackend, source: AmqpSource, proxy: Proxy) -> None:
    backend.send([job("a")])
    (found,) = claim(source)
    proxy.close()
    wait_until(lambda: source.renew([found], LEASE), what="the connection to be lost")
    with pytest.raises(EnqueueError, match="RabbitMQ can't be reached"):
        claim(source)


def test_what_comes_wakes_a_worker_that_waits(backend: AmqpBackend, source: AmqpSource) -> None:
    woken: list[bool] = []

    class Worker:
        def wake(self) -> None:
            woken.append(True)

    worker = Worker()
    source.listen(worker.wake)
    assert claim(source) == []
    backend.send([job("a")])
    wait_until(lambda: woken, what="to be woken")
    assert ids(claim(source)) == ["a"]


def test_a_next_try_is_there_before_the_old_message_is_gone(backend: AmqpBackend, source: AmqpSource) -> None:
    backend.send([job("a")])
    (found,) = claim(source)
    assert source.settle(found, Deferred(read_envelope(found.raw)))
    assert not source.settle(found, Completed()), "once"
    (again,) = claim(source)
    assert (again.raw, again.redelivered) == (found.raw, False)


def test_what_can_not_be_decoded_is_parked(backend: AmqpBackend, source: AmqpSource) -> None:
    assert claim(source) == []  # makes the queue
    with connect(amqp_url()) as connection, connection.channel() as channel:
        publish_raw(channel, UNDECODABLE[0], b"{}", backend.names.queue("default").encode())
    wait_until(
        lambda: claim(source) == [] and backend.inspector.count()[JobState.ABANDONED] == 1, what="it to be parked"
    )
    assert waiting(backend) == 0
