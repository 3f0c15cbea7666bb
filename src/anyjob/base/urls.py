"""Backend URLs: told from aliases, filled in from the environment, shown without passwords."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from anyjob.base.errors import did_you_mean

__all__ = ["expand_url", "hide_in", "hide_password", "is_url", "read_object_url", "read_query", "refuse_unreadable"]

_URL: Final = re.compile(r"(?:[a-z][a-z0-9+.-]*:|[a-z0-9+.-]*\$\{).*", re.DOTALL | re.IGNORECASE)
_VARIABLE: Final = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_USERINFO: Final = re.compile(r"(?<=//)[^/?#]*(?=@)")
_HIDDEN: Final = re.compile(r"(?<=//).*(?=@)", re.DOTALL)  # also what should have been percent-encoded
_AUTHORITY: Final = re.compile(r"[^/?#]*//([^/?#]*)")
_OBJECTS: Final = frozenset({"app", "broker"})
_HARMLESS: Final = _OBJECTS | {"db", "socket_timeout", "socket_connect_timeout", "ssl_cert_reqs"}
_ENCODE: Final = (
    "it can't be read. In front of the host, percent-encode each '/', '?', '#', '@', ':' and '%' of user and password "
    "(urllib.parse.quote(password, safe='') does), or write ${VARIABLE} there, which is encoded by itself; after the "
    "host, write '@' as %40. A port is a number."
)


def is_url(text: str) -> bool:
    """Tell a backend URL (`memory:`, `rq+redis://...`, `rq+${REDIS_URL}`) from an alias."""
    return _URL.fullmatch(text) is not None


def expand_url(url: str, environ: Mapping[str, str]) -> str:
    """Fill in `${VARIABLE}`; raise `ValueError` naming one that isn't set.

    In front of the host the values are percent-encoded, so that a password may hold any character.
    """

    def fill(part: str, encode: bool) -> str:
        def value(match: re.Match[str]) -> str:
            if match[1] not in environ:
                raise ValueError(f"${{{match[1]}}} is not set in the environment.")
            return quote(environ[match[1]], safe="") if encode else environ[match[1]]

        return _VARIABLE.sub(value, part)

    user = _USERINFO.search(url)
    if user is None:
        return fill(url, encode=False)
    return fill(url[: user.start()], False) + fill(user[0], True) + fill(url[user.end() :], False)


def refuse_unreadable(url: str) -> None:
    """Raise `ValueError` if parsers read the URL differently, as with a '/' in the password.

    The message shows nothing of it: a password that can't be told from the rest can't be hidden.
    """
    authority, rest = _split(url)
    ambiguous = "@" in rest and (":" in authority or "@" in authority)  # without these it is a file's path
    try:
        urlsplit(url).port  # noqa: B018  # it raises
    except ValueError:
        ambiguous = True
    if ambiguous:
        raise ValueError(_ENCODE)


def read_query(url: str, known: Iterable[str]) -> Mapping[str, str]:
    """Return the query of a URL; raise `ValueError` for a name that is not known, is there twice, or has no value."""
    known = sorted(known)
    query: dict[str, str] = {}
    for name, value in parse_qsl(urlsplit(url).query, keep_blank_values=True):
        if name not in known:
            raise ValueError(
                f"unknown name {name!r} in the query.{did_you_mean(name, known)} Known: {', '.join(known)}."
            )
        if name in query or not value:
            raise ValueError(f"{name!r} is to be in the query once, with a value.")
        query[name] = value
    return query


def read_object_url(url: str, name: str) -> str:
    """Return what a URL like `celery://?app=module:attribute` names, or ''; raise `ValueError` if it says more."""
    authority, rest = _split(url)
    if authority or not re.match(r"/?(\?|$)", rest):
        raise ValueError(f"it takes nothing but ?{name}=module:attribute: the address is that object's own affair.")
    return read_query(url, [name]).get(name, "")


def hide_password(url: str) -> str:
    """Return the URL with its password as `***`, and all values of its query that are not known to be harmless."""
    try:
        refuse_unreadable(url)
    except ValueError:
        url = _HIDDEN.sub(_without_password, url) if _HIDDEN.search(url) else url.partition("//")[0] + "//***"
    else:
        url = _USERINFO.sub(_without_password, url)
    url, mark, fragment = url.partition("#")
    url, question, query = url.partition("?")
    shown = "&".join(_without_value(each) for each in query.split("&"))
    return f"{url}{question}{shown if query else ''}{mark}{'***' if fragment else ''}"


def hide_in(text: str, url: str) -> str:
    """Return a text about a URL without the parts that `hide_password` hides."""
    authority, _ = _split(url)
    userinfo = authority.rpartition("@")[0].partition(":")[2]
    hidden = [value for name, value in parse_qsl(urlsplit(url).query) if name not in _OBJECTS]
    for secret in {userinfo, unquote(userinfo), *hidden} - {""}:
        text = re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", "***", text)
    return text


def _split(url: str) -> tuple[str, str]:
    """Return what a reader takes for user and host, and what comes after that."""
    found = _AUTHORITY.match(url)
    return (found[1], url[found.end() :]) if found else ("", "")


def _without_password(user: re.Match[str]) -> str:
    name, colon, _ = user[0].partition(":")
    return f"{name}:***" if colon else name


def _without_value(item: str) -> str:
    name, equals, value = item.partition("=")
    if not equals:
        return "***"  # the end of a password with an '&'
    return item if not value or name in _HARMLESS else f"{name}=***"
