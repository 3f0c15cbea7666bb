"""URLs: read alike by whoever sends and whoever works, and never shown with what is secret in them."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from anyjob import ConfigurationError, EnqueueError, JobRegistry, WorkerOptions
from anyjob.run.executor import JobExecutor
from anyjob.seams.backend import BackendConfig, JobBackend
from anyjob.settings.loader import load_backend
from anyjob_amqp.links import translated as translated_amqp
from anyjob_celery.on_redis import RedisCeleryBackend
from anyjob_redis import translated as translated_redis
from anyjob_rq.backend import RQBackend

SECRET = "s3cret"
OWN_SCHEMES = ["amqp", "celery+redis", "celery+amqp", "dramatiq+redis", "dramatiq+amqp", "redis", "rq+redis"]
ON_REDIS = [scheme for scheme in OWN_SCHEMES if scheme.endswith("redis")]


def made(url: str, **options: Any) -> JobBackend:
    return load_backend(BackendConfig(alias="main", url=url, options=options))


def connection_of(backend: JobBackend) -> Mapping[str, Any]:
    client: Any = backend.client  # type: ignore[attr-defined]
    return dict(client.connection_pool.connection_kwargs)


def worker_transport(backend: RedisCeleryBackend) -> Any:
    """Return the connection of a worker's application, which nothing connected."""
    return backend.application(JobExecutor(JobRegistry()), stop_timeout=1.0).connection_for_read()


def worker_client(backend: RQBackend) -> Any:
    """Return the connection that RQ's command line makes."""
    command = backend.native_worker(WorkerOptions())
    client = Redis.from_url(command.environment["RQ_REDIS_URL"])
    pool = client.connection_pool
    pool.connection_class(**pool.connection_kwargs)
    return client


@pytest.mark.parametrize("scheme", OWN_SCHEMES)
@pytest.mark.parametrize(
    "rest",
    [
        "guest:s3cret/x@host//",
        "u:s3cret#x@host/0",
        "u:s3cret?x@host/0",
        "u:s3cret?x=1@host/0",
        "u:12/s3cret@host/0",
        "u:p@s3cret/x@host",
        ":s3cret/@host",
        "u:[s3cret]@host",
        "u:s3cret",
    ],
)
def test_a_password_that_splits_the_url_is_refused_and_not_shown(scheme: str, rest: str) -> None:
    with pytest.raises(ConfigurationError, match=r"percent-encode") as refused:
        made(f"{scheme}://{rest}")
    assert str(refused.value).startswith("backends.main.url: ")
    assert SECRET not in str(refused.value)
    assert refused.value.__cause__ is None


@pytest.mark.parametrize("scheme", OWN_SCHEMES)
@pytest.mark.parametrize("query", ["bogus=s3cret", "socket_timeout=s3cret", "ssl_cert_reqs=s3cret", "db=s3cret"])
def test_a_query_that_nobody_knows_is_refused_and_not_shown(scheme: str, query: str) -> None:
    with pytest.raises(ConfigurationError, match="main") as refused:
        made(f"{scheme}://host?{query}")
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("celery://?ap=celery_jobs:app", r"unknown name 'ap' in the query. Did you mean 'app'\?"),
        ("celery://?app=celery_jobs:app&broker=s3cret", "unknown name 'broker' in the query. Known: app"),
        ("celery://user:s3cret@host?app=celery_jobs:app", r"nothing but \?app=module:attribute"),
        ("celery:///0?app=celery_jobs:app", r"nothing but \?app=module:attribute"),
        ("dramatiq://?brokr=a:b", r"unknown name 'brokr' in the query. Did you mean 'broker'\?"),
        ("dramatiq://?broker=a:b&broker=c:d", "'broker' is to be in the query once"),
    ],
)
def test_the_url_of_an_application_says_nothing_else(url: str, told: str) -> None:
    with pytest.raises(ConfigurationError, match=told) as refused:
        made(url)
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize("scheme", ["celery+rediss", "dramatiq+rediss", "rq+rediss"])
@pytest.mark.parametrize(
    ("spelt", "plain"),
    [
        ("CERT_REQUIRED", "required"),
        ("required", "required"),
        ("CERT_OPTIONAL", "optional"),
        ("CERT_NONE", "none"),
        ("none", "none"),
        (ssl.CERT_NONE, "none"),
    ],
)
def test_certificates_are_asked_for_in_any_spelling(scheme: str, spelt: Any, plain: str) -> None:
    backends = [made(f"{scheme}://host", **_ssl_option(scheme, spelt))]
    if isinstance(spelt, str):
        backends.append(made(f"{scheme}://host/0?ssl_cert_reqs={spelt}"))
    for backend in backends:
        assert connection_of(backend)["ssl_cert_reqs"] == plain
        if isinstance(backend, RedisCeleryBackend):
            assert worker_transport(backend).ssl == {"ssl_cert_reqs": plain}
        if isinstance(backend, RQBackend):
            assert worker_client(backend).connection_pool.connection_kwargs["ssl_cert_reqs"] == plain


def _ssl_option(scheme: str, value: Any) -> Mapping[str, Any]:
    option = {"ssl_cert_reqs": value}
    return {"broker_use_ssl": option} if scheme.startswith("celery") else option


def test_a_worker_of_celerys_has_tls_where_the_producer_has() -> None:
    backend = made("celery+rediss://host/0")
    assert isinstance(backend, RedisCeleryBackend)
    assert worker_transport(backend).ssl == {"ssl_cert_reqs": "required"}
    plain = made("celery+redis://host/0")
    assert isinstance(plain, RedisCeleryBackend)
    assert not worker_transport(plain).ssl


def test_a_worker_of_celerys_takes_what_the_producer_takes() -> None:
    backend = made("celery+redis://u:pw@host:6380?db=3&socket_timeout=7&socket_keepalive=false")
    assert isinstance(backend, RedisCeleryBackend)
    theirs, ours = worker_transport(backend), connection_of(backend)
    assert (theirs.hostname, theirs.port, theirs.userid, theirs.password) == ("host", 6380, "u", "pw")
    assert (theirs.virtual_host, ours["db"]) == ("3", 3)
    assert (theirs.transport_options["socket_timeout"], ours["socket_timeout"]) == (7.0, 7.0)
    assert (theirs.transport_options["socket_keepalive"], ours["socket_keepalive"]) == (False, False)


def test_rqs_command_line_takes_what_the_producer_takes() -> None:
    backend = made("rq+redis://u:pw@host:6380/3?timeout=3&client_name=shop&max_connections=5", socket_timeout=7.0)
    assert isinstance(backend, RQBackend)
    theirs, ours = worker_client(backend).connection_pool.connection_kwargs, connection_of(backend)
    for name in ("host", "port", "username", "password", "db", "client_name", "socket_timeout"):
        assert theirs[name] == ours[name], name


@pytest.mark.parametrize(
    ("translate", "error"),
    [
        (translated_redis, RedisError()),
        (translated_redis, RedisTimeoutError()),
        (translated_amqp, TimeoutError()),
    ],
)
def test_what_gives_no_reason_is_told_by_its_type(translate: Any, error: Exception) -> None:
    with pytest.raises(EnqueueError, match=rf": {type(error).__name__}$") as told, translate():
        raise error
    assert told.value.__cause__ is error
