"""Background jobs defined once, run by the job system that the settings name."""

from anyjob.backend import JobBackend
from anyjob.clock import Clock, SystemClock
from anyjob.context import JobExecutionContext, current_job
from anyjob.current import configure, default_registry, get_manager, override
from anyjob.envelope import JobEnvelope, JobPriority
from anyjob.errors import (
    AnyjobError,
    BackendNotInstalledError,
    ConfigurationError,
    DuplicateJobError,
    DuplicateJobIdError,
    EnqueueError,
    EnvelopeError,
    InvalidArgsError,
    InvalidOptionError,
    JobDefinitionError,
    JobLostError,
    JobResolutionError,
    JobTimeLimitError,
    NotConfiguredError,
    UnknownJobError,
    UnsupportedCapabilityError,
    UntellableError,
)
from anyjob.job import AsyncBackgroundJob, BackgroundJob, FunctionJob, background_job
from anyjob.job_id import JobId
from anyjob.manager import JobManager
from anyjob.memory import InMemoryJobStore
from anyjob.observer import JobObserver
from anyjob.options import EnqueueOptions
from anyjob.outcome import JobFailure
from anyjob.registry import JobConfiguration, JobRegistry, job_name
from anyjob.retry import GiveUp, RetryLater, RetryPolicy, Snooze
from anyjob.routing import JobRoute
from anyjob.serializer import JobSerializer, JsonJobSerializer
from anyjob.store import JobFilter, JobState, JobStore, StoredJob
from anyjob.store_backend import StoreBackend
from anyjob.worker import JobWorker, WorkerOptions

__version__ = "0.1.0.dev0"

__all__ = [  # noqa: RUF022  # grouped as they are met
    # Define
    "AsyncBackgroundJob",
    "BackgroundJob",
    "FunctionJob",
    "JobConfiguration",
    "JobRegistry",
    "background_job",
    "default_registry",
    "job_name",
    # Enqueue
    "EnqueueOptions",
    "JobId",
    "JobManager",
    "JobPriority",
    "JobRoute",
    "configure",
    "get_manager",
    "override",
    # Run
    "GiveUp",
    "JobExecutionContext",
    "JobObserver",
    "JobWorker",
    "RetryLater",
    "RetryPolicy",
    "Snooze",
    "WorkerOptions",
    "current_job",
    # Look
    "JobEnvelope",
    "JobFailure",
    "JobFilter",
    "JobState",
    "StoredJob",
    # Extend
    "Clock",
    "InMemoryJobStore",
    "JobBackend",
    "JobSerializer",
    "JobStore",
    "JsonJobSerializer",
    "StoreBackend",
    "SystemClock",
    # Errors
    "AnyjobError",
    "BackendNotInstalledError",
    "ConfigurationError",
    "DuplicateJobError",
    "DuplicateJobIdError",
    "EnqueueError",
    "EnvelopeError",
    "InvalidArgsError",
    "InvalidOptionError",
    "JobDefinitionError",
    "JobLostError",
    "JobResolutionError",
    "JobTimeLimitError",
    "NotConfiguredError",
    "UnknownJobError",
    "UnsupportedCapabilityError",
    "UntellableError",
]
