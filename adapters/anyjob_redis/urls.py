"""Reads a Redis URL, in the spelling of all its readers: the client, RQ's command line, Celery's worker."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode, urlsplit

__all__ = ["plain_url", "split_url", "with_plain_ssl"]


def split_url(url: str) -> tuple[str, dict[str, str]]:
    """Return the URL without its query, and that; raise `ValueError` for a path that is no database's number, which
    the client would take for 0 in silence, and for a name that is there twice.
    """
    parts = urlsplit(url)
    database = parts.path.strip("/")
    if database and not database.isdecimal() and parts.scheme != "unix":
        raise ValueError(f"{database!r} is no database's number, as in /0")
    query = parse_qsl(parts.query, keep_blank_values=True)
    names = [name for name, _ in query]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{name!r} is in the query more than once")
    return url.partition("#")[0].partition("?")[0], dict(query)


def plain_url(url: str, options: Mapping[str, Any]) -> str:
    """Return the URL as `redis.Redis.from_url` takes it, with the options that a URL can say; those win."""
    bare, query = split_url(url)
    said = {name: value for name, value in options.items() if isinstance(value, str | int | float)}
    told = {name: value for name, value in with_plain_ssl({**query, **said}).items() if name not in _OF_THE_POOL}
    return f"{bare}?{urlencode(told)}" if told else bare


def with_plain_ssl(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options with `ssl_cert_reqs` as the client spells it; raise `ValueError` for an unknown value."""
    if "ssl_cert_reqs" not in options:
        return dict(options)
    given = options["ssl_cert_reqs"]
    name = given.name if isinstance(given, ssl.VerifyMode) else str(given)
    name = name.lower().removeprefix("cert_")
    if name not in _CERT_REQS:
        raise ValueError(f"ssl_cert_reqs is one of {', '.join(_CERT_REQS)}")
    return {**options, "ssl_cert_reqs": name}


_CERT_REQS: Final = ("required", "optional", "none")
_OF_THE_POOL: Final = ("timeout", "max_connections")
