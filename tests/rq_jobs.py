"""The jobs that the tests of RQ run in worker processes. Each writes whole lines to the file in ANYJOB_TEST_LOG."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import threading
import time

from anyjob import RetryPolicy, background_job, current_job


def note(*words: object) -> None:
    line = " ".join(str(word) for word in (*words, f"{time.time():.3f}"))
    with open(os.environ["ANYJOB_TEST_LOG"], "a", encoding="utf-8") as log:  # noqa: PTH123
        log.write(line + "\n")


@background_job("say")
def say(word: str) -> None:
    note("say", word)


@background_job("aside")
async def aside(word: str) -> None:
    await asyncio.sleep(0)
    note("aside", word, os.getpid())


@background_job("work")
def work(word: str, seconds: float) -> None:
    """Run for so long, deaf to everything."""
    note("begin", word, current_job().lost_count)
    threading.Event().wait(seconds)
    note("end", word)


@background_job("listen")
def listen(word: str) -> None:
    """Run until the worker stops."""
    note("begin", word, current_job().lost_count)
    pause = threading.Event()
    while not current_job().should_stop:
        pause.wait(0.01)
    note("end", word)


@background_job("end")
def end(code: int) -> None:
    note("end", code, current_job().lost_count)
    os._exit(code)


@background_job("die")
def die() -> None:
    note("die", current_job().lost_count)
    os.kill(os.getpid(), signal.SIGKILL)


@background_job("fail", retry=RetryPolicy(max_tries=2, first_wait=0.1))
def fail(word: str) -> None:
    note("fail", word, current_job().try_count)
    raise ValueError(word)


@background_job("fail-later", retry=RetryPolicy(max_tries=2, first_wait=3600))
def fail_later(word: str) -> None:
    note("fail-later", word)
    raise ValueError(word)


@background_job("compute", retry=RetryPolicy(max_tries=2, first_wait=0.1), time_limit=0.5)
def compute(word: str) -> None:
    """Stay in a single call of C code, which keeps the interpreter's lock."""
    note("begin", word, current_job().try_count, current_job().lost_count)
    sum(range(10**12))


@background_job("exit", retry=None)
def leave(code: int) -> None:
    note("exit", code)
    sys.exit(code)


class Broken(logging.Filter):
    """An application's filter, with a fault in it."""

    def filter(self, record: logging.LogRecord) -> bool:
        raise LookupError(record.msg)


if "ANYJOB_TEST_BROKEN_FILTER" in os.environ:
    for each in ("rq.worker", "rq.job", "anyjob.worker"):
        logging.getLogger(each).addFilter(Broken())
