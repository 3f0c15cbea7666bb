"""Tools for tests: a sandbox for the jobs of an application, and a clock that stands still until it is moved."""

from anyjob.testing.case import JobSandboxMixin
from anyjob.testing.clock import FakeClock
from anyjob.testing.record import AbandonedJob, EnqueuedJob, RanJob
from anyjob.testing.sandbox import JobSandbox, in_memory
from anyjob.testing.wire import assert_wire_unbroken

__all__ = [
    "AbandonedJob",
    "EnqueuedJob",
    "FakeClock",
    "JobSandbox",
    "JobSandboxMixin",
    "RanJob",
    "assert_wire_unbroken",
    "in_memory",
]
