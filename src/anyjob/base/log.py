"""The form of every log line: `event key=value ...`, each fact in `extra` too, arguments never (docs/logging.md)."""

from __future__ import annotations

import json
import logging
import re
import traceback
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from functools import partial
from typing import Any, Final

from anyjob.base.envelope import JobEnvelope
from anyjob.base.error_text import is_one_line, tellable, visible

__all__ = ["FENCED", "JobLogger", "log_event", "tell_stderr"]


FENCED: Final = "its lease was lost while it ran; it may have run twice"


class JobLogger(logging.LoggerAdapter[logging.Logger]):
    """The logger `name`, which never raises: an application's filters and handlers must not end a try.

    `logging` guards handlers, but not filters and record factories. Their exceptions are printed on stderr, as
    `logging` tells of a broken handler, if `logging.raiseExceptions` is set.

    Names, ids and errors come from anywhere: a record of ours is one line, and what follows it, a traceback, can't pass
    for another. A `native` logger, a job library's own, may colour its words.
    """

    def __init__(self, name: str, *, native: bool = False) -> None:
        super().__init__(logging.getLogger(name))
        self.isEnabledFor = self.logger.isEnabledFor  # type: ignore[method-assign]  # asked three times a job
        self.logger.addFilter(_make_harmless_in_colours if native else _make_harmless)

    def log(self, level: int, msg: object, *args: object, **options: Any) -> None:
        if not self.logger.isEnabledFor(level):
            return
        options["stacklevel"] = options.get("stacklevel", 1) + 1
        try:
            self.logger.log(level, msg, *args, **options)
        except Exception:  # noqa: BLE001  # the application's
            tell_stderr()


def tell_stderr() -> None:
    """Print the exception that is handled, as `logging` does with a handler's, as the last resort."""
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
    """Log what happened, to a job if there is an `envelope`. Each fact is a `key=value` of the line and, named
    `job_<key>`, a field of the record: an int, a float, or a string. None is no fact.

    A float is a duration in seconds, a datetime is written in ISO 8601. A fact's name may end in `_` where Python
    reserves the word. Values come from messages, which anybody may have written: a value that could look like another
    fact, or another line, is quoted.
    """
    if not logger.isEnabledFor(level):
        return
    fields: dict[str, object] = {"job_event": event}
    if envelope is not None:
        fields |= {"job_queue": envelope.queue, "job_priority": envelope.priority.name.lower()}
        facts = {"job": envelope.name, "id": envelope.id, **facts}
    words = []
    for key, value in facts.items():
        if value is not None:
            name, plain = key.rstrip("_"), _plain(value)
            fields["job_name" if name == "job" else f"job_{name}"] = plain
            words.append(f"{name}={_seconds(plain) if isinstance(plain, float) else _quoted(str(plain))}")
    template = f"{event} %s"  # which error trackers group by
    logger.log(level, template, " ".join(words), exc_info=exc_info, extra=fields, stacklevel=2)


def _plain(value: object) -> int | float | str:
    if isinstance(value, datetime):
        return value.isoformat(timespec="seconds")
    return value if isinstance(value, int | float) else str(value)[:_LONGEST]


def _seconds(value: float) -> str:
    return f"{value:.3f}".rstrip("0").rstrip(".") + "s"


def _quoted(value: str) -> str:
    plain = value.isprintable() and not _TELLING.intersection(value)
    return value if plain and value else visible(json.dumps(value, ensure_ascii=False))


def _make_harmless(record: logging.LogRecord, show: Callable[[str], str] = visible) -> bool:
    if isinstance(record.args, tuple):
        record.args = tuple(each if isinstance(each, int | float) else show(str(each)) for each in record.args)
    if record.exc_info and record.exc_info[1] is not None:
        error = tellable(record.exc_info[1])
        record.exc_info = (type(error), error, error.__traceback__)
        if not is_one_line(error):  # formatters take it as it is, if it is there
            lines = "".join(traceback.format_exception(error)).splitlines()
            record.exc_text = "\n".join(f"  {visible(line)}" for line in lines)
    return True


def _show_in_colours(text: str) -> str:
    return "".join(part if _COLOUR.fullmatch(part) else visible(part) for part in _COLOUR.split(text))


_make_harmless_in_colours: Final = partial(_make_harmless, show=_show_in_colours)
_COLOUR: Final = re.compile(r"(\x1b\[[0-9;]*m)")
_TELLING: Final = frozenset(' "=')
_LONGEST: Final = 500
