"""Background jobs defined once, run by the job system that the settings name."""

from anyjob.base.clock import Clock, SystemClock
from anyjob.base.envelope import JobEnvelope, JobPriority
from anyjob.base.errors import (
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
from anyjob.base.job_id import JobId
from anyjob.current import configure, default_registry, get_manager, override
from anyjob.define.configuration import JobConfiguration
from anyjob.define.context import JobExecutionContext, current_job
from anyjob.define.names import job_name
from anyjob.define.options import EnqueueOptions
from anyjob.define.registry import JobRegistry
from anyjob.define.retry import GiveUp, RetryLater, RetryPolicy, Snooze
from anyjob.define.serializer import JobSerializer, JsonJobSerializer
from anyjob.job import AsyncBackgroundJob, BackgroundJob, FunctionJob, background_job
from anyjob.migration import JobMigration, MigrationOptions
from anyjob.run.invoker import JobResolver
from anyjob.run.worker import JobWorker
from anyjob.seams.capabilities import Capabilities, Quality
from anyjob.seams.inspector import JobInspector
from anyjob.seams.observer import JobObserver
from anyjob.seams.outcome import JobFailure
from anyjob.seams.stored import JobFilter, JobState, StoredJob
from anyjob.seams.worker_options import WorkerOptions
from anyjob.send.manager import JobManager
from anyjob.send.routing import JobRoute

__version__ = "0.1.0.dev0"

__all__ = [  # noqa: RUF022  # grouped as they are met
    # Define
    "AsyncBackgroundJob",
    "BackgroundJob",
    "FunctionJob",
    "JobConfiguration",
    "JobRegistry",
    "JobSerializer",
    "JsonJobSerializer",
    "background_job",
    "default_registry",
    "job_name",
    # Enqueue
    "EnqueueOptions",
    "JobEnvelope",
    "JobId",
    "JobManager",
    "JobPriority",
    "JobRoute",
    "configure",
    "get_manager",
    "override",
    # Run
    "Clock",
    "GiveUp",
    "JobExecutionContext",
    "JobObserver",
    "JobResolver",
    "JobWorker",
    "RetryLater",
    "RetryPolicy",
    "Snooze",
    "SystemClock",
    "WorkerOptions",
    "current_job",
    # Operate
    "Capabilities",
    "JobFailure",
    "JobFilter",
    "JobInspector",
    "JobMigration",
    "JobState",
    "MigrationOptions",
    "Quality",
    "StoredJob",
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

for _name in __all__:
    if isinstance(_class := globals()[_name], type) and issubclass(_class, BaseException):
        _class.__module__ = __name__  # logs and parked jobs name an error by what users import
