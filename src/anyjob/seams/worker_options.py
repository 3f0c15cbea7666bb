"""A worker's options, checked where they are given; our worker reads them, native workers translate them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from msgspec import Struct
from msgspec.structs import force_setattr

from anyjob.base.envelope import QUEUE_NAME, QUEUE_RULE
from anyjob.base.errors import InvalidOptionError, shown
from anyjob.base.moments import LONGEST_WAIT
from anyjob.base.plain import plain_number, plain_texts

__all__ = ["DEFAULT_STOP_TIMEOUT", "WorkerOptions"]

DEFAULT_STOP_TIMEOUT: Final = 30.0
"""Seconds; the default of the setting `stop_timeout`."""


class WorkerOptions(Struct, frozen=True, kw_only=True):
    """The queues that a worker serves, and how. Native workers translate these. Durations in seconds."""

    queues: tuple[str, ...] | None = None
    """Logical queues to serve; None is all."""
    exclude_queues: tuple[str, ...] = ()
    """Serve all queues but these: of the closed list, or else of those that the registered jobs name."""
    burst: bool = False
    """End when nothing is due and nothing runs; jobs that are due later, further tries too, are left to another worker.
    """
    max_jobs: int | None = None
    """End after so many jobs; None is no end."""
    concurrency: int = 1
    """Jobs run at the same time."""
    stop_timeout: float | None = None
    """How long running jobs may take to finish when the worker stops; the others go back, uncharged. None is the
    manager's, which is the settings'.
    """

    def __post_init__(self) -> None:
        for name, (plain, is_right, rule) in _RULES.items():
            value = plain(getattr(self, name))
            if not is_right(value):
                raise InvalidOptionError(f"WorkerOptions({name}={shown(value)}): {rule}")
            force_setattr(self, name, value)
        if self.queues is not None and self.exclude_queues:
            raise InvalidOptionError("WorkerOptions: either queues or exclude_queues, not both.")

    @property
    def stops_within(self) -> float:
        """The `stop_timeout` in force, in seconds."""
        return DEFAULT_STOP_TIMEOUT if self.stop_timeout is None else self.stop_timeout


def _are_queues(value: object) -> bool:
    return isinstance(value, tuple) and all(isinstance(each, str) and QUEUE_NAME.fullmatch(each) for each in value)


def _is_number(value: object, kind: type = float) -> bool:
    whole = isinstance(value, int) and not isinstance(value, bool)
    return whole or (kind is float and isinstance(value, float))


def _is_duration(value: Any) -> bool:
    return _is_number(value) and 0 < value <= LONGEST_WAIT


def _is_count(value: Any) -> bool:
    return _is_number(value, int) and value > 0


_QUEUES: Final = f"queues are a tuple, as ('mail',); {QUEUE_RULE}"
_COUNT: Final = "must be a whole number more than 0."
_DURATION: Final = "must be a number more than 0, of seconds."

# Of each option: its conversion, its check, and the rule that an error tells.
_RULES: Final[Mapping[str, tuple[Callable[[Any], Any], Callable[[Any], bool], str]]] = {
    "queues": (plain_texts, lambda value: value is None or _are_queues(value), _QUEUES),
    "exclude_queues": (plain_texts, _are_queues, _QUEUES),
    "max_jobs": (plain_number, lambda value: value is None or _is_count(value), f"{_COUNT[:-1]}, or None."),
    "concurrency": (plain_number, _is_count, _COUNT),
    "stop_timeout": (plain_number, lambda value: value is None or value == 0 or _is_duration(value), _DURATION),
}
