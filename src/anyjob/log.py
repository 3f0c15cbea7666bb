"""The form of every log line: `event key=value ...`, the ids also in `extra`, arguments never."""

from __future__ import annotations

import json
import logging
import traceback
from contextlib import suppress
from typing import Any, Final

from anyjob.envelope import JobEnvelope

__all__ = ["JobLogger", "log_event", "tell_stderr"]


class JobLogger(logging.LoggerAdapter[logging.Logger]):
    """The logger `name`, which never raises: what ends a try must not depend on an application's filters and handlers.

    `logging` guards handlers, but lets what a filter or a record factory raises through. It is told on stderr, as
    `logging` tells of a broken handler, if `logging.raiseExceptions` is set.
    """

    def __init__(self, name: str) -> None:
        super().__init__(logging.getLogger(name))
        self.isEnabledFor = self.logger.isEnabledFor  # type: ignore[method-assign]  # asked three times a job

    def log(self, level: int, msg: object, *args: object, **options: Any) -> None:
        if not self.logger.isEnabledFor(level):
            return
        options["stacklevel"] = options.get("stacklevel", 1) + 1
        try:
            self.logger.log(level, msg, *args, **options)
        except Exception:  # noqa: BLE001  # the application's
            tell_stderr()


def tell_stderr() -> None:
    """Print the exception that is handled, as `logging` does with what a handler raises, where nothing else is left."""
    if logging.raiseExceptions:
        with suppress(Exception):
            traceback.print_exc()


def log_event(
    logger: JobLogger,
    level: int,
    event: str,
    envelope: JobEnvelope | None = None,
    *,
    exc_info: BaseException | None = None,
    **facts: object,
) -> None:
    """Log what happened to a job. A fact's name may end in `_` where Python reserves the word.

    Names and ids come from messages, which anybody may have written: what could look like another fact, or another
    line, is quoted.
    """
    if not logger.isEnabledFor(level):
        return
    if envelope is not None:
        facts = {"job": envelope.name, "id": envelope.id, **facts}
    extra = {"job_name": envelope.name, "job_id": envelope.id} if envelope is not None else {}
    text = " ".join(f"{key.rstrip('_')}={_quoted(str(value))}" for key, value in facts.items())
    logger.log(level, "%s %s", event, text, exc_info=exc_info, extra=extra)


def _quoted(value: str) -> str:
    plain = value.isprintable() and not _TELLING.intersection(value)
    return value if plain and value else json.dumps(value)


_TELLING: Final = frozenset(' "=')
