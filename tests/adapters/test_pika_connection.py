"""What our pika connection knows that pika does not tell."""

from __future__ import annotations

from contextlib import closing

import pika
import pytest
from rabbit import amqp_url

from anyjob.testing.conformance.proxy import Proxy
from anyjob.testing.probes.journal import wait_until
from anyjob_amqp import read_url
from anyjob_dramatiq.private_pika import is_cut, open_connection


def test_a_connection_that_was_cut_is_known_before_pika_reads() -> None:
    there = read_url(amqp_url(), "tests")
    with closing(Proxy(there.host, there.port)) as proxy:
        connection = open_connection(
            pika.ConnectionParameters(
                "127.0.0.1", proxy.port, there.vhost, pika.PlainCredentials(there.user, there.password)
            )
        )
        connection.channel()
        assert not is_cut(connection)
        proxy.cut()
        wait_until(lambda: is_cut(connection), what="the end to be seen")
        assert connection.is_open, "pika has not read since"
        with pytest.raises(pika.exceptions.AMQPError):
            connection.channel()
        assert is_cut(connection)
