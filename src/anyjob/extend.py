"""The names that the author of an adapter or a store needs: adapters import nothing else of anyjob's.

`anyjob` itself is for those who define, enqueue, run and operate jobs.
"""

from anyjob.base.clock import Clock, SystemClock, deadline_in
from anyjob.base.envelope import (
    JOB_ID,
    MAX_ERROR_LENGTH,
    QUEUE_NAME,
    RESERVED_HEADER_PREFIX,
    UNREADABLE,
    JobEnvelope,
    JobIds,
    JobPriority,
    copy_id,
    count_loss_in,
    id_in,
    own_id,
    read_envelope,
    write_envelope,
)
from anyjob.base.error_text import describe_error
from anyjob.base.errors import (
    AnyjobError,
    ConfigurationError,
    DuplicateJobIdError,
    EnqueueError,
    EnvelopeError,
    InvalidOptionError,
    JobTimeLimitError,
    UnsupportedCapabilityError,
    did_you_mean,
)
from anyjob.base.forks import in_each_process
from anyjob.base.log import JobLogger, log_event
from anyjob.base.moments import plain_moment
from anyjob.base.named import NamedObject
from anyjob.base.urls import hide_in, hide_password, read_object_url, read_query, refuse_unreadable
from anyjob.base.versions import check_versions
from anyjob.define.retry import GiveUp
from anyjob.run.absence import insist, log_pause
from anyjob.run.claim_log import log_fenced, log_not_settled, log_released
from anyjob.run.executor import JobExecutor
from anyjob.run.keeper import ClaimKeeper
from anyjob.run.recurring import RecurringThread
from anyjob.run.stopping import HANDED_BACK, end_at_once, stop_in_time
from anyjob.run.supervisor import Supervisor, say_up
from anyjob.run.timelimit import TIME_LIMIT_GRACE
from anyjob.run.worker import JobWorker
from anyjob.seams.backend import BackendConfig, JobBackend, NativeCommand, log_parked, send_one_by_one
from anyjob.seams.capabilities import ALL_STATES, BulkAtomicity, Capabilities, Quality
from anyjob.seams.inspector import HeldJob, JobInspector
from anyjob.seams.marks import SendMarks
from anyjob.seams.natives import NativeMessage, ReadNative
from anyjob.seams.outcome import Abandoned, Completed, Deferred, JobFailure, Outcome, Retry, worker_name
from anyjob.seams.source import DEFAULT_LEASE, JobClaim, JobSource, Listeners, LostJob
from anyjob.seams.store import JobStore
from anyjob.seams.stored import JobFilter, JobPage, JobState, PageCursor, StoredJob
from anyjob.seams.worker_options import DEFAULT_STOP_TIMEOUT, WorkerOptions
from anyjob.stores.store_backend import StoreBackend

__all__ = [
    "ALL_STATES",
    "DEFAULT_LEASE",
    "DEFAULT_STOP_TIMEOUT",
    "HANDED_BACK",
    "JOB_ID",
    "MAX_ERROR_LENGTH",
    "QUEUE_NAME",
    "RESERVED_HEADER_PREFIX",
    "TIME_LIMIT_GRACE",
    "UNREADABLE",
    "Abandoned",
    "AnyjobError",
    "BackendConfig",
    "BulkAtomicity",
    "Capabilities",
    "ClaimKeeper",
    "Clock",
    "Completed",
    "ConfigurationError",
    "Deferred",
    "DuplicateJobIdError",
    "EnqueueError",
    "EnvelopeError",
    "GiveUp",
    "HeldJob",
    "InvalidOptionError",
    "JobBackend",
    "JobClaim",
    "JobEnvelope",
    "JobExecutor",
    "JobFailure",
    "JobFilter",
    "JobIds",
    "JobInspector",
    "JobLogger",
    "JobPage",
    "JobPriority",
    "JobSource",
    "JobState",
    "JobStore",
    "JobTimeLimitError",
    "JobWorker",
    "Listeners",
    "LostJob",
    "NamedObject",
    "NativeCommand",
    "NativeMessage",
    "Outcome",
    "PageCursor",
    "Quality",
    "ReadNative",
    "RecurringThread",
    "Retry",
    "SendMarks",
    "StoreBackend",
    "StoredJob",
    "Supervisor",
    "SystemClock",
    "UnsupportedCapabilityError",
    "WorkerOptions",
    "check_versions",
    "copy_id",
    "count_loss_in",
    "deadline_in",
    "describe_error",
    "did_you_mean",
    "end_at_once",
    "hide_in",
    "hide_password",
    "id_in",
    "in_each_process",
    "insist",
    "log_event",
    "log_fenced",
    "log_not_settled",
    "log_parked",
    "log_pause",
    "log_released",
    "own_id",
    "plain_moment",
    "read_envelope",
    "read_object_url",
    "read_query",
    "refuse_unreadable",
    "say_up",
    "send_one_by_one",
    "stop_in_time",
    "worker_name",
    "write_envelope",
]
