"""The result of an enqueue: the job's id, with the alias of its backend."""

from __future__ import annotations

from typing import Any, Self

__all__ = ["JobId"]


class JobId(str):
    """The id of an enqueued job: a `str` in all that it does, with the alias of the backend that took the job.

    Equal to the same text, as a key too; as JSON, as text and in an f-string it is the id alone. msgspec encodes no
    subclasses of str: give it `str(job_id)`. Job arguments, headers and the option `job_id` take it as it is.
    """

    __slots__ = ("_backend",)

    _backend: str

    def __new__(cls, job_id: str, backend: str) -> Self:
        made = super().__new__(cls, job_id)
        made._backend = backend
        return made

    @property
    def backend(self) -> str:
        """Alias of the backend that took the job, for `manager.inspect(job_id.backend)`."""
        return self._backend

    def __repr__(self) -> str:
        return f"JobId({str(self)!r}, backend={self._backend!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self._backend)
