"""The application for Celery's own commands: `celery -A anyjob_celery.app worker`, `... inspect`, `... flower`."""

from __future__ import annotations

import sys

from anyjob.current import load_application
from anyjob.errors import ConfigurationError
from anyjob_celery.application import make_application
from anyjob_celery.backend import CeleryBackend

__all__ = ["app"]

if "" not in sys.path:
    sys.path.insert(0, "")  # the application's modules are here, as `python -m` would find them

_manager = load_application()
_backend = _manager.backend(_manager.worker_backend)
if not isinstance(_backend, CeleryBackend):
    raise ConfigurationError(
        f"Backend {_manager.worker_backend!r} does not run on Celery. Name the one that does: "
        "ANYJOB_WORKER_BACKEND=<alias>, or `anyjob worker --backend <alias>`."
    )
app = make_application(_backend, _manager.executor, stop_timeout=_manager.worker_options.stop_timeout)
