"""anyjob on Dramatiq: jobs run by Dramatiq's workers inside the application's middleware, seen by its monitors."""

from anyjob.extend import check_versions

check_versions("dramatiq")

from anyjob_dramatiq.backend import DramatiqBackend

__all__ = ["DramatiqBackend"]
