"""Notes which messages on a broker of the user's own were begun and not settled: Redis has no other record of that."""

from __future__ import annotations

from typing import Any, Final

from anyjob_dramatiq.names import root_of

__all__ = ["BegunMessages"]


class BegunMessages:
    """A key for each, by the id that the message has on Redis; a message without one is not noted."""

    def __init__(self, client: Any, namespace: str) -> None:
        self._client = client
        self._namespace = namespace

    def note(self, native_id: str) -> bool:
        """Note that a message's job begins; return whether it was begun before and never settled."""
        if not native_id:
            return False
        return self._client.set(self._key(native_id), 1, nx=True, ex=_KEPT) is None

    def forget(self, native_id: str) -> None:
        """Note that it was settled."""
        if native_id:
            self._client.delete(self._key(native_id))

    def _key(self, native_id: str) -> str:
        return f"{root_of(self._namespace)}:begun:{native_id}"


_KEPT: Final = 7 * 86_400
