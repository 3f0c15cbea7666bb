"""The marks of `send(once=)`: by them a server knows the jobs that it accepted before from a killed mover, or a
tick.
"""

from __future__ import annotations

from collections.abc import Collection

from anyjob.base.envelope import JobEnvelope
from anyjob.seams.natives import ADOPTED_HEADER

__all__ = ["SendMarks"]


class SendMarks:
    """The memory of marks in a backend's server, or a store; this one remembers nothing. Thread-safe.

    A mark names one move, or one tick of a schedule. All methods raise `EnqueueError`.
    """

    @staticmethod
    def key(envelope: JobEnvelope) -> str:
        """Return a key that tells a job from a later one with the same id; it never changes."""
        made = "adopted" if ADOPTED_HEADER in envelope.headers else envelope.created_at.timestamp()
        return f"{envelope.id} {made}"

    def begin(self, mark: str) -> None:  # noqa: ARG002
        """Remember the mark, which may have been begun before."""
        return

    def knows(self, mark: str) -> bool:  # noqa: ARG002
        """Whether the mark was begun and not forgotten. A mover asks the backend it moves from: if so, both are one
        place.
        """
        return False

    def in_doubt(self, mark: str) -> Collection[str]:  # noqa: ARG002
        """Return the ids of jobs that were sent again under this mark and may be there twice: none where
        `Capabilities.moves_once`.
        """
        return ()

    def forget(self, mark: str | None, ids: Collection[str] | None = None) -> None:  # noqa: ARG002
        """Forget a mark, or only its jobs `ids`, which won't be sent again; None: all marks, as jobs leave here."""
        return
