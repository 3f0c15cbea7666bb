"""The schema of all sources: each key with the reader that checks its value."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

import msgspec

from anyjob.base.envelope import QUEUE_NAME, QUEUE_RULE
from anyjob.base.errors import JobDefinitionError, did_you_mean, shown
from anyjob.base.moments import LONGEST_WAIT
from anyjob.base.named import OBJECT_NAME
from anyjob.base.plain import plain_number, plain_text, plain_texts
from anyjob.base.urls import is_url
from anyjob.define.retry import RetryPolicy
from anyjob.seams.observer import JobObserver
from anyjob.send.routing import JobRoute

__all__ = ["FIELDS", "read_source"]

Reader = Callable[[Any], Any]


def _plain(kind: Any, *, at_least: float | None = None) -> Reader:
    """Make a reader of one type; strings stand for numbers and switches, because the environment has nothing else."""

    def read(value: Any) -> Any:
        converted = msgspec.convert(plain_number(plain_text(value)), kind, strict=False)
        if at_least is not None and not at_least <= converted <= LONGEST_WAIT:
            raise ValueError(
                f"{shown(converted)} must be a finite number, {at_least:g} or more, {LONGEST_WAIT:.0f} at most."
            )
        return converted

    return read


def _names(value: Any) -> tuple[str, ...]:
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise ValueError(f"{value!r} must be a list, as ['mail'].")
    return msgspec.convert(plain_texts(value), tuple[str, ...])


def _observers(value: Any) -> tuple[JobObserver | str, ...]:
    if isinstance(value, str | JobObserver) or not isinstance(value, Iterable):
        raise ValueError(f"{value!r} must be a list, as ['shop.tracing:Tracing'].")
    return tuple(
        each if isinstance(each, JobObserver) else _object_name(each, "shop.tracing:Tracing") for each in value
    )


def _resolver(value: Any) -> Any:
    return value if callable(value) and not isinstance(value, type) else _object_name(value, "shop.container:resolver")


def _object_name(value: Any, example: str) -> str:
    value = plain_text(value)
    if not isinstance(value, str) or not OBJECT_NAME.fullmatch(value):
        raise ValueError(f"{value!r} must be 'module:name', as {example!r}.")
    return value


def _queues(value: Any) -> tuple[str, ...]:
    names = _names(value)
    for name in names:
        if not QUEUE_NAME.fullmatch(name):
            raise ValueError(f"{name!r}: {QUEUE_RULE}")
    return names


def _namespace(value: Any) -> str:
    value = plain_text(value)
    if not isinstance(value, str) or not QUEUE_NAME.fullmatch(value):
        raise ValueError(f"{value!r}: a namespace is spelt like a queue: {QUEUE_RULE}")
    return value


def _url(value: Any) -> str:
    value = plain_text(value)
    if not isinstance(value, str) or not is_url(value):
        raise ValueError("must be a URL, as 'memory:' or 'rq+redis://localhost:6379/0'.")
    return value


def _retry(value: Any) -> RetryPolicy | None:
    if value is None or isinstance(value, RetryPolicy):
        return value
    if value == "none":
        return None
    if not isinstance(value, Mapping):
        raise ValueError(f'{value!r} must be "none" or a table, as {{ max_tries = 5 }}.')
    _refuse_unknown_keys(value, [name for name in RetryPolicy.__dataclass_fields__ if name != "give_up_on"])
    return msgspec.convert({key: plain_number(each) for key, each in value.items()}, RetryPolicy)


def _routes(value: Any) -> tuple[JobRoute, ...]:
    if isinstance(value, str | Mapping) or not isinstance(value, Iterable):
        raise ValueError("must be a list of tables, as [[routes]] makes.")
    return tuple(_route(index, each) for index, each in enumerate(value))


def _route(index: int, value: Any) -> JobRoute:
    if isinstance(value, JobRoute):
        return value
    if not isinstance(value, Mapping):
        raise ValueError(f"[{index}] must be a table.")
    try:
        _refuse_unknown_keys(value, JobRoute.__struct_fields__)
        route = msgspec.convert({key: plain_text(each) for key, each in value.items()}, JobRoute)
    except ValueError as error:
        raise ValueError(f"[{index}]: {error}") from error
    if route.queue is not None and not QUEUE_NAME.fullmatch(route.queue):
        raise ValueError(f"[{index}]: queue = {route.queue!r}: {QUEUE_RULE}")
    if (route.job is None) == (route.queue is None):
        raise ValueError(f"[{index}]: a route has either a job pattern or a queue.")
    return route


def _refuse_unknown_keys(value: Mapping[str, Any], known: Iterable[str]) -> None:
    known = list(known)
    for key in value:
        if key not in known:
            raise ValueError(f"unknown key {key!r}.{did_you_mean(key, known)} Known keys: {', '.join(known)}.")


FIELDS: Final[Mapping[str, Reader]] = {
    "default": _plain(str),
    "worker_backend": _plain(str),
    "imports": _names,
    "observers": _observers,
    "resolver": _resolver,
    "routes": _routes,
    "retry": _retry,
    "namespace": _namespace,
    "enqueue_only": _plain(bool),
    "enqueue_timeout": _plain(float, at_least=0.1),
    "max_args_size": _plain(int, at_least=1),
    "max_losses": _plain(int, at_least=0),
    "defer_unknown": _plain(float, at_least=0),
    "lease": _plain(float, at_least=0.1),
    "stop_timeout": _plain(float, at_least=0),
}

BACKEND_FIELDS: Final[Mapping[str, Reader]] = {
    "url": _url,
    "queues": _queues,
    "options": _plain(dict[str, Any]),
}


def read_source(source: str, said: Any, faults: list[str]) -> Iterator[tuple[str, Any]]:
    """Yield the settings of a source as (path, value), checked; note every fault. `backends.x` stands before a whole
    row.
    """
    if not isinstance(said, Mapping):
        faults.append(f"{source}: must be a table.")
        return
    for key, value in said.items():
        if key != "backends":
            yield from _read_field(source, "", key, value, FIELDS, faults)
        elif not isinstance(value, Mapping):
            faults.append(f"{source}: backends must be a table of backends by alias.")
        else:
            for alias, row in value.items():
                yield from _read_row(source, f"backends.{alias}", row, faults)


def _read_row(source: str, path: str, row: Any, faults: list[str]) -> Iterator[tuple[str, Any]]:
    if isinstance(row, str):  # a URL alone is the whole row: nothing of a weaker source's clings to it
        yield path, None
        yield from _read_field(source, path, "url", row, BACKEND_FIELDS, faults)
    elif isinstance(row, Mapping):
        for name, item in row.items():
            yield from _read_field(source, path, name, item, BACKEND_FIELDS, faults)
    else:
        faults.append(f"{source}: {path} must be a URL, or a table with one.")


def _read_field(
    source: str, table: str, key: str, value: Any, fields: Mapping[str, Reader], faults: list[str]
) -> Iterator[tuple[str, Any]]:
    path = f"{table}.{key}" if table else key
    if key not in fields:
        known = sorted(fields) if table else sorted([*fields, "backends"])
        hint = did_you_mean(key, known)
        faults.append(
            f"{source}: {table + ': ' if table else ''}unknown key {key!r}.{hint} Known keys: {', '.join(known)}."
        )
        return
    try:
        yield path, fields[key](value)
    except (ValueError, JobDefinitionError) as error:
        faults.append(f"{source}: {path}{'' if str(error).startswith('[') else ': '}{error}")
