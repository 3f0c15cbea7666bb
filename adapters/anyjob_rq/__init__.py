"""anyjob on RQ: jobs in RQ's queues, run by RQ's workers with our worker class, seen by RQ's monitors."""

from anyjob.extend import check_versions

check_versions("rq")

from anyjob_rq.app import RQJobWorker, RQSimpleJobWorker
from anyjob_rq.backend import ALL_QUEUES, RQBackend
from anyjob_rq.frame import EnvelopeSerializer

__all__ = ["ALL_QUEUES", "EnvelopeSerializer", "RQBackend", "RQJobWorker", "RQSimpleJobWorker"]
