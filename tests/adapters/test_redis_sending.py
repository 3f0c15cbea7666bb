"""What is told of jobs that a script of Redis's did not take: rejected is what is not there, whatever went wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from redis import Redis
from servers import PrivateRedis

from anyjob.base.errors import EnqueueError
from anyjob_redis import FITS, register, send_in_batches

WRITES = "redis.call('RPUSH', 'there', 1) "


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateRedis]:
    server = PrivateRedis(tmp_path_factory.mktemp("redis")).start()
    yield server
    server.kill()


@pytest.fixture
def client(server: PrivateRedis) -> Iterator[Redis]:
    with server.client() as client:
        client.flushall()
        client.set("text", "x" * 1000)
        yield client
        client.config_set("maxmemory", 0)
        client.execute_command("REPLICAOF", "NO", "ONE")
        client.config_set("min-replicas-to-write", 0)


def fill(client: Redis) -> None:
    client.config_set("maxmemory", 1)


def make_replica(client: Redis) -> None:
    client.execute_command("REPLICAOF", "127.0.0.1", "1")


def want_replicas(client: Redis) -> None:
    client.config_set("min-replicas-to-write", 1)


def send(client: Redis, text: str, *, drains: str | None = None) -> EnqueueError:
    with pytest.raises(EnqueueError) as caught:
        send_in_batches(client, register(client, text, drains=drains), [], [("one", [])])
    return caught.value


def test_what_fails_in_the_middle_of_a_script_is_in_doubt(client: Redis) -> None:
    error = send(client, WRITES + "redis.call('RPUSH', 'text', 1)")
    assert (error.in_doubt, error.rejected) == (("one",), ())
    assert client.llen("there") == 1


def test_what_a_script_refuses_itself_is_rejected(client: Redis) -> None:
    error = send(client, FITS + "if not fits('list', 'text') then return wrong end " + WRITES)
    assert (error.in_doubt, error.rejected) == ((), ("one",))
    assert "text is a string, and no list" in str(error)
    assert not client.exists("there")


@pytest.mark.parametrize("spoil", [fill, make_replica, want_replicas])
def test_what_a_server_refuses_before_the_first_write_is_rejected(
    client: Redis, spoil: Callable[[Redis], None]
) -> None:
    spoil(client)
    error = send(client, WRITES)
    assert (error.in_doubt, error.rejected) == ((), ("one",))
    assert not client.exists("there")


def test_what_drains_runs_on_a_full_server(client: Redis) -> None:
    fill(client)
    register(client, WRITES, drains="ours")()
    assert client.llen("there") == 1
