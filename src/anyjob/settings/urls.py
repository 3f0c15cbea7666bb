"""Backend URLs: told from aliases, filled in from the environment, shown without passwords."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import quote

__all__ = ["expand_url", "hide_password", "is_url"]

_URL: Final = re.compile(r"(?:[a-z][a-z0-9+.-]*:|[a-z0-9+.-]*\$\{).*", re.DOTALL | re.IGNORECASE)
_VARIABLE: Final = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_USERINFO: Final = re.compile(r"(?<=://)[^/?#]*(?=@)")
_HIDDEN: Final = re.compile(r"(?<=//).*(?=@)", re.DOTALL)  # also what should have been percent-encoded
_SECRET: Final = re.compile(r"([?&][^=&#]*(?:pass|pw|secret|token|key|auth|cred)[^=&#]*=)[^&#]*", re.IGNORECASE)


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


def hide_password(url: str) -> str:
    """Return the URL with its password, and what looks like one in the query, as `***`."""
    user = _HIDDEN.search(url)
    if user is not None and ":" in user[0]:
        url = f"{url[: user.start()]}{user[0].partition(':')[0]}:***{url[user.end() :]}"
    return _SECRET.sub(r"\1***", url)
