"""Renews locks and threads in a forked child: a thread that held a lock in the parent doesn't exist in the child."""

from __future__ import annotations

# Both of these take their locks before a fork, the last registered first: ours must wait before they hold them.
import concurrent.futures.thread  # noqa: F401
import itertools
import logging  # noqa: F401
import os
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import MethodType
from typing import Any, Final

__all__ = ["forks_wait", "in_each_process"]


def in_each_process(begin: Callable[[], None]) -> None:
    """Call `begin` now and, as long as it or the object whose method it is lives, in every child that is forked.

    It makes the locks, and forgets the threads. In a child nobody else runs yet, and nothing may be waited for.
    """
    begin()
    number = next(_numbers)

    def forget(_: object) -> None:
        _begins.pop(number, None)

    _begins[number] = weakref.WeakMethod(begin, forget) if isinstance(begin, MethodType) else weakref.ref(begin, forget)


@contextmanager
def forks_wait() -> Iterator[None]:
    """Hold off forks of other threads, for some seconds at most, while the body imports modules.

    A module that is half imported at the fork stays so in the child: an import of it there waits for ever.
    """
    with _importing:
        yield


def _before() -> None:
    global _held
    _held = _importing.acquire(timeout=_PATIENCE)


def _after_in_parent() -> None:
    if _held:
        _importing.release()


def _after_in_child() -> None:
    global _importing
    _importing = threading.RLock()
    for reference in list(_begins.values()):
        if (begin := reference()) is not None:
            begin()


_PATIENCE: float = 5.0
_begins: Final[dict[int, weakref.ref[Any]]] = {}
_numbers: Final = itertools.count()
_importing = threading.RLock()
_held = False

if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child)
