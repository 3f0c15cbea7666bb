"""Imitates a publish by Celery for tracers, which rely on more than Celery promises.

tests/test_private_parts.py says when an upgrade changes any of it.
"""

from __future__ import annotations

import sys
from collections import ChainMap
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import lru_cache
from operator import attrgetter
from types import SimpleNamespace
from typing import Any, Final

__all__ = ["is_send_task_wrapped", "known_task", "through_send_task"]


def is_send_task_wrapped() -> bool:
    """Whether `Celery.send_task` is wrapped, as by Sentry, to put headers into messages."""
    base = sys.modules.get("celery.app.base")  # its wrapper has imported it
    return base is not None and hasattr(base.Celery.send_task, "__wrapped__")


def through_send_task(name: str, headers: Mapping[str, Any], publish: Callable[[Mapping[str, Any]], None]) -> None:
    """Call `publish` as `Celery.send_task` would publish: inside of its wrappers, with the headers that they made."""
    from celery import Celery

    def send_task_message(_producer: Any, _name: str, _message: Any, *, headers: Any, **_: Any) -> None:
        publish(headers)

    amqp = SimpleNamespace(create_task_message=_nothing, send_task_message=send_task_message)
    app = SimpleNamespace(
        amqp=amqp,
        conf=_CONF,
        _tasks={},
        current_worker_task=None,
        thread_oid="",
        producer_or_acquire=lambda _producer: nullcontext(_PRODUCER),
    )
    options = {
        "router": _ROUTER,
        "ignore_result": True,
        "result_cls": lambda _id: SimpleNamespace(),
        "add_to_parent": False,
    }
    Celery.send_task(app, name, task_id=headers["id"], headers=dict(headers), **options)


@contextmanager
def known_task(name: str) -> Iterator[None]:
    """Let this thread's current application have a task of that name, in the body: OpenTelemetry ends its span of a
    publish only for tasks that it finds there. No application is changed.
    """
    from celery import _state

    app = _state.get_current_app()
    if name in app.tasks:
        yield
        return
    before = _state._tls.current_app  # noqa: SLF001  # None, if it is the default one
    _state._set_current_app(_Knowing(app, _task(app, name)))  # noqa: SLF001
    try:
        yield
    finally:
        _state._set_current_app(before)  # noqa: SLF001


class _Knowing:
    """An application with one more task."""

    def __init__(self, app: Any, task: Any) -> None:
        self._app = app
        self.tasks: Mapping[str, Any] = ChainMap({task.name: task}, app.tasks)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._app, name)

    def _rgetattr(self, path: str) -> Any:  # by which `celery.registry.tasks` is found
        return attrgetter(path)(self)


@lru_cache(256)
def _task(app: Any, name: str) -> Any:
    from celery import Task

    task = type("PublishedJob", (Task,), {"name": name})()
    task.bind(app)
    return task


def _nothing(*_: Any, **__: Any) -> None:
    return


_CONF: Final = SimpleNamespace(task_always_eager=False, task_inherit_parent_priority=False, task_send_sent_event=False)
_PRODUCER: Final = SimpleNamespace(connection=SimpleNamespace(_reraise_as_library_errors=nullcontext))
_ROUTER: Final = SimpleNamespace(route=lambda options, *_: options)
