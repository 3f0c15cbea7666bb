"""Jobs, and native functions that do the same, in processes that report to Sentry, as its documentation sets it up."""

from __future__ import annotations

import os

import sentry_sdk
from sentry_sdk.integrations.dramatiq import DramatiqIntegration

from anyjob import RetryPolicy, background_job

sentry_sdk.init(
    os.environ["WATCHED_DSN"],
    ca_certs=os.environ["WATCHED_CA"],
    traces_sample_rate=1.0,
    integrations=[DramatiqIntegration()],  # those of Celery and RQ it finds by itself
)


def work(number: int) -> None:
    """Do nothing."""


def fail(number: int) -> None:
    raise LookupError(f"no {number}")


works = background_job("watched.works")(work)
fails = background_job("watched.fails", retry=None)(fail)
fails_twice = background_job("watched.fails-twice", retry=RetryPolicy(max_tries=2, first_wait=0.1))(fail)
"""RQ and Dramatiq call it twice, too, if they are told so."""
