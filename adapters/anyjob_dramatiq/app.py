"""The module for Dramatiq's command line: `dramatiq anyjob_dramatiq.app -p 2 -t 8`. To import it makes the broker.

It serves the backend that the settings name (`ANYJOB_APP`, `ANYJOB_WORKER_BACKEND`); `--queues` are logical ones.
"""

from __future__ import annotations

import dramatiq

from anyjob.current import load_served
from anyjob_dramatiq.backend import DramatiqBackend

__all__ = ["broker"]

_manager, _backend = load_served(DramatiqBackend)  # type: ignore[type-abstract]  # a kind, not to be made
broker = _backend.worker_broker(_manager.executor, _manager.worker_options)
dramatiq.set_broker(broker)  # `dramatiq anyjob_dramatiq.app` takes the global one
