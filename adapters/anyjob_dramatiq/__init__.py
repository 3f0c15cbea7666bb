"""anyjob on Dramatiq: jobs run by Dramatiq's workers inside the application's middleware, seen by its monitors."""

from anyjob_dramatiq.backend import DramatiqBackend
from anyjob_dramatiq.redis_backend import DramatiqRedisBackend

__all__ = ["DramatiqBackend", "DramatiqRedisBackend"]
