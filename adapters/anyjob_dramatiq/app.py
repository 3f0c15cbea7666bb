"""What Dramatiq's command line names: `dramatiq anyjob_dramatiq.app -p 2 -t 8`. Importing it makes the broker.

It serves the backend that the settings name (`ANYJOB_APP`, `ANYJOB_WORKER_BACKEND`); `--queues` are logical ones.
"""

from __future__ import annotations

import dramatiq

from anyjob.current import load_application
from anyjob.errors import ConfigurationError
from anyjob_dramatiq.backend import DramatiqBackend

__all__ = ["broker"]


def _make_broker() -> dramatiq.Broker:
    manager = load_application()
    if manager.enqueue_only:
        raise ConfigurationError("enqueue_only is set (ANYJOB_ENQUEUE_ONLY?): no worker starts here.")
    backend = manager.backend(manager.worker_backend)
    if not isinstance(backend, DramatiqBackend):
        raise ConfigurationError(
            f"Backend {manager.worker_backend!r}, which this worker is to serve, is not Dramatiq's. Set "
            "ANYJOB_WORKER_BACKEND to the alias of one that is, or run `anyjob worker`."
        )
    manager.registry.check(manager.executor.serializer)
    return backend.worker_broker(manager.executor, manager.worker_options)


broker = _make_broker()
dramatiq.set_broker(broker)  # `dramatiq anyjob_dramatiq.app` takes the global one
